"""Adapters of every init_lora_weights that PEFT has, to compare what weft serves with what PEFT computes.

  init_cases.py --write   writes the fixture, adapters/peft/testdata/initial, for `go test ./adapters/peft`

Otherwise round_trips.py calls run: PEFT trains an adapter of each initialization for a few steps and saves it plainly;
weft serves it, and its log-probabilities must be those of PEFT, which loads the base and the adapter again and changes
the base once more. The initializations that cannot be repeated must be refused by name.
"""
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import LoraGAConfig
from safetensors.torch import save_file

FIXTURE = pathlib.Path(__file__).parents[2] / "adapters/peft/testdata/initial"
TOLERANCE = 5e-4
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
ADAPTERS = {  # name: LoraConfig's arguments; served by weft
    "pissa": dict(init_lora_weights="pissa"),
    "pissa-rslora": dict(init_lora_weights="pissa", use_rslora=True, r=3, lora_alpha=5),
    "pissa-patterns": dict(init_lora_weights="pissa", rank_pattern={"o_proj": 2, "layers.0.mlp.down_proj": 6},
        alpha_pattern={"down_proj": 3}),
    "pissa-rslora-patterns": dict(init_lora_weights="pissa", use_rslora=True, rank_pattern={"o_proj": 2},
        alpha_pattern={"down_proj": 3}),
    "pissa-dora": dict(init_lora_weights="pissa", use_dora=True),
    "pissa-bias": dict(init_lora_weights="pissa", bias="lora_only"),
    "pissa-layers": dict(init_lora_weights="pissa", layers_to_transform=[1], target_modules=["o_proj", "down_proj"]),
    "olora": dict(init_lora_weights="olora"),
    "olora-dora": dict(init_lora_weights="olora", use_dora=True, lora_alpha=2),
    "olora-patterns": dict(init_lora_weights="olora", rank_pattern={"o_proj": 1}, alpha_pattern={"down_proj": 3}),
    "pissa-embedding": dict(init_lora_weights="pissa", target_modules=["embed_tokens", "o_proj"]),
    "pissa-saved": dict(init_lora_weights="pissa", modules_to_save=["lm_head"]),
    "gaussian": dict(init_lora_weights="gaussian"),
    "random": dict(init_lora_weights=False),
    "orthogonal": dict(init_lora_weights="orthogonal"),
    "mica": dict(init_lora_weights="mica"),
    "eva": dict(init_lora_weights="eva"),
}
UNTIED = {
    "pissa-head": dict(init_lora_weights="pissa", target_modules=["lm_head", "o_proj"]),
    "olora-head": dict(init_lora_weights="olora", target_modules=["lm_head", "q_proj"]),
}
REFUSED = {
    "pissa_niter": dict(init_lora_weights="pissa_niter_4"),
    "lora_ga": dict(init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig()),
    "loftq": {}, "corda": {},  # PEFT needs further packages for them; only the configuration says it here
}


def base_model(folder, dtype=torch.float32):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")


def sample(vocab, seed=5, shape=(4, 24)):
    return torch.randint(1, vocab, shape, generator=torch.Generator().manual_seed(seed))


def prepared(model, config):
    """What PEFT's guides do before get_peft_model for initializations that depend on data."""
    ids = sample(model.config.vocab_size, 11)
    kind = config.init_lora_weights
    if kind == "lora_ga":
        from peft.tuners.lora.loraga import preprocess_loraga
        preprocess_loraga(model, config, lambda: model(input_ids=ids, labels=ids).loss.backward())
    return model


def train(folder, out, steps=4, dtype=torch.float32, **settings):
    """Trains an adapter with PEFT and saves it plainly, as most users do. Returns the trained model."""
    torch.manual_seed(3)
    config = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **settings}
    if "target_modules" not in config:
        fused = json.loads((folder / "config.json").read_text())["model_type"] == "phi3"
        config["target_modules"] = FUSED if fused else LINEAR
    config = LoraConfig(**config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(prepared(base_model(folder, dtype), config), config)
    if config.init_lora_weights == "eva":
        from peft import initialize_lora_eva_weights
        ids = sample(model.config.vocab_size, 12, (8, 24))
        initialize_lora_eva_weights(model, [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}] * 4,
            show_progress_bar=False)
    ids = sample(model.config.vocab_size)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(out)
    return model.eval()


