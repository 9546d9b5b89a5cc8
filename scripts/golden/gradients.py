"""goldens/train/A_grad and models: losses and gradients of whole models, of adapters and of single operations, by
PyTorch's autograd in float64."""

import math

import torch.nn.functional as F

import serve_adapters
from common import *
from serve_models import base, rope

F32 = torch.float32


def models():
    return {
        "tiny-llama": base("Llama", intermediate_size=64),
        "tiny-llama-tied": base("Llama", tie_word_embeddings=True, rms_norm_eps=1e-6, rope_parameters=rope("default", 5e5)),
        "tiny-qwen2": base("Qwen2", rope_parameters=rope("default", 1e6)),
        "tiny-qwen3": base("Qwen3", head_dim=12, rope_parameters=rope("default", 1e6)),
        "tiny-gemma3": base("Gemma3Text", num_hidden_layers=2, head_dim=12, query_pre_attn_scalar=20, sliding_window=8,
            layer_types=["sliding_attention", "full_attention"], tie_word_embeddings=True,
            hidden_activation="gelu_pytorch_tanh", rms_norm_eps=1e-6, rope_parameters={
                "full_attention": rope("default", 1e6), "sliding_attention": rope("default", 1e4)}),
    }


LINEAR = serve_adapters.LINEAR
ADAPTERS = {
    "llama_qv_r8": ("tiny-llama", dict(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])),
    "llama_all_r5": ("tiny-llama", dict(r=5, lora_alpha=16, target_modules=LINEAR)),
    "llama_rslora": ("tiny-llama", dict(r=6, lora_alpha=8, target_modules=["q_proj", "o_proj", "up_proj"], use_rslora=True)),
    "llama_dora": ("tiny-llama", dict(r=4, lora_alpha=8, target_modules=LINEAR, use_dora=True)),
    "llama_pattern": ("tiny-llama", dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"],
        rank_pattern={"q_proj": 7}, alpha_pattern={"down_proj": 3})),
    "qwen2_bias": ("tiny-qwen2", dict(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj"], bias="lora_only")),
    "qwen3_dora": ("tiny-qwen3", dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], use_dora=True,
        use_rslora=True)),
    "llama_tied_all_r8": ("tiny-llama-tied", dict(r=3, lora_alpha=8, target_modules=LINEAR)),
    "qwen3_all_r8": ("tiny-qwen3", dict(r=3, lora_alpha=8, target_modules=LINEAR)),
    "gemma3_all_r8": ("tiny-gemma3", dict(r=3, lora_alpha=8, target_modules=LINEAR)),
}


def batch(vocab):
    """Three ragged sequences; prompts and a gap in the middle are masked."""
    rng = generator("batch")
    ids = [rng.integers(3, vocab, n).tolist() for n in (19, 31, 9)]
    labels = [list(s) for s in ids]
    for row, prompt in zip(labels, (7, 11, 3)):
        row[:prompt] = [-100] * prompt
    labels[1][20:24] = [-100] * 4
    return ids, labels


def batch_tensors(ids, labels):
    offsets = np.cumsum([0] + [len(s) for s in ids])
    return {"ids": ints(sum(ids, [])), "labels": ints(sum(labels, [])), "seq_offsets": ints(offsets)}


def loss_of(model, ids, labels):
    """Cross entropy of all trained tokens, divided by their number; each sequence is run alone."""
    total, count = 0.0, 0
    for s, l in zip(ids, labels):
        logits = model(input_ids=torch.tensor([s])).logits[0, :-1]
        want = torch.tensor(l[1:])
        total = total + F.cross_entropy(logits, want, ignore_index=-100, reduction="sum")
        count += int((want != -100).sum())
    return total / count, count


