"""Makes the golden set of internal/goldens/testdata from the reference libraries (scripts/golden/README.md).

Run:  "$(scripts/python/environment)" scripts/golden/make.py OUT [--seed N] [--only PART,...]
"""

import argparse
import importlib
import pathlib
import subprocess
import time

import torch

import common

PARTS = ["stories", "serve_models", "serve_adapters", "text", "chat", "sampling", "gradients", "curves", "fourbit", "data",
    "metrics"]


def metrics(out, seed):
    """Runs metrics.py, in the environment of the tools for metrics."""
    here = pathlib.Path(__file__).resolve().parent
    python = subprocess.run([here.parent / "python" / "environment", "data"], check=True, stdout=subprocess.PIPE, text=True)
    subprocess.run([python.stdout.strip(), here / "metrics.py", out, "--seed", str(seed)], check=True)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--seed", type=int, default=common.SEED)
    p.add_argument("--only", default=",".join(PARTS))
    args = p.parse_args()
    common.SEED = args.seed
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    for part in args.only.split(","):
        begin = time.time()
        if part == "metrics":
            metrics(args.out, args.seed)
        else:
            importlib.import_module(part).run(args.out)
        print(f"{part}: {time.time() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
