"""Measures the tokenizers library on one thread: tokenizer.py tokenizer.json text...

Prints for each text the MB/s of its first encoding, with a new tokenizer, and of the best of three after it.
BenchmarkEncode and BenchmarkEncodeCold of runtime/tokenizer measure weft's on the same texts, named in
WEFT_BENCH_TEXT.
"""

import os
import sys
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizers import Tokenizer


def rate(tokenizer, text):
    size = len(text.encode())
    begin = time.perf_counter()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return size / (time.perf_counter() - begin) / 1e6, len(ids)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    for path in sys.argv[2:]:
        with open(path, encoding="utf-8", newline="") as f:
            text = f.read()
        tokenizer = Tokenizer.from_file(sys.argv[1])
        cold, ids = rate(tokenizer, text)
        best = max(rate(tokenizer, text)[0] for _ in range(3))
        name = os.path.basename(path)
        print(f"{name:30} {ids:8} ids  first {cold:7.2f} MB/s  best of 3 {best:7.2f} MB/s", flush=True)


main()