def full(root, name, config, state, summary):
    ids, labels = batch(config.vocab_size)
    with float64():
        model = build(config, state, True)
        loss, count = loss_of(model, ids, labels)
        loss.backward()
    grads = {f"grad.{k}": p.grad.to(F32) for k, p in model.named_parameters()}
    write_tensors(root / "full" / f"{name}.safetensors", grads | batch_tensors(ids, labels))
    summary[f"full/{name}"] = {"model": name, "loss": loss.item(), "targets": count}


def gradients_of(model):
    """Gradients by the names that PEFT saves the parameters under."""
    out = {}
    for k, p in model.named_parameters():
        if p.grad is not None:
            k = k.replace(".default", "")
            out[k.removesuffix(".weight") if "magnitude" in k else k] = p.grad.double()
    return out


def adapter(root, name, base_name, config, state, arguments, summary):
    ids, labels = batch(config.vocab_size)
    rng = generator("gradient", name)
    dir = root / "lora" / name
    with float64():
        _, _, saved = serve_adapters.peft_model(config, state, arguments, None, True)
        values = serve_adapters.random_values(saved, rng, F32)
        values = {k: v * 0.4 if "lora_B" in k else v for k, v in values.items()}
        model, settings, _ = serve_adapters.peft_model(config, state, arguments, values, True)
        loss, count = loss_of(model, ids, labels)
        loss.backward()
    single, _, _ = serve_adapters.peft_model(config, state, arguments, values, False)
    loss_of(single, ids, labels)[0].backward()
    settings.lora_dropout = 0.0
    named, rounded = gradients_of(model), gradients_of(single)
    if named.keys() != values.keys():
        raise SystemExit(f"{name}: trained {sorted(named)}, saved {sorted(values)}")
    grads = {f"grad.{k}": v.to(F32) for k, v in named.items()}
    serve_adapters.write_adapter(dir, settings, values, base_name)
    write_tensors(dir / "grads.safetensors", grads | batch_tensors(ids, labels))
    summary[f"lora/{name}"] = {"model": base_name, "loss": loss.item(), "targets": count,
        "f32_vs_f64": {"l2_rel": max(((rounded[k] - v).norm() / v.norm()).item() for k, v in named.items())}}


def autograd(out, name, inputs, f, metadata, rng, fixed=()):
    """y, dy and the gradient of each input; the inputs are float32 values."""
    xs = {k: v.double().requires_grad_(k not in fixed) if v.is_floating_point() else v for k, v in inputs.items()}
    y = f(**xs)
    tensors = {k: v.to(F32) if v.is_floating_point() else v.to(torch.int32) for k, v in inputs.items()}
    if y.ndim == 0:
        y.backward()
        tensors["loss"] = y.to(F32)
    else:
        dy = normal(rng, *y.shape)
        y.backward(dy.double())
        tensors |= {"y": y.to(F32), "dy": dy}
    tensors |= {f"d_{k}": v.grad.to(F32) for k, v in xs.items() if v.is_floating_point() and v.grad is not None}
    write_tensors(out / f"{name}.safetensors", tensors, {k: str(v) for k, v in metadata.items()} or None)


def attention(q, k, v, indptr, scale, window=0, softcap=0.0):
    out = []
    group = q.shape[1] // k.shape[1]
    for a, b in zip(indptr[:-1], indptr[1:]):
        n = int(b - a)
        s = torch.einsum("ihd,jhd->hij", q[a:b], k[a:b].repeat_interleave(group, 1)) * scale
        if softcap:
            s = softcap * torch.tanh(s / softcap)
        i, j = torch.arange(n)[:, None], torch.arange(n)[None]
        seen = (j <= i) & ((i - j < window) if window else torch.ones(1, dtype=torch.bool))
        s = s.masked_fill(~seen, -math.inf)
        out.append(torch.einsum("hij,jhd->ihd", torch.softmax(s, -1), v[a:b].repeat_interleave(group, 1)))
    return torch.cat(out)


