"""Which parameters decay and which have 8-bit optimizer states, as transformers' Trainer chooses them.

  optim_cases.py --write   writes the fixture, finetune/train/testdata/gemma3, for `go test ./finetune/train`

Otherwise round_trips.py calls run: weft and torch train the same models on the same samples, each step on all of them;
the weights must move alike. The groups are those of Trainer.get_decay_parameter_names, and the 8-bit optimizer is
bitsandbytes' with Trainer's override for embeddings.
"""
import json
import pathlib
import shutil
import sys

import bitsandbytes
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

FIXTURE = pathlib.Path(__file__).parents[2] / "finetune/train/testdata/gemma3"
LENGTH = 32


def optimizer_of(model, kind, decay, on, lr):
    """The optimizer that Trainer.create_optimizer makes."""
    decayed = set(transformers.Trainer.get_decay_parameter_names(None, model))
    groups = [([], decay), ([], 0.0)]
    for name, p in model.named_parameters():
        if p.requires_grad:
            groups[0 if on == "all" or name in decayed else 1][0].append(p)
    groups = [{"params": p, "weight_decay": d} for p, d in groups if p]
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8)
    made = bitsandbytes.optim.AdamW8bit(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8)
    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    manager.module_weight_config_triple = []  # of the models before
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})
    return made


def train(model, ids, steps, kind, decay, on, lr, clip=1.0):
    """Trains on all samples at every step; returns the losses and gradient norms."""
    model.train()
    optimizer = optimizer_of(model, kind, decay, on, lr)
    trained = [p for p in model.parameters() if p.requires_grad]
    curve = []
    for _ in range(steps):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, clip)
        optimizer.step()
        optimizer.zero_grad()
        curve.append({"loss": loss.item(), "grad_norm": norm.item(), "lr": lr, "targets": ids.numel() - len(ids)})
    return curve


def moved(got, want, start):
    """The largest distance of any tensor from the expected one, as a fraction of how far all moved (per value), and
    which."""
    size = sum((want[k] - start[k]).square().sum().item() for k in want)
    count = sum(v.numel() for v in want.values())
    typical = (size / count) ** 0.5
    return max(((got[k] - want[k]).square().mean().sqrt().item() / typical, k) for k in want)


def against_torch(a, out, folder, settings, flags):
    import round_trips
    lr, steps = 3e-3, 8
    data = out.with_suffix(".jsonl")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = pathlib.Path("README.md").read_text().replace("\n", " ")
    pieces = [text[i:i + 400] for i in range(0, 3200, 400)]
    data.write_text("".join(json.dumps({"text": s}) + "\n" for s in pieces))
    ids = torch.tensor([tokenizer.encode(s).ids[:LENGTH] for s in pieces])
    kind, decay, on = settings
    common = ["--learning-rate", str(lr), "--lr-scheduler-type", "constant", "--max-steps", str(steps),
        "--warmup-ratio", "0", "--max-length", str(LENGTH), "--train-on", "all", "--per-device-train-batch-size",
        str(len(pieces)), "--weight-decay", str(decay), "--weight-decay-on", on, "--optim", kind, "--save-steps", "0"]
    round_trips.train(a.weft, out, folder, data, *common, *flags)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    result = load_file(out / "model/model.safetensors")
    start = {k: v.clone() for k, v in model.state_dict().items() if k in result}
    train(model, ids, steps, kind, decay, on, lr)
    own = model.state_dict()
    # a bias of the keys does not change the softmax: its gradient is rounding alone, and Adam makes steps of it
    error, name = moved(result, {k: own[k] for k in result if not k.endswith("k_proj.bias")}, start)
    assert error <= (0.002 if kind == "adamw" else 0.05), f"{name} is {error:.3f} of the way from where torch moves it"
    return f"{error:.1e} of the way"


def run(check, a, work, models):
    for name in ("llama", "llama-tied", "qwen2", "qwen3", "phi3", "gemma2", "gemma3"):
        for kind, on in (("adamw", "weights"), ("adamw", "all"), ("adamw_8bit", "weights")):
            check(f"torch, {name}, full, {kind}, decay on {on}", against_torch, a, work / f"{name} {kind} {on}",
                models[name], (kind, 0.5, on), ["--method", "full"])


def write():
    """A Gemma 3 whose tied embedding is large enough for 8 bits, and what becomes of it in float64 (AdamW) and in
    float32 (AdamW8bit)."""
    shutil.rmtree(FIXTURE, ignore_errors=True)
    torch.manual_seed(2)
    config = transformers.Gemma3TextConfig(vocab_size=272, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8, sliding_window=8,
        max_position_embeddings=64, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for p in model.parameters():
        if p.dim() == 2:
            p.data.normal_(0, 1.2 / p.shape[1] ** 0.5)
        else:
            p.data.add_(0.3 * torch.randn_like(p))
    model.save_pretrained(FIXTURE / "model")
    (FIXTURE / "model/generation_config.json").unlink()
    ids = torch.randint(1, 60, (6, 16), generator=torch.Generator().manual_seed(9))
    (FIXTURE / "samples.json").write_text(json.dumps(ids.tolist()))
    for name, kind, on, dtype in (("weights", "adamw", "weights", torch.float64), ("all", "adamw", "all",
        torch.float64), ("8bit", "adamw_8bit", "weights", torch.float32)):
        model = transformers.AutoModelForCausalLM.from_pretrained(FIXTURE / "model", dtype=dtype,
            attn_implementation="eager")
        settings = dict(lr=3e-3, decay=0.5, clip=1.0)
        curve = train(model, ids, 8, kind, settings["decay"], on, settings["lr"], settings["clip"])
        (FIXTURE / f"curve_{name}.json").write_text(json.dumps({"schedule": "constant", "lr": settings["lr"],
            "warmup": 0, "steps": 8, "accumulation": 1, "weight_decay": settings["decay"], "clip": settings["clip"],
            "f64": curve}))
        kept = {k: v.float().contiguous() for k, v in model.state_dict().items()
            if k != "lm_head.weight" and ("norm" in k or "o_proj" in k or kind != "adamw" and "embed" in k)}
        save_file(kept, FIXTURE / f"final_{name}.safetensors")
    for file in FIXTURE.glob("**/*.safetensors"):
        file.chmod(0o644)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
