"""Writes quant/testdata/ggml_blocks.json: seeded random blocks of each ggml format with their values by the gguf
package, and runtime/weights/testdata/blocks.gguf: the same blocks as the tensors of a file that the gguf package wrote.

Run:  pip install gguf==0.19.0 numpy==2.4.6 && python3 scripts/golden/gguf_blocks.py
"""

import base64
import json
import pathlib
from importlib.metadata import version

import gguf
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
SEED = 20240607
ROWS = 3
FORMATS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
# where the binary16 scales of a block lie
HALVES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2],
    "Q6_K": [208]}


def blocks(rng, name):
    """Every code bit is random; scales are finite, of both signs, some subnormal, one zero."""
    kind = gguf.GGMLQuantizationType[name]
    length, size = gguf.GGML_QUANT_SIZES[kind]
    cols = 512 if length == 256 else 96
    if name == "F32":
        return kind, rng.standard_normal((ROWS, cols)).astype(np.float32)
    if name == "F16":
        return kind, rng.standard_normal((ROWS, cols)).astype(np.float16).view(np.uint8)
    if name == "BF16":
        return kind, (rng.standard_normal((ROWS,
            cols)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    raw = rng.integers(0, 256, (ROWS * cols // length, size), dtype=np.uint8)
    for at in HALVES[name]:
        half = (rng.standard_normal(len(raw)) * 0.05).astype(np.float16)
        half[1] = np.float16(3e-7)
        half[-1] = 0
        raw[:, at : at + 2] = half.view(np.uint8).reshape(-1, 2)
    return kind, raw.reshape(ROWS, -1)


def main():
    rng = np.random.default_rng(SEED)
    out = {"gguf": version("gguf"), "numpy": version("numpy"), "seed": SEED, "cases": []}
    writer = gguf.GGUFWriter(ROOT / "runtime/weights/testdata/blocks.gguf", "qwen2")
    writer.add_uint32("qwen2.block_count", 1)
    writer.add_float32("test.float", 0.1)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "héllo")
    writer.add_array("test.strings", ["", "a", "日本"])
    writer.add_array("test.ints", [1, -2, 3])
    writer.add_uint64("test.uint64", 2**63)
    writer.add_int8("test.int8", -7)
    for name in FORMATS:
        kind, raw = blocks(rng, name)
        values = gguf.dequantize(raw, kind).astype(np.float32)
        assert np.isfinite(values).all() and values.shape[0] == ROWS
        out["cases"].append(
            {
                "format": name,
                "type": int(kind),
                "rows": ROWS,
                "cols": values.shape[1],
                "blocks": base64.b64encode(raw.tobytes()).decode(),
                "values": base64.b64encode(values.astype("<f4").tobytes()).decode(),
            }
        )
        writer.add_tensor(f"blk.0.{name.lower()}.weight", raw, raw_dtype=None if name == "F32" else kind)
    (ROOT / "quant/testdata/ggml_blocks.json").write_text(json.dumps(out, indent=1) + "\n")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
