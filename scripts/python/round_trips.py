"""Reads what weft writes with the libraries that users load it with. `make test-python` runs it.

  PEFT           loads every tensor of every kind of adapter that weft trains, and computes the log-probabilities that
                 the trainer recorded (parity.json)
  PEFT           trains adapters of every init_lora_weights, which weft serves (init_cases.py)
  torch          moves all weights as weft does, with Trainer's weight decay and 8-bit states (optim_cases.py)
  transformers   loads what full finetuning writes and computes them too
  TensorBoard    reads the events: the figures of run.json
  transformers   stops early where weft does (train_cases.py)
  Jinja2         renders the templates of jinja_cases.py, in transformers' environment, as package jinja does
  transformers   makes of a drawn config.json what package model does (config_cases.py)
  tokenizers     encodes texts with drawn tokenizer.json files, and every character, to the same ids (tokenizer_cases.py)
  transformers   reads special and added tokens, and chat templates, of drawn folders (token_files_cases.py)
  tokenizers     decodes the ids of completions to the texts that weft answers, prompts of random ids included
  bitsandbytes   dequantizes weft's NF4 and FP4, plain and with double quantization, to the same values bit for bit, and
                 chooses the same codes for the same weights

Log-probabilities may differ by TOLERANCE (float32 on both sides, sums in different orders). Without the adapter they
must differ by more than ten times that.
"""
import argparse
import copy
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

import config_cases
import init_cases
import jinja_cases
import saved_cases
import mean_cases
import optim_cases
import text_cases
import train_cases
import tiny_models
import tokenizer_cases
import token_files_cases
from checks import Checks

warnings.simplefilter("ignore", FutureWarning)
TOLERANCE = 2e-4
BF16_TOLERANCE = 0.05  # where both round weights, and weft products too, to 8 bits of mantissa
TINY = ["--r", "4", "--lora-alpha", "8", "--learning-rate", "1e-2", "--max-steps", "5", "--per-device-train-batch-size",
    "4", "--save-steps", "0"]
VARIANTS = {
    "lora": [],
    "rank 1": ["--r", "1"],
    "rslora": ["--use-rslora"],
    "dora": ["--use-dora"],
    "dora and rslora": ["--use-dora", "--use-rslora", "--target-modules", "o_proj,down_proj"],
    "patterns": ["--rank-pattern", "o_proj=2,layers.0.mlp.down_proj=6", "--alpha-pattern", "down_proj=3"],
    "one block": ["--layers-to-transform", "0"],
    "embedding and head": ["--target-modules", "embed_tokens,lm_head,o_proj"],
    "head, dora": ["--target-modules", "o_proj,lm_head", "--use-dora"],
    "whole head, embedding": ["--target-modules", "o_proj,embed_tokens", "--modules-to-save", "lm_head"],
    "whole modules": ["--modules-to-save", "embed_tokens,lm_head"],
    "whole head": ["--modules-to-save", "lm_head"],
    "expression": ["--target-modules", r".*\.[02]\.self_attn\.(q|v|qkv)_proj"],
    "bias": ["--bias", "lora_only"],
    "all biases": ["--bias", "all"],
}


def train(weft, out, model, data, *flags):
    """Runs `weft train` and returns run.json."""
    done = subprocess.run([weft, "train", "--model", model, "--data", data, "--out", out, *flags], capture_output=True,
        text=True)
    if done.returncode:
        raise RuntimeError(f"weft train {' '.join(map(str, flags))}: status {done.returncode}\n{done.stderr}")
    return json.loads((out / "run.json").read_text())


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
        attn_implementation="eager").eval()


def distance(model, folder):
    """The largest difference of the model's log-probabilities from those recorded in the folder's parity.json."""
    prompts = json.loads((folder / "parity.json").read_text())["prompts"]
    assert prompts, "parity.json has no prompt"
    most = 0.0
    with torch.no_grad():
        for p in prompts:
            got = model(torch.tensor([p["ids"]])).logits[0, -1].double().log_softmax(-1)
            most = max(most, (got[p["top"]] - torch.tensor(p["logprobs"], dtype=torch.float64)).abs().max().item())
    return most


def equal(got, want, what, tolerance=TOLERANCE):
    assert got <= tolerance, f"{what}: log-probabilities differ by {got:.2e}, at most {tolerance:.0e}"
    assert want > 10 * tolerance, f"{what}: without the adapter they differ by {want:.2e} only: the check says nothing"
    return f"{got:.1e}, without the adapter {want:.2f}"


