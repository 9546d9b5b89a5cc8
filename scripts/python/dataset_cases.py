"""Data sets that `weft data` writes are loaded by the library datasets, those that it writes are read by weft, and
datasketch finds no near duplicate that weft does not find."""
import hashlib
import json
import pathlib
import random
import re
import resource
import subprocess
import sys
import tempfile
import time

import datasets
import pyarrow
import pyarrow.parquet
from datasketch import MinHash, MinHashLSH

THRESHOLD = 0.8


def weft(a, *args, status=0):
    done = subprocess.run([a.weft, "data", *map(str, args)], capture_output=True, text=True)
    assert done.returncode == status, (args, done.stdout, done.stderr)
    return done.stdout if status == 0 else done.stderr


def present(v):
    """The value without absent members, which Arrow has as null."""
    if isinstance(v, dict):
        return {k: present(x) for k, x in v.items() if x is not None}
    return [present(x) for x in v] if isinstance(v, list) else v


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def text(r, n=None):
    words = "the a of in model tune weight 你好 世界 naïve 🎉 \"quote\" back\\slash line\nbreak tab\there".split(" ")
    return " ".join(r.choice(words) for _ in range(n or r.randrange(1, 12)))


def conversation(r, i):
    messages = [{"role": "user", "content": text(r)}]
    if i % 3 == 1:
        call = {"id": f"call_{i}", "type": "function", "function": {"name": "f", "arguments": json.dumps({"q": text(r)})}}
        messages += [{"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": text(r), "tool_call_id": f"call_{i}"}]
    messages.append({"role": "assistant", "content": text(r), **({"weight": 0} if i % 3 == 2 else {})})
    if i % 3 == 2:
        messages += [{"role": "user", "content": text(r)}, {"role": "assistant", "content": text(r)}]
    return {"messages": messages, **({"user": f"u{i % 5}"} if i % 2 else {})}


def alpaca(r, i):
    row = {"instruction": text(r), "input": text(r) if i % 2 else "", "output": text(r)}
    if i % 3 == 0:
        row |= {"system": text(r), "history": [[text(r), text(r)] for _ in range(i % 4)]}
    return row


def load(kind, path, cache):
    return datasets.load_dataset(kind, data_files=str(path), cache_dir=str(cache), split="train")


def written(a):
    """Every format as JSON Lines and Parquet has, loaded by datasets, the values that were converted."""
    r = random.Random()
    with tempfile.TemporaryDirectory() as d:
        d = pathlib.Path(d)
        source = {"messages": conversation, "alpaca": alpaca}
        for to, make in source.items():
            (d / "in.jsonl").write_text("".join(json.dumps(make(r, i)) + "\n" for i in range(300)))
            weft(a, "convert", d / "in.jsonl", "--to", to, "--out", d / f"{to}.jsonl")
            weft(a, "convert", d / "in.jsonl", "--to", to, "--out", d / f"{to}.parquet")
            weft(a, "convert", d / "in.jsonl", "--to", to, "--out", d / f"{to}.jsonl.zst")
        weft(a, "convert", d / "alpaca.parquet", "--to", "sharegpt", "--out", d / "sharegpt.jsonl")
        weft(a, "convert", d / "alpaca.parquet", "--to", "sharegpt", "--out", d / "sharegpt.parquet")
        for to in ("messages", "alpaca", "sharegpt"):
            want = [present(row) for row in rows(d / f"{to}.jsonl")]
            for kind, path in (("json", d / f"{to}.jsonl"), ("parquet", d / f"{to}.parquet")):
                got = load(kind, path, d / "cache")
                assert len(got) == 300 and [present(row) for row in got] == want, (to, kind, got[1], want[1])
        first = load("parquet", d / "messages.parquet", d / "cache")
        assert "messages" in first.column_names and first.features["messages"].feature["role"].dtype == "string"


def split_folder(a):
    """The sides of a split are loaded by datasets, and the digests in the list of samples are those of their lines."""
    r = random.Random()
    with tempfile.TemporaryDirectory() as d:
        d = pathlib.Path(d)
        (d / "in.jsonl").write_text("".join(json.dumps(conversation(r, i)) + "\n" for i in range(400)))
        weft(a, "split", d / "in.jsonl", "--out", d / "set", "--test", 0.1)
        manifest = json.loads((d / "set/manifest.json").read_text())
        got = datasets.load_dataset("json", data_files={s: str(d / f"set/{s}.jsonl") for s in manifest["sides"]},
            cache_dir=str(d / "cache"))
        weft(a, "split", d / "in.jsonl", "--out", d / "two")  # without a test side
        for folder, sides in (("set", ["train", "validation", "test"]), ("two", ["train", "validation"])):
            loaded = datasets.load_dataset(str(d / folder), cache_dir=str(d / "cache"))
            assert sorted(loaded) == sorted(sides), (folder, loaded)
            assert all(loaded[s].num_rows == len(rows(d / folder / f"{s}.jsonl")) for s in sides), loaded
        digests = {}
        for side, f in manifest["sides"].items():
            data = (d / f"set/{side}.jsonl").read_bytes()
            assert len(got[side]) == f["samples"] and hashlib.sha256(data).hexdigest() == f["sha256"]
            digests |= {hashlib.sha256(line).hexdigest(): side for line in data.splitlines()}
        with pyarrow.input_stream(str(d / "set/samples.jsonl.zst"), compression="zstd") as f:
            listed = {row["digest"]: row["side"] for row in map(json.loads, f.read().splitlines())
                if row["side"] != "removed"}
        assert listed == digests


