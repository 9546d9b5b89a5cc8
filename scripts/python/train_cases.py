"""Training runs of weft beside what transformers decides about the same losses.

  early stopping   weft stops after the evaluation at which transformers' EarlyStoppingCallback stops Trainer, and keeps
                   the parameters that Trainer counts as the best
  extended runs    a finished run that gets more steps has the learning rates that transformers' schedulers have after
                   their state was restored into those of the new number of steps
  init adapter     weft starts from adapters that PEFT wrote with every tensor as it is there
"""
import pathlib
import random
import sys
import warnings

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

sys.path.append(str(pathlib.Path(__file__).parents[1] / "golden"))
from early_stopping import outcome

FLAGS = ["--r", "4", "--eval-steps", "1", "--save-steps", "0", "--learning-rate", "2e-2", "--lr-scheduler-type",
    "constant", "--max-steps", "14", "--per-device-train-batch-size", "2"]


def early_stopping(train, a, work, model, data):
    r = random.Random()
    stopped = 0
    for n in range(6):
        flags = [*FLAGS, "--eval-data", data, "--allow-overlap", "--seed", str(r.randrange(1 << 30))]
        losses = [e["loss"] for e in train(a.weft, work / f"stop {n}", model, data, *flags)["evaluations"]]
        falls = [x - y for x, y in zip(losses, losses[1:])]
        for _ in range(3):
            patience, threshold = r.randrange(1, 4), max(0, r.choice([0, 1e-3, 0.1, r.choice(falls), 2 * max(falls)]))
            run = train(a.weft, work / f"stop {n}", model, data, *flags, "--early-stopping-patience", str(patience),
                "--early-stopping-threshold", repr(threshold), "--overwrite-output-dir")
            evaluations, best = outcome(losses, patience, threshold)
            got = (len(run["evaluations"]), run["steps"], run["best_step"])
            assert got == (evaluations, evaluations, best + 1), (losses, patience, threshold, got, evaluations, best)
            assert evaluations == len(losses) or run["stopped"], "run.json does not say why it stopped"
            stopped += evaluations < len(losses)
    assert stopped > 3, f"only {stopped} runs stopped early"
    return f"{stopped} of 18 runs stopped early"


def extended(train, a, work, model, data):
    for kind in ("linear", "cosine", "constant", "constant_with_warmup"):
        steps, parameter, state, want = (5, 12), torch.nn.Parameter(torch.zeros(1)), None, []
        out = work / f"extended {kind}"
        for total in steps:
            optimizer = torch.optim.AdamW([parameter], lr=1e-3)
            warmup = 0 if kind == "constant" else 3
            scheduler = transformers.get_scheduler(kind, optimizer, warmup, total)
            if state:
                scheduler.load_state_dict(state[0])
                optimizer.load_state_dict(state[1])
            while len(want) < total:
                want.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                scheduler.step()
            state = scheduler.state_dict(), optimizer.state_dict()
            curve = train(a.weft, out, model, data, "--r", "2", "--learning-rate", "1e-3", "--max-steps", str(total),
                "--lr-scheduler-type", kind, "--warmup-steps", str(warmup), "--resume")["curve"]
            got = [s["lr"] for s in curve]
            # the first rate after the extension is the one that the old schedule had set
            pairs = [(x, y) for i, (x, y) in enumerate(zip(got, want, strict=True)) if i != steps[0]]
            assert all(abs(x - y) <= 1e-12 for x, y in pairs), (kind, got, want)
    return "4 schedules"


CONFIGS = {
    "names": dict(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"]),
    "expression and patterns": dict(r=4, lora_alpha=6, target_modules=r".*\.[012]\.(self_attn|mlp)\.(q|up)_proj",
        rank_pattern={"up_proj": 2, "layers.1.self_attn.q_proj": 7}, alpha_pattern={"layers.0.self_attn": 3,
        "q_proj": 5}),
    "all-linear, rslora": dict(r=3, lora_alpha=4, target_modules="all-linear", use_rslora=True),
    "dora": dict(r=4, lora_alpha=8, target_modules=["v_proj", "o_proj"], use_dora=True),
    "one layer": dict(r=4, lora_alpha=8, target_modules=["v_proj"], layers_to_transform=[1], layers_pattern="layers"),
    "whole head": dict(r=4, lora_alpha=8, target_modules=["v_proj"], modules_to_save=["lm_head"]),
    "embedding and head": dict(r=4, lora_alpha=8, target_modules=["embed_tokens", "lm_head", "k_proj"]),
    "biases": dict(r=4, lora_alpha=8, target_modules=["q_proj"], bias="lora_only"),
}


def init_adapter(train, a, work, model, data, config):
    torch.manual_seed(random.randrange(1 << 30))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **config))
        for p in adapted.parameters():
            if p.requires_grad:
                p.data.add_(0.05 * torch.randn_like(p))
        source, out = work / f"peft {random.random()}", work / f"from peft {random.random()}"
        adapted.save_pretrained(source)
    train(a.weft, out, model, data, "--init-adapter", source, "--learning-rate", "0", "--max-steps", "1",
        "--save-steps", "0")
    got, want = (load_file(folder / "adapter_model.safetensors") for folder in (out / "adapter", source))
    # what PEFT saves beside an adapter on the embedding or the head, and does not train
    want = {k: v for k, v in want.items() if not k.endswith(("base_layer.weight",)) and (k in got or "lora" in k or
        "bias" in k or "modules_to_save" in k)}
    assert got.keys() == want.keys(), sorted(got.keys() ^ want.keys())
    assert all(torch.equal(got[k], want[k]) for k in want)
    return f"{len(got)} tensors"


def run(check, train, a, work, models, data):
    check("early stopping", early_stopping, train, a, work, models["llama"], data)
    check("extended runs", extended, train, a, work, models["llama"], data)
    for name, config in CONFIGS.items():
        check(f"init adapter, {name}", init_adapter, train, a, work, models["qwen2"], data, config)
