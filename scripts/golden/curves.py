"""goldens/train/B_curves: losses, gradient norms and final weights of whole training runs by PyTorch's AdamW in float64,
and the learning rates of transformers' schedules."""

from transformers import get_scheduler

import gradients
import serve_adapters
from common import *

F32 = torch.float32
STEPS, ACCUMULATION, WARMUP, CLIP, DECAY = 16, 2, 3, 1.0, 0.01
RUNS = {"lora_tiny-llama": (5e-3, ("constant", "cosine", "linear")), "full_tiny-llama-tied": (2e-3, ("cosine",)),
    "full_tiny-qwen2": (2e-3, ("linear",))}


def micro_batches(name, vocab):
    """Sequences with a pattern to learn: a token is followed by one that depends on it."""
    rng = generator("curve", name)
    follows, sequences, out = rng.permutation(vocab), [], []
    for _ in range(STEPS * ACCUMULATION):
        batch = []
        for _ in range(2):
            ids = [int(rng.integers(vocab))]
            for _ in range(int(rng.integers(8, 24))):
                ids.append(int(follows[ids[-1]] if rng.random() < 0.8 else rng.integers(vocab)))
            labels = list(ids)
            prompt = int(rng.integers(1, 6))
            labels[:prompt] = [-100] * prompt
            batch.append((ids, labels))
        sequences += batch
        out.append(batch)
    ids, labels = [s[0] for s in sequences], [s[1] for s in sequences]
    tensors = gradients.batch_tensors(ids, labels) | {"mb_offsets": ints(range(0, 2 * len(out) + 1, 2))}
    return out, tensors


def curve(model, batches, schedule, rate):
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY)
    kind = "constant_with_warmup" if schedule == "constant" else schedule
    scheduler = get_scheduler(kind, optimizer, num_warmup_steps=WARMUP, num_training_steps=STEPS)
    steps = []
    for step in range(STEPS):
        total, count = 0.0, 0
        for batch in batches[step * ACCUMULATION : (step + 1) * ACCUMULATION]:
            loss, n = gradients.loss_of(model, *zip(*batch))
            total, count = total + loss * n, count + n
        (total / count).backward()
        norm = torch.nn.utils.clip_grad_norm_(params, CLIP)
        steps.append({"step": step + 1, "loss": (total / count).item(), "grad_norm": norm.item(),
            "lr": scheduler.get_last_lr()[0], "targets": count})
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return steps


def run(root):
    from peft import get_peft_model_state_dict

    out = root / "goldens" / "train" / "B_curves"
    states = gradients.model_states()
    for name, (rate, schedules) in RUNS.items():
        kind, base_name = name.split("_")
        config, state = states[base_name]
        batches, tensors = micro_batches(name, config.vocab_size)
        write_tensors(out / name / "microbatches.safetensors", tensors)
        arguments, values = dict(r=4, lora_alpha=8, target_modules=serve_adapters.LINEAR), None
        if kind == "lora":
            with float64():
                _, settings, saved = serve_adapters.peft_model(config, state, arguments, None, True)
            values = serve_adapters.random_values(saved, generator("init", name), F32)
            values = {k: v * 0 if "lora_B" in k else v for k, v in values.items()}
            settings.lora_dropout = 0.0
            serve_adapters.write_adapter(out / name / "init", settings, values, base_name)
        for schedule in schedules:
            with float64():
                if kind == "lora":
                    model, _, _ = serve_adapters.peft_model(config, state, arguments, values, True)
                else:
                    model = build(config, state, True)
                steps = curve(model, batches, schedule, rate)
                final = get_peft_model_state_dict(model) if kind == "lora" else dict(model.named_parameters())
            write_json(out / name / f"curve_{schedule}.json", {"schedule": schedule, "lr": rate, "warmup": WARMUP,
                "steps": STEPS, "accumulation": ACCUMULATION, "weight_decay": DECAY, "clip": CLIP, "f64": steps})
            if schedule == schedules[-1] and base_name != "tiny-qwen2":
                write_tensors(out / name / f"final_{schedule}.safetensors", {k: v.to(F32) for k, v in final.items()})
    write_json(out / "schedules.json", {"base_lr": 1e-3, "lr_used_at_step": {f"{kind}/total={total}/warmup={warmup}": rates(
        kind, total, warmup) for kind in KINDS for total, warmup in ((30, 5), (17, 0), (50, 10))}})


KINDS = {"linear": {}, "cosine": {}, "cosine_with_restarts": {"num_cycles": 2}, "polynomial": {}, "constant": {},
    "constant_with_warmup": {}, "inverse_sqrt": {}, "cosine_with_min_lr": {"min_lr_rate": 0.1}}


def rates(kind, total, warmup):
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1e-3)
    s = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=total,
        scheduler_specific_kwargs=KINDS[kind])
    out = []
    for _ in range(total):
        out.append(s.get_last_lr()[0])
        optimizer.step()
        s.step()
    return out