def adapter_in_peft(base, adapter):
    """PEFT loads every tensor of the adapter, reads the configuration as written, and computes what was recorded."""
    written = json.loads((adapter / "adapter_config.json").read_text())
    known = LoraConfig(task_type="CAUSAL_LM").to_dict()
    missing = known.keys() - written.keys() - {"peft_version"}
    assert not missing, f"adapter_config.json leaves {sorted(missing)} to PEFT's defaults"
    assert not written.keys() - known.keys(), f"PEFT does not know {sorted(written.keys() - known.keys())}"
    without = distance(base, adapter)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of tensors that are missing or superfluous
        warnings.filterwarnings("ignore",
            "Model has `tie_word_embeddings=True`")  # weft trains such adapters as PEFT computes them, and warns too
        model = PeftModel.from_pretrained(base, adapter).eval()
    read = model.peft_config["default"].to_dict()
    for key, value in written.items():
        meant = sorted(value) if key == "target_modules" and isinstance(value, list) else value
        got = sorted(read[key]) if key == "target_modules" and isinstance(read[key], (list, set)) else read[key]
        assert got == meant, f"PEFT reads {key} as {got}, written was {value}"
    file, taken = load_file(adapter / "adapter_model.safetensors"), get_peft_model_state_dict(model,
        save_embedding_layers=False)
    assert file.keys() == taken.keys(), f"PEFT has {sorted(taken.keys() ^ file.keys())} otherwise"
    for name, t in file.items():
        assert torch.equal(t, taken[name]), name
    return equal(distance(model, adapter), without, "the adapter in PEFT")


def lora(a, out, folder, data, flags):
    train(a.weft, out, folder, data, *TINY, *flags)
    return adapter_in_peft(load(folder), out / "adapter")


def qlora(a, out, folder, data, kind):
    """The base that QLoRA trains on is the one that bitsandbytes makes."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    train(a.weft, out, folder, data, *TINY, "--load-in-4bit", "--bnb-4bit-quant-type", kind)
    base = load(folder)
    plain = distance(base, out / "adapter")
    for name, m in base.named_modules():
        if isinstance(m, torch.nn.Linear) and name != "lm_head":
            m.weight.data = dequantize_4bit(*quantize_4bit(m.weight.data, blocksize=64, quant_type=kind,
                compress_statistics=False))
    note = adapter_in_peft(base, out / "adapter")
    assert plain > 10 * TOLERANCE
    return note


def full(a, out, folder, data, tolerance, *flags):
    train(a.weft, out, folder, data, "--method", "full", "--learning-rate", "1e-3", "--max-steps", "5", "--save-steps",
        "0", *flags)
    return equal(distance(load(out / "model"), out / "model"), distance(load(folder), out / "model"),
        "the trained model in transformers", tolerance)


def curves(out, run):
    """Every figure of the curve is in the events once, as float32."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(out / "events"), size_guidance={"scalars": 0})
    events.Reload()
    seen = 0
    for tag, points in {
        "train/loss": [(s["step"], s["loss"]) for s in run["curve"]],
        "train/grad_norm": [(s["step"], s["grad_norm"]) for s in run["curve"]],
        "train/learning_rate": [(s["step"], s["lr"]) for s in run["curve"]],
        "eval/loss": [(e["step"], e["loss"]) for e in run["evaluations"]],
    }.items():
        got = [(e.step, np.float32(e.value)) for e in events.Scalars(tag)]
        want = [(step, np.float32(v)) for step, v in points]
        assert got == want, f"{tag}: {sorted(set(got) ^ set(want))} differ"
        seen += len(got)
    assert seen >= 17 and abs(events.FirstEventTimestamp() - time.time()) < 3600
    return f"{seen} values"


def tensorboard(a, out, folder, data):
    return curves(out, train(a.weft, out, folder, data, *TINY, "--eval-data", data, "--allow-overlap",
        "--eval-steps", "2"))


