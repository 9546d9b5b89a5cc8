"""goldens/serve/models: tiny random models of every architecture, with hidden states, logits and greedy ids by the
float64 oracle."""

from common import *

LENGTHS = (3, 10, 22)
GREEDY = 16


def base(cls, **change):
    import transformers

    c = dict(hidden_size=32, intermediate_size=60, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=208, max_position_embeddings=128, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        tie_word_embeddings=False)
    c.update(change)
    return getattr(transformers, cls + "Config")(**c)


def rope(kind, theta=10000.0, **more):
    return {"rope_type": kind, "rope_theta": theta, **more}


F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
LONG = dict(original_max_position_embeddings=20, partial_rotary_factor=0.75, short_factor=[1.0, 1.1, 1.25],
    long_factor=[1.6, 2.9, 4.4])
WINDOWS = ["sliding_attention", "full_attention"]
NARROW = dict(hidden_size=24, intermediate_size=40)  # a kind of RoPE needs no more


def models():
    """name: configuration, dtype of the file"""
    return {
        "llama": (base("Llama"), F32),
        "llama-bf16": (base("Llama", rms_norm_eps=1e-6), BF16),
        "llama-f16": (base("Llama", head_dim=12), F16),
        "llama-bias": (base("Llama", attention_bias=True, mlp_bias=True), F16),
        "llama-rope3-tied": (base("Llama", tie_word_embeddings=True, max_position_embeddings=256, rope_parameters=rope(
            "llama3", 500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=32)), F16),
        "llama-linear": (base("Llama", **NARROW, rope_parameters=rope("linear", factor=2.5)), F16),
        "llama-dynamic": (base("Llama", **NARROW, rope_parameters=rope("dynamic", factor=4.0)), F16),
        "llama-yarn": (base("Llama", **NARROW, head_dim=16, max_position_embeddings=96, rope_parameters=rope("yarn", 1000.0, factor=3.0,
            original_max_position_embeddings=32, beta_fast=8.0, beta_slow=1.0)), F16),
        "smollm2": (base("Llama", num_attention_heads=3, num_key_value_heads=1, hidden_size=36, tie_word_embeddings=True,
            rope_parameters=rope("default", 100000.0)), BF16),
        "mistral": (base("Mistral", sliding_window=8), F16),
        "qwen2": (base("Qwen2", rope_parameters=rope("default", 1e6), rms_norm_eps=1e-6), F16),
        "qwen2-yarn": (base("Qwen2", **NARROW, tie_word_embeddings=True, max_position_embeddings=96, rope_parameters=rope("yarn", 1000.0,
            factor=4.0, original_max_position_embeddings=24, attention_factor=1.2)), F16),
        "qwen3": (base("Qwen3", head_dim=16, rope_parameters=rope("default", 1e6), rms_norm_eps=1e-6), F16),
        "gemma2": (base("Gemma2", head_dim=12, query_pre_attn_scalar=20, sliding_window=8, layer_types=WINDOWS,
            tie_word_embeddings=True, hidden_activation="gelu_pytorch_tanh", attn_logit_softcapping=6.0,
            final_logit_softcapping=5.0, rms_norm_eps=1e-6), F16),
        "gemma3": (base("Gemma3Text", num_hidden_layers=3, head_dim=12, query_pre_attn_scalar=20, sliding_window=8,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"], tie_word_embeddings=True,
            hidden_activation="gelu_pytorch_tanh", rms_norm_eps=1e-6, rope_parameters={
                "full_attention": rope("default", 100000.0), "sliding_attention": rope("default", 1000.0)}), F16),
        "gemma3-linear": (base("Gemma3Text", **NARROW, num_hidden_layers=2, head_dim=8, query_pre_attn_scalar=8, sliding_window=6,
            layer_types=WINDOWS, tie_word_embeddings=True, hidden_activation="gelu_pytorch_tanh", rms_norm_eps=1e-6,
            rope_parameters={"full_attention": rope("linear", 100000.0, factor=8.0),
                "sliding_attention": rope("default", 1000.0)}), BF16),
        "phi3": (base("Phi3", rope_parameters=rope("longrope", **LONG), original_max_position_embeddings=20,
            max_position_embeddings=128), F16),
        "phi3-window": (base("Phi3", **NARROW, sliding_window=9, rope_parameters=rope("default")), BF16),
    }


def experts():
    return {
        "mixtral": base("Mixtral", num_local_experts=2, num_experts_per_tok=1, hidden_size=8, intermediate_size=8,
            vocab_size=16),
        "qwen3-moe": base("Qwen3Moe", num_experts=2, num_experts_per_tok=1, moe_intermediate_size=8, hidden_size=8,
            intermediate_size=8, vocab_size=16),
    }


