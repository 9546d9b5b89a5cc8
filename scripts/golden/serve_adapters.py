"""goldens/serve/adapters: LoRA adapters of every kind as PEFT writes them, with PEFT's logits in float64, and folders that
must be refused."""

import warnings

from safetensors.torch import load_file
from transformers import AutoConfig

from common import *

LENGTHS = (2, 5)
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
STORIES = "data/weights/stories260K/hf"


def adapters():
    """name: base, dtype of the file, LoraConfig's arguments"""
    return {
        "llama-r8-qv": ("llama", F32, dict(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])),
        "llama-r16": ("llama", F16, dict(r=16, lora_alpha=32, target_modules=["q_proj", "gate_proj", "down_proj"])),
        "llama-r1": ("llama", F32, dict(r=1, lora_alpha=3, target_modules=LINEAR[:4])),
        "llama-r64": ("llama", BF16, dict(r=64, lora_alpha=24, target_modules=["k_proj", "down_proj"])),
        "llama-rslora": ("llama", F16, dict(r=6, lora_alpha=5, target_modules=LINEAR, use_rslora=True)),
        "llama-dora": ("llama", F32, dict(r=4, lora_alpha=10, target_modules=LINEAR, use_dora=True)),
        "llama-patterns": ("llama", F16, dict(r=8, lora_alpha=12, target_modules=LINEAR, alpha_pattern={
            r"layers\.0\.mlp\.gate_proj": 40, "q_proj": 9}, rank_pattern={r"^model\.layers\.1\.self_attn\.v_proj": 5,
            "down_proj": 10, r"layers\.1\.mlp\.up_proj": 2, "q_proj": 3})),
        "llama-layers": ("llama", F32, dict(r=5, lora_alpha=7, target_modules=["down_proj", "q_proj"],
            layers_to_transform=[1])),
        "llama-regex": ("llama", F32, dict(r=4, lora_alpha=9,
            target_modules=r".*\.(0|2)\.(self_attn\.(q|o)_proj|mlp\.up_proj)")),
        "llama-exclude": ("llama", F16, dict(r=4, lora_alpha=6, target_modules=LINEAR,
            exclude_modules=["model.layers.1.mlp.up_proj", "k_proj"])),
        "llama-lm-head-saved": ("llama", F16, dict(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"],
            modules_to_save=["lm_head"])),
        "llama-lm-head-lora": ("llama", F32, dict(r=4, lora_alpha=6, target_modules=["v_proj", "lm_head"])),
        "llama-embed": ("llama", F32, dict(r=6, lora_alpha=9, target_modules=["embed_tokens", "v_proj"])),
        "llama-bf16": ("llama", BF16, dict(r=8, lora_alpha=20, target_modules=LINEAR)),
        "llama-dora-rslora-pattern": ("llama", F32, dict(r=4, lora_alpha=6, use_dora=True, use_rslora=True,
            target_modules=["q_proj", "v_proj", "down_proj"], rank_pattern={"v_proj": 9})),
        "llama-lora-bias": ("llama", F32, dict(r=4, lora_alpha=6, target_modules=["up_proj", "q_proj"], lora_bias=True)),
        "qwen2-bias-lora-only": ("qwen2", F32, dict(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "o_proj"],
            bias="lora_only")),
        "qwen2-dora": ("qwen2", F16, dict(r=4, lora_alpha=6, target_modules=LINEAR, use_dora=True)),
        "qwen3-linear": ("qwen3", F16, dict(r=2, lora_alpha=5, target_modules=LINEAR)),
        "rope3-tied-embed": ("llama-rope3-tied", F16, dict(r=4, lora_alpha=3, target_modules=["embed_tokens", "q_proj"])),
        "phi3-fused": ("phi3", F16, dict(r=5, lora_alpha=8, target_modules=["qkv_proj", "o_proj", "gate_up_proj",
            "down_proj"])),
        "gemma2-linear": ("gemma2", F16, dict(r=4, lora_alpha=6, target_modules=LINEAR)),
        "gemma3-dora": ("gemma3", F16, dict(r=3, lora_alpha=5, target_modules=LINEAR, use_dora=True)),
        "stories-r8-qv": ("stories260K", F16, dict(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])),
        "stories-r16-linear": ("stories260K", BF16, dict(r=4, lora_alpha=8, target_modules=LINEAR)),
        "stories-rslora-patterns": ("stories260K", F16, dict(r=2, lora_alpha=6, target_modules=LINEAR, use_rslora=True,
            rank_pattern={"down_proj": 3})),
        "stories-dora": ("stories260K", F16, dict(r=4, lora_alpha=12, target_modules=["q_proj", "v_proj", "down_proj"],
            use_dora=True)),
    }