def resumed(a, out, folder, data):
    """A run that is killed before its first checkpoint, stopped, and killed again resumes each time; its curve has
    every step once."""
    flags = [*TINY, "--eval-data", data, "--allow-overlap", "--max-steps", "400", "--eval-steps", "7",
        "--save-steps", "11", "--resume"]
    for stop, after in ((signal.SIGKILL, 5), (signal.SIGINT, 30), (signal.SIGKILL, 70)):
        with subprocess.Popen([a.weft, "train", "--model", folder, "--data", data, "--out", out, *flags],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as p:
            for line in p.stderr:
                if f" step={after} " in line:
                    p.send_signal(stop)
        assert p.returncode != 0, "the run ended before it could be stopped"
    run = train(a.weft, out, folder, data, *flags)
    assert len(run["curve"]) == 400
    return curves(out, run)


def matrices():
    """Values that are hard to quantize: normal, outliers, blocks of zeros, tiny and huge; columns in whole blocks, as
    bitsandbytes' CPU kernels need."""
    g = torch.Generator().manual_seed(7)
    normal = torch.randn(48, 192, generator=g)
    outliers = torch.randn(64, 320, generator=g)
    outliers[torch.rand(64, 320, generator=g) < 0.01] *= 40
    zeros = torch.randn(40, 128, generator=g)
    zeros[3:9] = 0
    spread = torch.randn(96, 64, generator=g) * torch.logspace(-30, 30, 96)[:, None]
    return {"normal": normal, "outliers": outliers, "zeros": zeros, "spread": spread}


def bitsandbytes(x, packs, prefix, kind, double):
    from bitsandbytes.functional import QuantState, create_dynamic_map, dequantize_4bit, get_4bit_type, quantize_4bit
    packed, absmax = packs[prefix + "packed"].reshape(-1, 1), packs[prefix + "absmax"]
    codes, state = quantize_4bit(x, blocksize=64, quant_type=kind, compress_statistics=False)
    assert torch.equal(codes.reshape(-1), packed.reshape(-1)), "bitsandbytes chooses other codes"
    nested = {}
    if double:
        nested = {"offset": packs[prefix + "offset"].reshape(()), "state2": QuantState(absmax=absmax, blocksize=256,
            code=create_dynamic_map(), dtype=torch.float32)}
        absmax = packs[prefix + "codes"]
    else:
        assert torch.equal(state.absmax, absmax), "bitsandbytes has other scales"
    mine = QuantState(absmax=absmax, shape=x.shape, code=get_4bit_type(kind, device="cpu"), blocksize=64,
        quant_type=kind, dtype=torch.float32, **nested)
    values = dequantize_4bit(packed, mine)
    want = packs[prefix + "values"]
    # + 0.0 makes -0 zero: bitsandbytes gives the sign of FP4's zero on some instruction sets and not on others
    same = torch.equal((values + 0.0).view(torch.int32), (want + 0.0).view(torch.int32))
    assert same, f"{(values != want).sum()} of {want.numel()} values differ"
    return f"{want.numel()} values"


def four_bits(check, a, work):
    xs = matrices()
    save_file({k: v.contiguous() for k, v in xs.items()}, work / "x.safetensors")
    subprocess.run([a.fourbit, work / "x.safetensors", work / "q.safetensors"], check=True)
    packs = load_file(work / "q.safetensors")
    for name, x in xs.items():
        for kind in ("nf4", "fp4"):
            for double in (False, True):
                check(f"bitsandbytes, {kind}{' with double quantization' if double else ''}, {name}", bitsandbytes, x,
                    packs, f"{name}.{kind}.{str(double).lower()}.", kind, double)


def smollm2(check, a, work, data):
    """The default model, which transformers reads out of the same GGUF file."""
    path = pathlib.Path(a.model)
    flags = ["--vars", "name=Ada,company=Acme", "--max-steps", "3", "--learning-rate", "2e-3", "--save-steps", "0",
        "--max-length", "256"]
    base = []

    def one(name, more):
        out = work / f"smollm2 {name}"
        train(a.weft, out, path, data, *flags, *more)
        if not base:
            base.append(transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name,
                dtype=torch.float32).eval())
        return adapter_in_peft(copy.deepcopy(base[0]), out / "adapter")

    check("PEFT, SmolLM2, lora", one, "lora", [])
    check("PEFT, SmolLM2, dora", one, "dora", ["--use-dora", "--target-modules", "q_proj,v_proj"])


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--weft", required=True)
    p.add_argument("--fourbit", required=True)
    p.add_argument("--jinja", required=True)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--goldens", required=True)
    p.add_argument("--only", default="", help="expression: the checks to make")
    a = p.parse_args()
    check = Checks(a.only)
    check("Jinja2", jinja_cases.check, a.jinja)
    config_cases.run(check, a)
    text_cases.run(check, a)
    tokenizer_cases.run(check, a)
    token_files_cases.run(check, a)
    text = pathlib.Path("README.md").read_text().split("\n\n")
    with tempfile.TemporaryDirectory() as t:
        work = pathlib.Path(t)
        data = work / "data.jsonl"
        pairs = [{"prompt": s[:40], "completion": s[40:140]} for s in text if len(s) > 60]
        data.write_text("".join(json.dumps(p) + "\n" for p in pairs))
        models = tiny_models.make(work, a.goldens, text)
        for name, folder in models.items():
            config = json.loads((folder / "config.json").read_text())
            for variant, flags in VARIANTS.items():
                if "bias" not in variant or config["model_type"] == "qwen2":
                    check(f"PEFT, {name}, {variant}", lora, a, work / f"{name} {variant}", folder, data, flags)
            check(f"transformers, {name}, full", full, a, work / f"{name} full", folder, data, TOLERANCE)
        check("transformers, llama, full in bf16", full, a, work / "bf16", models["llama"], data, BF16_TOLERANCE,
            "--bf16")
        check("transformers, llama, from scratch", full, a, work / "scratch", models["llama"], data, TOLERANCE,
            "--init", "random")
        for kind in ("nf4", "fp4"):
            check(f"PEFT and bitsandbytes, QLoRA on {kind}", qlora, a, work / kind, models["llama"], data, kind)
        check("TensorBoard", tensorboard, a, work / "events", models["llama"], data)
        check("TensorBoard, stopped and killed", resumed, a, work / "resumed", models["llama"], data)
        init_cases.run(check, a, work, models)
        train_cases.run(check, train, a, work, models, data)
        saved_cases.run(check, a, work, models)
        optim_cases.run(check, a, work, models)
        four_bits(check, a, work)
        mean_cases.run(check, a, work)
        smollm2(check, a, work, "docs/demo/identity.jsonl")
    print(f"test-python: {check.passed} passed, {check.failed} failed")
    sys.exit(1 if check.failed else 0)


if __name__ == "__main__":
    main()