def states(model, ids):
    """embed: the input of layer 0; layer: each layer's output; norm, logits."""
    out, hooks = {}, []
    base = model.model
    hooks.append(base.layers[0].register_forward_pre_hook(
        lambda m, a, k: out.__setitem__("embed", (a[0] if a else k["hidden_states"])[0]), with_kwargs=True))
    for i, layer in enumerate(base.layers):
        hooks.append(layer.register_forward_hook(lambda m, a, o, i=i: out.__setitem__(f"layer.{i}",
            (o[0] if isinstance(o, tuple) else o)[0])))
    hooks.append(base.norm.register_forward_hook(lambda m, a, o: out.__setitem__("norm", o[0])))
    out["logits"] = oracle_logits(model, ids)
    for h in hooks:
        h.remove()
    return out


def greedy(model, ids):
    ids, gaps, begin = list(ids), [], len(ids)
    for _ in range(GREEDY):
        top = torch.topk(oracle_logits(model, ids)[-1], 2)
        gaps.append(float((top.values[0] - top.values[1]).item()))
        ids.append(int(top.indices[0]))
    return ids[begin:], gaps


def golden(dir, name, config, state):
    rng = generator("ids", name)
    sequences = [[1] + rng.integers(0, config.vocab_size, n - 1).tolist() for n in LENGTHS]
    sequences[0][1:3] = [config.vocab_size - 1, 0]
    tensors, errors, hidden, largest = {}, [], 0.0, 0.0
    with float64():
        model = build(config, state, True)
        want = [states(model, s) for s in sequences]
        ids, gaps = greedy(model, sequences[1])
    single = build(config, state, False)
    for i, (s, w) in enumerate(zip(sequences, want)):
        got = oracle_logits(single, s)
        errors.append((got.double() - w["logits"]).abs().max().item())
        hidden = max(hidden, *(v.abs().max().item() for k, v in w.items() if k != "logits"))
        largest = max(largest, w["logits"].abs().max().item())
        tensors[f"seq{i}.ids"] = ints(s)
        tensors.update({f"seq{i}.{k}": v.to(F32) for k, v in w.items()})
    write_tensors(dir / "golden.safetensors", tensors)
    write_json(dir / "golden.json", {"model": name, "oracle": "float64, eager attention, weights as stored",
        "sequences": [{"ids": s} for s in sequences], "greedy_from": 1, "greedy_ids": ids,
        "greedy_gaps": [float(f"{g:.6g}") for g in gaps],
        # a float32 implementation with another order of sums has an error of this size; small models are lucky now
        # and then, so there is a floor
        "f32_vs_f64_logits_max_abs": float(f"{max(3e-6, *errors):.4g}"), "logits_max_abs": round(largest, 3),
        "hidden_max_abs": round(hidden, 3)})


def sharded(dir, like):
    """The tensors of a model in three files with an index."""
    from safetensors.torch import load_file

    tensors = load_file(str(like / "model.safetensors"))
    names, index = sorted(tensors), {}
    for part in range(3):
        file = f"model-{part + 1:05}-of-00003.safetensors"
        some = {k: tensors[k] for i, k in enumerate(names) if i % 3 == part}
        write_tensors(dir / file, some, {"format": "pt"})
        index.update({k: file for k in some})
    write_json(dir / "model.safetensors.index.json", {"metadata": {"total_size": sum(
        v.numel() * v.element_size() for v in tensors.values())}, "weight_map": dict(sorted(index.items()))})
    (dir / "config.json").write_text((like / "config.json").read_text())
    write_json(dir / "golden.json", {"model": "llama-sharded", "same_as": "llama-f16"})


def run(root):
    serve = root / "goldens" / "serve" / "models"
    for name, (config, dtype) in models().items():
        dir = serve / name
        state = random_state(config, generator("weights", name), dtype)
        write_tensors(dir / "model.safetensors", state, {"format": "pt"})
        plain = write_config(dir / "config.json", config, dtype)
        write_json(dir / "config_v4.json", config_v4(plain))
        golden(dir, name, config, state)
    sharded(serve / "llama-sharded", serve / "llama-f16")
    for name, config in experts().items():
        dir = serve / name
        write_tensors(dir / "model.safetensors", random_state(config, generator("weights", name), F16), {"format": "pt"})
        write_json(dir / "config_v4.json", config_v4(write_config(dir / "config.json", config, F16)))
        write_json(dir / "golden.json", {"model": name})
        write_tensors(dir / "golden.safetensors", {"seq0.ids": ints([1, 2, 3])})