def logprobs(model, ids):
    with torch.no_grad():
        got = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [got[i, t].item() for i, t in enumerate(ids[1:])]


def loaded(folder, adapter, dtype=torch.float32):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(base_model(folder, dtype), adapter).eval()


class Server:
    """A weft server of a model with adapters."""

    def __init__(self, weft, folder, data, adapters):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{s.getsockname()[1]}"
        flags = [f"--adapter={name}={path}" for name, path in adapters.items()]
        self.log = open(data.with_suffix(".log"), "w+")
        self.process = subprocess.Popen([weft, "serve", "--model", folder, "--listen", self.url.split("//")[1],
            "--data", data, "--activations", "float", "--kv-type", "f32", *flags], stdout=self.log, stderr=self.log)

    def __enter__(self):
        for _ in range(600):
            try:
                return urllib.request.urlopen(self.url + "/ready") and self
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None:
                    raise RuntimeError(pathlib.Path(self.log.name).read_text())
                time.sleep(0.1)
        raise RuntimeError("the server does not start")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()

    def logprobs(self, name, ids):
        body = {"model": name, "prompt": ids, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
        request = urllib.request.Request(self.url + "/v1/completions", json.dumps(body).encode(),
            {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request) as r:
                return json.load(r)["choices"][0]["logprobs"]["token_logprobs"][1:len(ids)]
        except urllib.error.HTTPError as e:
            raise RuntimeError(e.read().decode()) from e


def inspect(weft, folder, adapter):
    done = subprocess.run([weft, "adapters", "inspect", adapter, "--model", folder, "--json"], capture_output=True,
        text=True)
    return json.loads(done.stdout)


def served(a, work, folder, names):
    adapters, settings = {}, {**ADAPTERS, **UNTIED}
    for name in names:
        adapters[name] = work / name
        train(folder, adapters[name], **settings[name])
    ids = sample(base_model(folder).config.vocab_size, 6, (1, 30))[0].tolist()
    most, least = 0.0, float("inf")
    with Server(a.weft, folder, work / "data", adapters) as server:
        plain = logprobs(base_model(folder).eval(), ids)
        for name, adapter in adapters.items():
            want = logprobs(loaded(folder, adapter), ids)
            got = server.logprobs(name, ids)
            error = max(abs(x - y) for x, y in zip(got, want, strict=True))
            effect = max(abs(x - y) for x, y in zip(plain, want, strict=True))
            assert error <= TOLERANCE, f"{name}: log-probabilities differ from PEFT's by {error:.2e}"
            assert effect > 20 * TOLERANCE, f"{name} changes the model by {effect:.2e} only: the check says nothing"
            report = inspect(a.weft, folder, adapter)
            assert report["verdict"] == "fits", f"{name}: {report}"
            told = "subtracts the initial" in "\n".join(report["warnings"])
            assert told == name.startswith(("pissa", "olora")), f"{name}: {report['warnings']}"
            most, least = max(most, error), min(least, effect)
    return f"{len(adapters)} adapters: {most:.1e}, without them {least:.2f}"


def refused(a, work, folder, name):
    train(folder, work / name, **REFUSED[name])
    if not REFUSED[name]:
        config = work / name / "adapter_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "init_lora_weights": name}))
    report = inspect(a.weft, folder, work / name)
    reasons = json.dumps(report["reasons"])
    written = json.loads((work / name / "adapter_config.json").read_text())["init_lora_weights"]
    assert report["verdict"] == "refused" and written in reasons and "save_pretrained" in reasons, report


def converted(a, work, folder, kind):
    """What PEFT converts itself is the same adapter as what weft converts."""
    torch.manual_seed(3)
    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules=LINEAR, init_lora_weights=kind)
    model = get_peft_model(base_model(folder), config)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(work / "initial")
    model.peft_config["default"].init_lora_weights = kind
    ids = sample(model.config.vocab_size)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(4):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(work / "plain")
    model.save_pretrained(work / "converted", path_initial_model_for_weight_conversion=str(work / "initial"))
    ids = sample(model.config.vocab_size, 6, (1, 30))[0].tolist()
    with Server(a.weft, folder, work / "data", {n: work / n for n in ("plain", "converted")}) as server:
        error = max(abs(x - y) for x, y in zip(server.logprobs("plain", ids), server.logprobs("converted", ids)))
    assert error <= TOLERANCE, error
    return f"{error:.1e}"


def bfloat16(a, work, folder, kind):
    """An adapter that was trained on a bfloat16 base: weft is as near to PEFT in float32 as with any, and to PEFT in
    bfloat16 as the rounding of the changed base allows."""
    base_model(folder, torch.bfloat16).save_pretrained(work / "base")
    for file in folder.glob("tokenizer*"):
        shutil.copyfile(file, work / "base" / file.name)
    train(work / "base", work / "adapter", dtype=torch.bfloat16, init_lora_weights=kind)
    ids = sample(base_model(folder).config.vocab_size, 6, (1, 30))[0].tolist()
    with Server(a.weft, work / "base", work / "data", {"a": work / "adapter"}) as server:
        got = server.logprobs("a", ids)
    errors = []
    for dtype in (torch.float32, torch.bfloat16):
        want = logprobs(loaded(work / "base", work / "adapter", dtype), ids)
        errors.append(max(abs(x - y) for x, y in zip(got, want, strict=True)))
    assert errors[0] <= TOLERANCE and errors[1] < 0.5, errors
    return f"float32 {errors[0]:.1e}, bfloat16 {errors[1]:.2f}"


def run(check, a, work, models):
    for name, folder in models.items():
        if name not in ("llama", "llama-tied", "phi3", "qwen2", "gemma2", "gemma3"):
            continue
        tied = json.loads((folder / "config.json").read_text()).get("tie_word_embeddings", name.startswith("gemma"))
        names = [n for n in [*ADAPTERS, *({} if tied else UNTIED)]
            if ("bias" not in n or name == "qwen2") and not (tied and n == "pissa-saved")]
        place = work / f"init {name}"
        place.mkdir()
        check(f"PEFT, init_lora_weights, {name}", served, a, place, folder, names)
    for kind in ("pissa", "olora"):
        place = work / f"init {kind}"
        (place / "bf16").mkdir(parents=True)
        check(f"PEFT, init_lora_weights, {kind} on bfloat16", bfloat16, a, place / "bf16", models["llama"], kind)
        check(f"PEFT, conversion of {kind}", converted, a, place, models["llama"], kind)
    for name in REFUSED:
        check(f"PEFT, init_lora_weights, {name}", refused, a, work, models["llama"], name)


def write():
    """A model of one block, adapters of it, and how PEFT's base and adapter together differ from the base."""
    shutil.rmtree(FIXTURE, ignore_errors=True)
    torch.manual_seed(1)
    shape = dict(vocab_size=24, hidden_size=16, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=0, eos_token_id=0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
    for p in model.parameters():
        if p.dim() == 2:
            p.data.normal_(0, 1.2 / p.shape[1] ** 0.5)
    model.save_pretrained(FIXTURE / "base")
    (FIXTURE / "base/generation_config.json").unlink()
    for name, settings in {
        "pissa": dict(init_lora_weights="pissa", r=2, lora_alpha=3, rank_pattern={"o_proj": 3},
            target_modules=[*LINEAR, "lm_head", "embed_tokens"]),
        "olora": dict(init_lora_weights="olora", r=2, use_rslora=True, alpha_pattern={"down_proj": 3},
            target_modules=["q_proj", "down_proj"]),
    }.items():
        train(FIXTURE / "base", FIXTURE / name, **settings)
        (FIXTURE / name / "README.md").unlink()
        config = FIXTURE / name / "adapter_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "base"}, indent=1))
        merged = loaded(FIXTURE / "base", FIXTURE / name).merge_and_unload().state_dict()
        own = base_model(FIXTURE / "base").state_dict()
        save_file({k: (v - own[k]).contiguous() for k, v in merged.items() if v.dim() == 2},
            FIXTURE / name / "delta.safetensors")
    for file in FIXTURE.glob("*/*.safetensors"):
        file.chmod(0o644)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
