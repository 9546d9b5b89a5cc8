"""Finds near duplicates of a JSON Lines file of conversations with datasketch or rensa, as their manuals show it, on two
processes: prints the seconds, the CPU time and how many rows share a bucket with an earlier one. go run ./scripts/bench
-part data runs it."""
import json
import multiprocessing
import os
import sys
import time

THRESHOLD, PERMUTATIONS, BANDS = 0.8, 128, 16


def shingles(line):
    words = " ".join(m["content"] for m in json.loads(line)["messages"]).split()
    return {" ".join(words[i:i + 5]) for i in range(max(1, len(words) - 4))}


def datasketch_hash(line):
    from datasketch import MinHash
    m = MinHash(num_perm=PERMUTATIONS)
    m.update_batch([s.encode() for s in shingles(line)])
    return m


def rensa_digest(line):
    from rensa import RMinHash
    m = RMinHash(num_perm=PERMUTATIONS, seed=42)
    m.update(list(shingles(line)))
    return m.digest()


def with_datasketch(lines, pool):
    from datasketch import MinHashLSH
    lsh, found = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS), 0
    for i, m in enumerate(pool.imap(datasketch_hash, lines, chunksize=256)):
        if lsh.query(m):
            found += 1
        else:
            lsh.insert(i, m)
    return found


def with_rensa(lines, pool):
    """rensa's digests, and buckets of bands, as its index only takes its own objects."""
    rows, found = PERMUTATIONS // BANDS, 0
    buckets = [set() for _ in range(BANDS)]
    for digest in pool.imap(rensa_digest, lines, chunksize=256):
        keys = [tuple(digest[b * rows:(b + 1) * rows]) for b in range(BANDS)]
        if any(k in bucket for k, bucket in zip(keys, buckets)):
            found += 1
        else:
            for k, bucket in zip(keys, buckets):
                bucket.add(k)
    return found


def main():
    tool, path = sys.argv[1:]
    begin = time.time()
    with multiprocessing.Pool(2) as pool, open(path) as lines:
        found = {"datasketch": with_datasketch, "rensa": with_rensa}[tool](lines, pool)
        took = time.time() - begin
        pool.close()
        pool.join()
    t = os.times()
    print(json.dumps({"seconds": took, "cpu": t.user + t.system + t.children_user + t.children_system,
        "duplicates": found}))


if __name__ == "__main__":
    main()
