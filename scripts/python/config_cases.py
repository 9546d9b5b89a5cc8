"""config.json files with members absent, null, renamed and combined, to compare package model with transformers.

  config_cases.py --write   writes the fixture, runtime/model/testdata/configs.json, so that `go test ./runtime/model`
                            needs no Python. It is the seed 0 of what `make test-python` draws anew

What a file means is taken from the model that transformers builds of it (on the device meta, without weights), not from
the members of its configuration class: which tensors exist, which layers slide, how its RoPE turns, which function its
MLP applies. Files that transformers refuses are left out: weft may take or refuse them.
"""
import argparse
import contextlib
import io
import json
import pathlib
import random
import subprocess
import tempfile
import warnings

import torch
import transformers

FIXTURE = pathlib.Path(__file__).parents[2] / "runtime/model/testdata/configs.json"
ABSENT = object()
BASE = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=99, max_position_embeddings=128)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPE = {
    "rope_theta": [500.0, ABSENT],
    "rope_scaling": [None, {}, {"type": "linear", "factor": 2.0}, {"rope_type": "default"},
        {"rope_type": "linear", "type": "dynamic", "factor": 3.0}, {"type": "dynamic", "factor": 2.0}, YARN,
        {**YARN, "attention_factor": 1.5}, {**YARN, "mscale": 0.7, "mscale_all_dim": 0.9},
        {**YARN, "beta_fast": 16, "beta_slow": 2, "truncate": False}, {"type": "yarn", "factor": 2.0},
        {**LLAMA3, "original_max_position_embeddings": 64}, LLAMA3, {"rope_type": "linear", "factor": 2.0,
        "rope_theta": 777.0}],
    "rope_parameters": [None, {}, {"rope_type": "default", "rope_theta": 900.0}, {"rope_theta": 901.0},
        {"rope_type": "linear", "factor": 5.0}, {**YARN, "rope_theta": 902.0}],
    "original_max_position_embeddings": [64],
    "partial_rotary_factor": [0.5],
}
COMMON = {
    **{k: [ABSENT] for k in BASE}, "num_key_value_heads": [ABSENT, None, 1, 4], "head_dim": [None, 8, 24],
    "rms_norm_eps": [1e-5], "tie_word_embeddings": [True, False], "attention_bias": [True, False],
    "mlp_bias": [True, False], "hidden_act": ["gelu", "gelu_pytorch_tanh", "silu", "gelu_new", "swish", "gelu_fast",
        "gelu_python"],
    "hidden_activation": ["gelu", "gelu_pytorch_tanh", "silu", None], "sliding_window": [None, 5, 64],
    "use_sliding_window": [True, False], "max_window_layers": [0, 1, 2],
    "layer_types": [["full_attention"] * 3, ["sliding_attention", "full_attention", "sliding_attention"], None],
    "query_pre_attn_scalar": [20, 256], "final_logit_softcapping": [None, 3.0], "attn_logit_softcapping": [None, 2.0],
    "sliding_window_pattern": [2, 3], "_sliding_window_pattern": [2], "rope_local_base_freq": [50.0],
}
LONGROPE = {"type": "longrope", "short_factor": [1.0 + i / 8 for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)]}
OWN = {
    "gemma3_text": {"rope_parameters": [None, {"full_attention": {"rope_type": "linear", "factor": 8.0,
        "rope_theta": 600.0}, "sliding_attention": {"rope_type": "default"}},
        {"full_attention": {"rope_type": "default", "rope_theta": 601.0}},
        {"sliding_attention": {"rope_theta": 30.0}}]},
    "phi3": {"rope_scaling": [None, LONGROPE, {**LONGROPE, "type": "su"}, {**LONGROPE, "type": "yarn"},
        {**LONGROPE, "factor": 3.0}, {**LONGROPE, "original_max_position_embeddings": 16},
        {**LONGROPE, "attention_factor": 1.25}], "rope_parameters": [None, {}, {"rope_theta": 900.0},
        {"partial_rotary_factor": 0.5}]},
}
TYPES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3")


def edits(kind):
    return {**COMMON, **ROPE, **OWN.get(kind, {})}


def changed(kind, *changes):
    out = {"model_type": kind, **BASE}
    for key, value in changes:
        if value is ABSENT:
            out.pop(key, None)
        else:
            out[key] = value
    return out


def singles():
    """Each member of each class changed alone."""
    return [changed(kind, (key, value)) for kind in TYPES for key, values in edits(kind).items() for value in values]


def combinations(rng, n):
    """n files of each type with several members changed."""
    return [changed(kind, *((key, rng.choice(values)) for key, values in rng.sample(sorted(edits(kind).items()),
        rng.randint(2, 7)))) for kind in TYPES for _ in range(n)]


