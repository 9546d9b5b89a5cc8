"""The offset of double quantization, the mean of the block scales, which must be torch's bit for bit.

  mean_cases.py --write   writes the fixture, quant/testdata/means.json, for `go test ./quant`

Otherwise round_trips.py calls run, with random scales and every number of blocks from 1 to 5000, 40,000 and 262,144.
torch must have one thread: with more it divides long sums among them.
"""
import json
import pathlib
import subprocess
import sys

import numpy
import torch
from safetensors.torch import load_file, save_file

FIXTURE = pathlib.Path(__file__).parents[2] / "quant/testdata/means.json"
SIZES = [*range(1, 5001), 40_000, 262_144]


def means(values):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return torch.stack([v.mean() for v in values])
    finally:
        torch.set_num_threads(threads)


def offsets(a, work):
    seed = torch.seed() % 2 ** 32
    g = torch.Generator().manual_seed(seed)
    pool = torch.rand(max(SIZES), generator=g) + torch.randn(max(SIZES), generator=g).abs()
    starts = [torch.randint(0, len(pool) - n + 1, (), generator=g).item() for n in SIZES]
    save_file({"pool": pool, "sizes": torch.tensor(SIZES), "starts": torch.tensor(starts)}, work / "pool.safetensors")
    subprocess.run([a.fourbit, "-offsets", work / "pool.safetensors", work / "offsets.safetensors"], check=True)
    want = means(pool[s:s + n] for s, n in zip(starts, SIZES))
    got = load_file(work / "offsets.safetensors")["offsets"]
    wrong = [SIZES[i] for i in (got != want).nonzero().flatten().tolist()]
    assert not wrong, f"seed {seed}: other means for {len(wrong)} sizes: {wrong[:20]}"
    return f"{len(SIZES)} sizes"


def run(check, a, work):
    check("torch, offsets of double quantization", offsets, a, work)


def write():
    sizes = [*range(1, 70), *range(70, 2000, 37), 2047, 2048, 2049, 2080, 4095, 4096, 4999, 5000, 8192, 16_385, 40_000,
        65_537, 262_144]
    out = []
    for n in sizes:
        i = numpy.arange(n, dtype=numpy.uint64)
        x = ((i * 2654435761 + n * 40503) % 2 ** 32 >> numpy.uint64(8)).astype(numpy.float32) / numpy.float32(2 ** 24)
        out.append({"n": n, "bits": int(means([torch.from_numpy(x)]).view(torch.int32).item()) & 0xffffffff})
    FIXTURE.write_text("[" + ",\n".join(map(json.dumps, out)) + "]\n")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