def rotate(x, positions, theta):
    half = x.shape[-1] // 2
    angle = positions.double()[:, None] * theta ** (-torch.arange(half).double() / half)
    cos, sin = (torch.cat([f(angle)] * 2, -1)[:, None] for f in (torch.cos, torch.sin))
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def rms(x, w, eps, one=0.0):
    return (one + w) * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def operations(out):
    rng = generator("operations")
    n = lambda *shape: normal(rng, *shape)
    indptr = torch.tensor([0, 9, 10, 22])
    for name, more in {"attn": {}, "attn_window": {"window": 5}, "attn_softcap": {"softcap": 4.0},
            "attn_window_softcap": {"window": 5, "softcap": 4.0}}.items():
        autograd(out, name, {"q": n(22, 4, 8), "k": n(22, 2, 8), "v": n(22, 2, 8), "indptr": indptr},
            lambda q, k, v, indptr, more=more: attention(q, k, v, indptr, 0.3, **more), {"scale": 0.3, **more}, rng)
    labels = torch.tensor([3, -100, 0, 88, 88, -100, 41, 7, 12])
    for kind in ("mean", "sum"):
        autograd(out, f"cross_entropy_{kind}", {"logits": n(9, 90) * 3, "labels": labels},
            lambda logits, labels, kind=kind: F.cross_entropy(logits, labels, ignore_index=-100, reduction=kind), {}, rng)
    autograd(out, "embedding", {"w": n(17, 12), "ids": torch.tensor([4, 4, 0, 16, 9, 4, 2])},
        lambda w, ids: F.embedding(ids, w), {}, rng)
    for name, act in {"swiglu": F.silu, "geglu_tanh": lambda g: F.gelu(g, approximate="tanh"), "geglu_erf": F.gelu}.items():
        autograd(out, name, {"gate": n(7, 20) * 2, "up": n(7, 20)}, lambda gate, up, act=act: act(gate) * up, {}, rng)
    x, w, b = n(9, 32), n(20, 32), n(20)
    autograd(out, "linear", {"x": x, "w": w, "b": b}, lambda x, w, b: x @ w.T + b, {}, rng)
    autograd(out, "lora_linear", {"x": x, "w": w, "b": b, "A": n(5, 32), "B": n(20, 5)},
        lambda x, w, b, A, B: x @ w.T + b + 2.0 * (x @ A.T) @ B.T, {"s": 2.0}, rng)
    autograd(out, "rmsnorm", {"x": n(9, 32) * 2, "w": 1 + n(32) / 5}, lambda x, w: rms(x, w, 1e-5), {"eps": 1e-5}, rng)
    autograd(out, "rmsnorm_gemma", {"x": n(9, 32) * 2, "w": n(32) / 5}, lambda x, w: rms(x, w, 1e-6, 1.0), {"eps": 1e-6}, rng)
    autograd(out, "rmsnorm_heads", {"x": n(9, 3, 8) * 2, "w": 1 + n(8) / 5}, lambda x, w: rms(x, w, 1e-6), {"eps": 1e-6}, rng)
    positions = torch.tensor([0, 1, 2, 30, 31, 77, 5])
    autograd(out, "rope", {"x": n(7, 3, 8), "positions": positions},
        lambda x, positions: rotate(x, positions, 10000.0), {"theta": 10000.0}, rng)


def model_states():
    return {name: (c, random_state(c, generator("weights", name))) for name, c in models().items()}


def run(root):
    train = root / "goldens" / "train"
    summary = {}
    for name, (config, state) in model_states().items():
        write_tensors(train / "models" / name / "model.safetensors", state, {"format": "pt"})
        write_config(train / "models" / name / "config.json", config, F32)
        if name != "tiny-qwen2":  # for the sake of size; its curve has the gradients of biases
            full(train / "A_grad", name, config, state, summary)
    states = model_states()
    for name, (base_name, arguments) in ADAPTERS.items():
        adapter(train / "A_grad", name, base_name, *states[base_name], arguments, summary)
    write_json(train / "A_grad" / "summary.json", summary)
    with float64():
        operations(train / "A_grad" / "ops")