def rotary(rope, kind=None):
    """cos and sin of one position before and after the switch of longrope are Scale times those of Angles[i]."""
    name = f"{kind}_" if kind else ""
    frequencies = getattr(rope, name + "inv_freq").double()
    out = {"Frequencies": [frequencies[i].item() for i in (0, len(frequencies) // 2, -1)],
        "Pairs": len(frequencies), "Scale": float(getattr(rope, name + "attention_scaling"))}
    if getattr(rope, "rope_type", "") == "longrope":
        original = rope.config.rope_parameters["original_max_position_embeddings"]
        rope(torch.zeros(1), torch.tensor([[original]]))
        out["Long"] = rope.inv_freq[-1].item()
        out["Original"] = original
    return out


def expected(config):
    """What transformers makes of a config.json; None where it refuses."""
    with tempfile.TemporaryDirectory() as t, contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pathlib.Path(t, "config.json").write_text(json.dumps(config))
        try:
            c = transformers.AutoConfig.from_pretrained(t)
            c._attn_implementation = "eager"
            with torch.device("meta"):
                model = transformers.AutoModelForCausalLM.from_config(c)
            if model.model.layers[0].self_attn.head_dim < 4:  # a half of such a head is a whole one to transformers
                return None
            rope = type(model.model.rotary_emb)(c)  # with values
            # an invalid RoPE or window shows only in a pass
            small = transformers.AutoConfig.from_pretrained(t)
            small._attn_implementation = "eager"
            small.hidden_size, small.intermediate_size, small.vocab_size = 32 * small.num_attention_heads, 8, 100000
            small.num_hidden_layers = min(small.num_hidden_layers, 3)
            if getattr(small, "layer_types", None):
                kinds = small.layer_types  # the pass needs a layer of each
                small.layer_types = [*sorted(set(kinds)), *kinds][:small.num_hidden_layers]
            small.head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
            with torch.device("meta"):
                probe = transformers.AutoModelForCausalLM.from_config(small)
                probe(torch.zeros(1, 4, dtype=torch.long))
        except Exception:
            return None
    layers, attention = model.model.layers, model.model.layers[0].self_attn
    mlp = layers[0].mlp
    act = getattr(mlp, "act_fn", None) or mlp.activation_fn
    one_mask = c.model_type in ("mistral", "phi3")
    windows = [(c.sliding_window if one_mask else getattr(y.self_attn, "sliding_window", None)) or 0 for y in layers]
    kinds = getattr(rope, "layer_types", None)
    ropes = {k: rotary(rope, k) for k in kinds} if kinds else {"": rotary(rope)}
    bias = {n: getattr(m, "bias", None) is not None for n, m in layers[0].named_modules() if isinstance(m,
        torch.nn.Linear)}
    return {
        "Hidden": c.hidden_size, "Layers": len(layers), "Heads": c.num_attention_heads,
        "KVHeads": c.num_key_value_heads, "HeadDim": attention.head_dim, "FFN": c.intermediate_size,
        "Vocab": c.vocab_size, "RMSEps": getattr(layers[0].input_layernorm, "variance_epsilon", None)
            or layers[0].input_layernorm.eps,
        "Tied": bool(c.tie_word_embeddings),
        "QKVBias": bias.get("self_attn.q_proj", False), "OBias": bias["self_attn.o_proj"],
        "MLPBias": bias["mlp.down_proj"], "ActOfOne": act(torch.ones(1)).item(), "AttnScale": float(attention.scaling),
        "AttnSoftcap": (c.attn_logit_softcapping or 0.0) if c.model_type == "gemma2" else 0.0,
        "FinalSoftcap": (c.final_logit_softcapping or 0.0) if c.model_type.startswith("gemma") else 0.0,
        "Windows": windows, "Ropes": [ropes[y.self_attn.layer_type if kinds else ""] for y in layers],
        "Pad": model.model.padding_idx,
    }


def shorter(want):
    """Lists of one value per layer as that value, which keeps the fixture small."""
    for key in ("Windows", "Ropes"):
        if all(v == want[key][0] for v in want[key]):
            want[key] = want[key][:1]
    return want


def cases(configs):
    out = []
    for config in configs:
        want = expected(config)
        if want is not None:
            out.append({"config": config, "want": shorter(want)})
    return out


def write(path, configs):
    found = cases(configs)
    assert len(found) > len(configs) / 2, f"transformers refuses {len(configs) - len(found)} of {len(configs)} files"
    path.parent.mkdir(exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in found) + "\n]\n")
    return len(found)


def compare():
    """Draws other files than the fixture's and compares them with package model; returns a note or raises."""
    seed = random.SystemRandom().randrange(1 << 32)
    with tempfile.TemporaryDirectory() as t:
        path = pathlib.Path(t, "configs.json")
        rng = random.Random(seed)
        n = write(path, rng.sample(singles(), 150) + combinations(rng, 8))
        done = subprocess.run(["go", "test", "./runtime/model", "-count=1", "-run", "TestConfigsOfTransformers", "-args",
            "-configs", path], capture_output=True, text=True)
        if done.returncode:
            raise AssertionError(f"seed {seed}\n{done.stdout}{done.stderr}")
    return f"{n} files, seed {seed}"


def run(check, arguments):
    check("transformers, config.json", compare)


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--write", action="store_true")
    if p.parse_args().write:
        rng = random.Random(0)
        print(write(FIXTURE, rng.sample(singles(), 120) + combinations(rng, 8)), "files")