def read(a):
    """What datasets and pyarrow write is read: Parquet with every compression, dictionaries, lists, missing fields and
    large strings; CSV; JSON; and a folder of save_to_disk by the line of Python that the refusal shows."""
    r = random.Random()
    with tempfile.TemporaryDirectory() as d:
        d = pathlib.Path(d)
        source = [{"user": None, **conversation(r, i)} for i in range(500)]
        ds = datasets.Dataset.from_list(source)
        (d / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in source))
        weft(a, "convert", d / "in.jsonl", "--out", d / "want.jsonl")
        want = (d / "want.jsonl").read_text()
        table = ds.data.table
        large = pyarrow.table({"messages": table["messages"], "user": table["user"].cast(pyarrow.large_string())})
        coded = table.set_column(table.schema.get_field_index("user"), "user", table["user"].dictionary_encode())
        codecs = ("none", "snappy", "gzip", "zstd", "brotli")
        for i, (t, o) in enumerate([(table, {"compression": c}) for c in codecs] + [
                (table, {"data_page_version": "2.0", "row_group_size": 37}), (table, {"use_dictionary": False}),
                (table, {"data_page_size": 256}), (large, {}), (coded, {}),
                (table, {"use_compliant_nested_type": False})]):
            pyarrow.parquet.write_table(t, d / f"{i}.parquet", **o)
            weft(a, "convert", d / f"{i}.parquet", "--out", d / "got.jsonl")
            assert (d / "got.jsonl").read_text() == want, (i, o)
        pyarrow.parquet.write_table(table, d / "IN.parquet", compression="lz4")
        say = weft(a, "convert", d / "IN.parquet", "--out", d / "x.jsonl", status=1)
        line = re.search(r"write the file anew with: (python -c '.*')", say).group(1)
        subprocess.run(["bash", "-c", line.replace("python", sys.executable, 1)], check=True, cwd=d)
        weft(a, "convert", d / "OUT.parquet", "--out", d / "got.jsonl")
        assert (d / "got.jsonl").read_text() == want, "LZ4"
        ds.to_json(d / "out.jsonl")
        ds.to_parquet(d / "out.parquet")
        flat = datasets.Dataset.from_list([{"question": text(r), "answer": text(r)} for _ in range(200)])
        flat.to_csv(d / "qa.csv")
        flat.to_json(d / "qa.json", lines=False)
        for name, n in (("out.jsonl", 500), ("out.parquet", 500), ("qa.csv", 200), ("qa.json", 200)):
            assert f"{n} samples" in weft(a, "convert", d / name, "--out", d / "got.jsonl"), name
            if n == 500:
                assert (d / "got.jsonl").read_text() == want, name
            else:
                got = [tuple(m["content"] for m in row["messages"]) for row in rows(d / "got.jsonl")]
                assert got == [(row["question"], row["answer"]) for row in flat], name
        ds.save_to_disk(d / "disk")
        datasets.DatasetDict({"train": ds, "test": ds}).save_to_disk(d / "dict")
        for folder, made in (("disk", "disk.jsonl"), ("dict", "dict-test.jsonl")):
            say = weft(a, "convert", d / folder, "--out", d / "x.jsonl", status=1)
            line = re.search(r"convert it with: (python -c .*)$", say, re.M).group(1)
            subprocess.run(["bash", "-c", line.replace("python", sys.executable, 1)], check=True, capture_output=True)
            weft(a, "convert", d / made, "--out", d / "got.jsonl")
            assert (d / "got.jsonl").read_text() == want, folder


def near_rows(r, n):
    """Texts of which many are versions of others."""
    out = []
    for _ in range(n):
        if out and r.random() < 0.4:
            words = list(r.choice(out))
            for _ in range(r.randrange(12)):
                words[r.randrange(len(words))] = f"w{r.randrange(9000)}"
        else:
            words = [f"w{r.randrange(9000)}" for _ in range(r.randrange(40, 200))]
        out.append(words)
    return out


def shingles(words):
    return {" ".join(words[i:i + 5]) for i in range(max(1, len(words) - 4))}


def near(a):
    """On the same rows in the same order, with the same shingles and threshold, each pair that datasketch's index gives
    and whose Jaccard index is at the threshold is found."""
    r = random.Random()
    texts = near_rows(r, 3000)
    sets = [shingles(words + ["."]) for words in texts]
    before = time.process_time()
    lsh, theirs = MinHashLSH(threshold=THRESHOLD, num_perm=128), set()
    for i, s in enumerate(sets):
        m = MinHash(num_perm=128)
        m.update_batch([x.encode() for x in s])
        if any(len(s & sets[k]) >= THRESHOLD * len(s | sets[k]) for k in lsh.query(m)):
            theirs.add(i)
        else:
            lsh.insert(i, m)
    took = time.process_time() - before
    with tempfile.TemporaryDirectory() as d:
        d = pathlib.Path(d)
        (d / "in.jsonl").write_text("".join(
            json.dumps({"prompt": " ".join(words), "completion": "."}) + "\n" for words in texts))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        out = json.loads(weft(a, "split", d / "in.jsonl", "--out", d / "set", "--validation", 0, "--dedup", "near",
            "--threshold", THRESHOLD, "--json"))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        ours = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found = out["removed"]["near"] + out["removed"]["exact"]
        assert found >= len(theirs), (found, len(theirs))
    return f"{found} duplicates, datasketch {len(theirs)}; CPU time {ours:.2f} s, datasketch {took:.2f} s"


def run(check, a):
    datasets.disable_progress_bars()
    check("datasets loads what weft data convert writes", written, a)
    check("datasets loads the sides of weft data split", split_folder, a)
    check("weft reads what datasets and pyarrow write", read, a)
    check("datasketch finds no more near duplicates", near, a)
