"""What the parts of the golden set share: a float64 oracle over transformers' own code, seeds, and compact files."""

import contextlib
import copy
import json
import os
import pathlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["TORCHDYNAMO_DISABLE"] = "1"  # bitsandbytes compiles its kernels for every shape

import numpy as np
import torch
from safetensors.torch import save_file

SEED = 15  # of the committed set; make.py sets another


def generator(*key):
    """A random generator that depends on the set's seed and the key only."""
    return np.random.default_rng(list(str((SEED, *key)).encode()))


def normal(rng, *shape, std=1.0, dtype=torch.float32):
    return torch.from_numpy(rng.standard_normal(shape) * std).to(dtype)


def write_json(path, value):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def write_tensors(path, tensors, metadata=None):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().contiguous().clone() for k, v in sorted(tensors.items())}, str(path), metadata=metadata)


def ints(values):
    return torch.tensor(list(values), dtype=torch.int32)


@contextlib.contextmanager
def float64():
    """Everything that transformers and PEFT compute in float32, whatever the model's dtype, is computed in float64:
    RMSNorm, softmax, RoPE's frequencies and tables."""
    was = torch.float32, torch.float, torch.Tensor.float, torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = was[:3]
        torch.set_default_dtype(was[3])


def build(config, state, double):
    """A model of the configuration with the tensors of state, in float64 (inside float64()) or float32."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    dtype = torch.float64 if double else torch.float32
    config.dtype = dtype
    with float64() if double else contextlib.nullcontext():
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(dtype)
    missing, unexpected = model.load_state_dict({k: v.to(dtype) for k, v in state.items()}, strict=False)
    missing = [m for m in missing if m != "lm_head.weight" or not config.tie_word_embeddings]
    if missing or unexpected:
        raise SystemExit(f"{config.model_type}: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    return model.eval()


def random_state(config, rng, dtype=torch.float32):
    """Random tensors that make an untrained model behave: linear layers keep the size of what they get, norms are near
    one, biases matter."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in AutoModelForCausalLM.from_config(config).state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
    gemma = config.model_type.startswith("gemma")
    state = {}
    for name, shape in sorted(shapes.items()):
        if name.endswith("bias"):
            value = normal(rng, *shape, std=0.3)
        elif len(shape) == 1:
            value = normal(rng, *shape, std=0.15) + (0 if gemma else 1)
        elif "embed_tokens" in name:
            value = normal(rng, *shape, std=config.hidden_size**-0.5 * 1.6 if config.tie_word_embeddings else 1.0)
        else:
            value = normal(rng, *shape, std=1.2 * shape[-1] ** -0.5)
        state[name] = value.to(dtype)
    return state


def write_config(path, config, dtype):
    config = copy.deepcopy(config)
    config.dtype = dtype
    text = json.loads(config.to_json_string(use_diff=False))
    plain = {k: v for k, v in text.items() if k in KEPT and v is not None}
    plain["architectures"] = ARCHITECTURES[config.model_type]
    plain["dtype"] = str(dtype).removeprefix("torch.")
    write_json(path, dict(sorted(plain.items())))
    return plain


ARCHITECTURES = {
    "llama": ["LlamaForCausalLM"], "mistral": ["MistralForCausalLM"], "qwen2": ["Qwen2ForCausalLM"],
    "qwen3": ["Qwen3ForCausalLM"], "gemma2": ["Gemma2ForCausalLM"], "gemma3_text": ["Gemma3ForCausalLM"],
    "phi3": ["Phi3ForCausalLM"], "mixtral": ["MixtralForCausalLM"], "qwen3_moe": ["Qwen3MoeForCausalLM"],
}
# what save_pretrained writes beside these has no meaning for inference
KEPT = {
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings", "rms_norm_eps", "hidden_act",
    "hidden_activation", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "attention_bias",
    "mlp_bias", "sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "rope_parameters",
    "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "original_max_position_embeddings",
    "num_local_experts", "num_experts_per_tok", "num_experts", "moe_intermediate_size", "norm_topk_prob",
    "decoder_sparse_step", "mlp_only_layers", "initializer_range",
}


def config_v4(plain):
    """The configuration as transformers 4 spelled it."""
    old = dict(plain)
    old["torch_dtype"] = old.pop("dtype")
    rope = old.pop("rope_parameters", {})
    layer_types = old.pop("layer_types", None)
    if "full_attention" in rope:  # Gemma 3
        old["rope_theta"] = rope["full_attention"]["rope_theta"]
        old["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        scaling = {k: v for k, v in rope["full_attention"].items() if k != "rope_theta"}
        old["rope_scaling"] = None if scaling["rope_type"] == "default" else scaling
        old["sliding_window_pattern"] = layer_types.index("full_attention") + 1
        return old
    rope = dict(rope)
    old["rope_theta"] = rope.pop("rope_theta", 10000.0)
    partial = rope.pop("partial_rotary_factor", None)
    if partial is not None:
        old["partial_rotary_factor"] = partial
    old["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    return old


def oracle_logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]