def peft_model(base, state, arguments, values, double):
    """PEFT's model with the given values of what it trains; made when there are none."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    config = LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.05, **arguments)
    model = get_peft_model(build(base, state, double), config).eval()
    dtype = torch.float64 if double else F32
    model = model.to(dtype)
    if values is not None:
        set_peft_model_state_dict(model, {k: v.to(dtype) for k, v in values.items()})
    return model, config, get_peft_model_state_dict(model)


def random_values(saved, rng, dtype):
    out = {}
    for name, v in sorted(saved.items()):
        if "magnitude" in name:
            out[name] = v.float() * (1 + normal(rng, *v.shape, std=0.2))
        elif "base_layer.weight" in name:  # an embedding that PEFT saves beside its adapter
            out[name] = v
        elif name.endswith("bias"):
            out[name] = normal(rng, *v.shape, std=0.3)
        elif "lora" in name:
            out[name] = normal(rng, *v.shape, std=1.2 * v.shape[-1] ** -0.5)
        else:  # a module saved whole
            out[name] = v.float() + normal(rng, *v.shape, std=0.1)
        out[name] = out[name].to(dtype)
    return out


def write_adapter(dir, config, values, name):
    config.base_model_name_or_path = name
    config.inference_mode = True
    dir.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(dir))
    file = dir / "adapter_config.json"
    text = json.loads(file.read_text())
    if isinstance(text.get("target_modules"), list):
        text["target_modules"].sort()
    if isinstance(text.get("exclude_modules"), list):
        text["exclude_modules"].sort()
    write_json(file, dict(sorted(text.items())))
    write_tensors(dir / "adapter_model.safetensors", values, {"format": "pt"})


def load_base(root, name):
    path = root / (STORIES if name == "stories260K" else f"goldens/serve/models/{name}")
    return AutoConfig.from_pretrained(str(path)), load_file(str(path / "model.safetensors"))


def make(root, dir, name, base_name, dtype, arguments):
    rng = generator("adapter", name)
    base, state = load_base(root, base_name)
    with float64():
        _, _, saved = peft_model(base, state, arguments, None, True)
        values = random_values(saved, rng, dtype)
        model, config, back = peft_model(base, state, arguments, values, True)
        if any((back[k] - v.double()).abs().max() > 0 for k, v in values.items()):
            raise SystemExit(f"{name}: PEFT did not take the values")
        sequences = [[1] + rng.integers(3, base.vocab_size, n - 1).tolist() for n in LENGTHS]
        on = [oracle_logits(model, s) for s in sequences]
        plain = build(base, state, True)  # PEFT does not restore trained biases
        off = [oracle_logits(plain, s) for s in sequences]
    single, _, _ = peft_model(base, state, arguments, values, False)
    tensors, errors, effect = {}, [], 0.0
    for i, s in enumerate(sequences):
        errors.append((oracle_logits(single, s).double() - on[i]).abs().max().item())
        effect = max(effect, (on[i] - off[i]).abs().max().item())
        tensors |= {f"seq{i}.ids": ints(s), f"seq{i}.logits": on[i].to(F32), f"seq{i}.base_logits": off[i].to(F32)}
    if effect < 0.5:
        raise SystemExit(f"{name}: the adapter changes logits by {effect} only")
    write_adapter(dir, config, values, base_name)
    write_tensors(dir / "golden.safetensors", tensors)
    golden = {"adapter": name, "base": base_name, "expect": "optional" if arguments.get("lora_bias") else "must",
        "oracle": "PEFT unmerged, float64", "f32_vs_f64_max_abs": float(f"{max(5e-6, *errors):.4g}"),
        "adapter_effect_max_abs": round(effect, 3)}
    if base_name == "stories260K":
        golden["base_path"] = STORIES
    write_json(dir / "golden.json", golden)


def refused(root, out):
    """Folders made for another model, of other methods, or damaged."""
    from peft import IA3Config, LoHaConfig, PrefixTuningConfig, PromptTuningConfig

    base, state = load_base(root, "llama")
    rng = generator("refused")
    lora = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}

    def write(name, reason, arguments=lora, edit=None, settings=None):
        with float64():
            _, config, saved = peft_model(base, state, arguments, None, True)
        values = random_values(saved, rng, F32)
        if edit:
            edit(values)
        write_adapter(out / name, config, values, "llama")
        if settings:
            file = out / name / "adapter_config.json"
            write_json(file, json.loads(file.read_text()) | settings)
        write_json(out / name / "golden.json", {"adapter": name, "base": "llama", "expect": "refuse", "reason": reason})

    q = "base_model.model.model.layers.1.self_attn.q_proj.lora_%s.weight"

    def nan(values):
        values[q % "A"][0, 0] = float("nan")

    def wider(values):
        for k in list(values):
            if "lora_A" in k:
                values[k] = normal(rng, 4, 48)

    def deeper(values):
        values[q.replace("layers.1", "layers.3") % "A"] = values[q % "A"].clone()
        values[q.replace("layers.1", "layers.3") % "B"] = values[q % "B"].clone()

    write("bad-nan", "a tensor holds NaN", edit=nan)
    write("bad-missing-B", "one lora_B is missing", edit=lambda v: v.pop(q % "B"))
    write("bad-unknown-tensor", "unknown tensor name", edit=lambda v: v.update({
        "base_model.model.model.layers.1.self_attn.x_proj.lora_A.weight": normal(rng, 4, 32)}))
    write("bad-other-shape", "made for hidden 48", edit=wider)
    write("bad-more-layers", "tensors name layers that the base does not have", edit=deeper)
    write("bad-rank-mismatch", "the configuration says r=16, the tensors have rank 4", settings={"r": 16})
    write("bad-layer-replication", "layer_replication changes the number of layers",
        settings={"layer_replication": [[0, 2], [1, 2]]})
    write("bad-alora", "active behind invocation tokens only", settings={"alora_invocation_tokens": [5, 6]})
    write("bad-truncated", "the file was cut short")
    file = out / "bad-truncated" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-68])
    for name, config, values in [
        ("bad-ia3", IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
            {"base_model.model.model.layers.0.self_attn.k_proj.ia3_l": normal(rng, 16, 1)}),
        ("bad-loha", LoHaConfig(r=4, alpha=8, target_modules=["q_proj"]),
            {"base_model.model.model.layers.0.self_attn.q_proj.hada_w1_a": normal(rng, 32, 4)}),
        ("bad-prompt-tuning", PromptTuningConfig(num_virtual_tokens=5, token_dim=32, num_layers=2,
            num_attention_heads=4, num_transformer_submodules=1), {"prompt_embeddings": normal(rng, 5, 32)}),
        ("bad-prefix-tuning", PrefixTuningConfig(num_virtual_tokens=4, token_dim=16, num_layers=2,
            num_attention_heads=2, num_transformer_submodules=1), {"prompt_embeddings": normal(rng, 4, 64)}),
    ]:
        config.task_type = "CAUSAL_LM"
        write_adapter(out / name, config, values, "llama")
        write_json(out / name / "golden.json", {"adapter": name, "base": "llama", "expect": "refuse",
            "reason": "peft_type " + config.peft_type.value})


def run(root):
    warnings.filterwarnings("ignore")
    out = root / "goldens" / "serve" / "adapters"
    for name, (base, dtype, arguments) in adapters().items():
        make(root, out / name, name, base, dtype, arguments)
    refused(root, out)
