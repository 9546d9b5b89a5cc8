"""Adapters with rows of tokens, tied heads, norms and names of wrapped models, to compare what weft serves with PEFT.

  saved_cases.py --write   writes the fixture, adapters/peft/testdata/saved, for `go test ./adapters/peft`

Otherwise round_trips.py calls run: PEFT saves each adapter; weft serves it, and its log-probabilities must be those of
PEFT, which loads it again.
"""
import json
import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

import init_cases

FIXTURE = pathlib.Path(__file__).parents[2] / "adapters/peft/testdata/saved"
ADAPTERS = {  # name: LoraConfig's arguments
    "tokens": dict(target_modules=["q_proj"], trainable_token_indices=[5, 3]),
    "tokens by module": dict(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [5, 3],
        "lm_head": [7]}),
    "tokens of the head": dict(target_modules=["q_proj"], trainable_token_indices={"lm_head": [7, 2, 9]}),
    "tokens of both": dict(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [5], "lm_head": [5]}),
    "tied table": dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "tied head": dict(target_modules=["o_proj"], modules_to_save=["lm_head"], ensure_weight_tying=True),
    "tied pair": dict(target_modules=["o_proj", "embed_tokens"], ensure_weight_tying=True),
    "tied pair of the head": dict(target_modules=["o_proj", "lm_head"], ensure_weight_tying=True, use_rslora=True),
    "norms": dict(target_modules=["o_proj"], modules_to_save=["norm"]),
    "norms of blocks": dict(target_modules=["o_proj"], modules_to_save=["input_layernorm"]),
    "last norm, head": dict(target_modules=["o_proj"], modules_to_save=["model.norm", "lm_head"]),
    "norms of heads": dict(target_modules=["o_proj"], modules_to_save=["q_norm", "self_attn.k_norm"]),
}
# what other trainers make of a name; and target_modules that were written for the wrapped model
WRAPPED = {
    "compiled": (lambda n: n.replace("base_model.model.", "base_model.model._orig_mod.", 1), None),
    "fsdp": (lambda n: n.replace(".self_attn.", "._fsdp_wrapped_module.self_attn."), None),
    "ddp": (lambda n: "module." + n, None),
    "multimodal": (lambda n: n.replace("base_model.model.model.", "base_model.model.model.language_model.", 1),
        r"model\.language_model\.layers\.\d+\.self_attn\.o_proj"),
    "older multimodal": (lambda n: n.replace("base_model.model.", "base_model.model.language_model.", 1),
        r".*language_model.*\.o_proj"),
    "bare decoder": (lambda n: n.replace("base_model.model.model.", "base_model.model.", 1), ["o_proj"]),
}


def save(folder, out, name):
    """Trains the adapter with PEFT; PEFT's own learning changes the whole rows and norms only a little."""
    model = init_cases.train(folder, out, steps=0, **ADAPTERS.get(name, dict(target_modules=["o_proj"])))
    torch.manual_seed(4)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * (0.4 if p.dim() == 1 else 0.3))
    model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)


def wrap(out, to, name):
    """Copies an adapter under the names of a wrapped model."""
    change, targets = WRAPPED[name]
    shutil.copytree(out, to)
    save_file({change(k): v for k, v in load_file(out / "adapter_model.safetensors").items()},
        to / "adapter_model.safetensors")
    config = json.loads((to / "adapter_config.json").read_text())
    config.update(target_modules=targets or config["target_modules"], future_option={"on": False, "names": []})
    (to / "adapter_config.json").write_text(json.dumps(config, indent=1))


def names_for(config):
    tied = config.get("tie_word_embeddings", config["model_type"].startswith("gemma"))
    return [n for n in ADAPTERS if not ("tied" in n and not tied or n == "last norm, head" and tied
        or "of heads" in n and config["model_type"] not in ("qwen3", "gemma3_text"))]


def served(a, work, folder):
    config = json.loads((folder / "config.json").read_text())
    adapters, read = {}, {}
    for name in names_for(config):
        plain = name.replace(" ", "-").replace(",", "")
        adapters[plain] = read[plain] = work / plain
        save(folder, adapters[plain], name)
    save(folder, work / "plain", "")
    for name in WRAPPED:
        plain = name.replace(" ", "-")
        adapters[plain], read[plain] = work / plain, work / "plain"
        wrap(work / "plain", adapters[plain], name)
    ids = init_cases.sample(10, 6, (1, 30))[0].tolist()  # the ids whose rows change among them
    most, least = 0.0, float("inf")
    with init_cases.Server(a.weft, folder, work / "data", adapters) as server:
        base = init_cases.logprobs(init_cases.base_model(folder).eval(), ids)
        for name in adapters:
            want = init_cases.logprobs(init_cases.loaded(folder, read[name]), ids)
            error = max(abs(x - y) for x, y in zip(server.logprobs(name, ids), want, strict=True))
            effect = max(abs(x - y) for x, y in zip(base, want, strict=True))
            assert error <= init_cases.TOLERANCE, f"{name}: log-probabilities differ from PEFT's by {error:.2e}"
            assert effect > 20 * init_cases.TOLERANCE, f"{name} changes the model by {effect:.2e} only"
            most, least = max(most, error), min(least, effect)
    return f"{len(adapters)} adapters: {most:.1e}, without them {least:.2f}"


def run(check, a, work, models):
    for name in ("llama", "llama-tied", "qwen3", "gemma2", "gemma3"):
        place = work / f"saved {name}"
        place.mkdir()
        check(f"PEFT, saved modules and tokens, {name}", served, a, place, models[name])


def write():
    """Models of one block, adapters of them, and PEFT's logits."""
    shutil.rmtree(FIXTURE, ignore_errors=True)
    shape = dict(vocab_size=24, hidden_size=16, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    ids = torch.tensor([[5, 3, 7, 1, 5, 9, 2, 20]])
    for kind, config, names in (
        ("untied", transformers.LlamaConfig(**shape), ["tokens by module", "last norm, head"]),
        ("tied", transformers.LlamaConfig(**shape, tie_word_embeddings=True), ["tokens", "tied table", "tied pair"]),
        ("gemma3", transformers.Gemma3TextConfig(**shape, head_dim=8, query_pre_attn_scalar=8), ["norms", "tokens"]),
    ):
        torch.manual_seed(1)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for p in model.parameters():
            p.data.normal_(0, 1.2 / p.shape[1] ** 0.5) if p.dim() == 2 else p.data.add_(0.2 * torch.randn_like(p))
        base = FIXTURE / kind / "base"
        model.save_pretrained(base)
        (base / "generation_config.json").unlink(missing_ok=True)
        save(base, FIXTURE / kind / "plain", "")
        for name in names:
            save(base, FIXTURE / kind / name.replace(" ", "-").replace(",", ""), name)
        for adapter in FIXTURE.glob(f"{kind}/*/adapter_config.json"):
            text = json.loads(adapter.read_text())
            adapter.write_text(json.dumps({**text, "base_model_name_or_path": "base"}, indent=1))
            with torch.no_grad():
                logits = init_cases.loaded(base, adapter.parent)(ids).logits[0]
            save_file({"ids": ids[0].int(), "logits": logits.contiguous()}, adapter.parent / "logits.safetensors")
        if kind == "untied":
            for name in ("multimodal", "bare decoder"):
                wrap(FIXTURE / kind / "plain", FIXTURE / kind / name.replace(" ", "-"), name)
    for file in FIXTURE.glob("**/*.safetensors"):
        file.chmod(0o644)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
