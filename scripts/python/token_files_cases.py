"""Folders with special and added tokens in any of the files that transformers reads, read by both. See run.

  token_files_cases.py --write    writes the fixture of go test ./runtime/tokenizer, testdata/token_files.json
"""
import argparse
import json
import pathlib
import random
import subprocess
import tempfile
import time

import transformers

import text_cases

FIXTURE = pathlib.Path(__file__).parents[2] / "runtime/tokenizer/testdata/token_files.json"
NAMED = ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token", "image_token"]
TOKENS = ["<|im_start|>", "<|im_end|>", "<pad>", "<x>", "ab", "<x><y>", "</s>", "a", "<tool>", " <y>"]
TEXTS = ["<|im_start|>user\nab<|im_end|>\n", "a <x> b <x>b", "  <pad>  a<tool>ab", "<x><y> <y><x> ab abb", "</s>a </s>",
    "b ab_ab ab", "<|im_end|>", "a<tool> <tool>\n<tool>a"]


# Classes with the kinds of tokenizer.json that they are for; of Llama's a further config.json decides.
CLASSES = {"llama": ["PreTrainedTokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast"],
    "gemma": ["PreTrainedTokenizerFast", "GemmaTokenizer"],
    "byte level": ["PreTrainedTokenizerFast", "GPT2Tokenizer", "LlamaTokenizer"]}
MODELS = ["llama", "mistral", "phi3", "qwen3", "gemma2"]
ROLES = {"GemmaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>",
    "mask_token": "<unk>"}, "GPT2Tokenizer": {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>"}}


def flags(rng, content):
    some = {k: rng.random() < 0.3 for k in ("lstrip", "rstrip", "single_word", "normalized")}
    return {"content": content, **some, "special": rng.random() < 0.6}


def spelled(rng, content, typed):
    """A token as tokenizer_config.json (typed) or special_tokens_map.json spells it."""
    if rng.random() < 0.6:
        return content
    a = flags(rng, content)
    a.pop("special")
    return {"__type": "AddedToken", **a} if typed else a


def draw(rng, kind):
    """Returns the files of a folder: name → object."""
    base = json.loads(text_cases.kinds()[kind].to_str())
    size = max(base["model"]["vocab"].values()) + 1
    vocab = base["model"]["vocab"]
    files, config = {"tokenizer.json": base}, {"tokenizer_class": rng.choice(CLASSES[kind])}
    config |= ROLES.get(config["tokenizer_class"], {})  # else tokens that these files lack
    model = rng.choice(MODELS if "Llama" in config["tokenizer_class"] else ["llama"])
    files["config.json"] = {"model_type": model, "bos_token_id": None, "eos_token_id": None}
    names = rng.sample(TOKENS, rng.randrange(2, 7))
    ids = {}
    for n in names:
        ids[n] = vocab.get(n, size + sum(m not in vocab for m in ids))
    own = {a["content"] for a in base["added_tokens"]}
    for n in names[:rng.randrange(len(names) + 1)]:
        if n not in own and rng.random() < 0.5:
            base["added_tokens"].append({"id": ids[n], **flags(rng, n)})
        elif n not in vocab:
            break
    if rng.randrange(3) == 0:
        config["added_tokens_decoder"] = {str(ids[n]): flags(rng, n) for n in names if rng.random() < 0.8}
        if config["tokenizer_class"] != "PreTrainedTokenizerFast":  # as saved: both files alike
            for a in base["added_tokens"]:
                config["added_tokens_decoder"][str(a["id"])] = {k: v for k, v in a.items() if k != "id"}
    for key in NAMED:
        if rng.random() < 0.3:
            config[key] = spelled(rng, rng.choice(names), True)
    if rng.random() < 0.4:
        key = rng.choice(["additional_special_tokens", "extra_special_tokens"])
        config[key] = [spelled(rng, n, True) for n in rng.sample(names, rng.randrange(len(names)))]
    elif rng.random() < 0.2:
        config["extra_special_tokens"] = {"boi_token": rng.choice(names)}
    if rng.random() < 0.6:
        special = {key: spelled(rng, rng.choice(names), False) for key in NAMED if rng.random() < 0.3}
        if rng.random() < 0.4:
            special["additional_special_tokens"] = rng.sample(names, rng.randrange(len(names)))
        files["special_tokens_map.json"] = special
    if rng.random() < 0.5:
        files["added_tokens.json"] = {n: ids[n] for n in names if rng.random() < 0.7}
    if rng.random() < 0.3:
        config["chat_template"] = rng.choice(["one", [{"name": n, "template": n + "!"}
            for n in rng.sample(["default", "tool_use", "rag"], 2)]])
    files["tokenizer_config.json"] = config
    return files


def write_folder(folder, files):
    folder.mkdir()
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))


def reference(folder, rng):
    """What transformers makes of a folder; None where it does not load it."""
    try:
        t = transformers.AutoTokenizer.from_pretrained(folder)
    except Exception:
        return None
    lists = [[rng.randrange(len(t)) for _ in range(6)] for _ in range(3)] + [list(range(len(t) - 8, len(t)))]
    def encoded(**more):
        return [t.encode(x, add_special_tokens=False, **more) for x in TEXTS]
    out = {"ids": lists, "plain": encoded(), "special": [t.encode(x) for x in TEXTS],
        "skipped": [t.decode(x, skip_special_tokens=True, clean_up_tokenization_spaces=False) for x in lists],
        "whole": [t.decode(x, clean_up_tokenization_spaces=False) for x in lists],
        "bos": t.bos_token or "", "eos": t.eos_token or ""}
    out["as_text"] = encoded(split_special_tokens=True)
    if type(t).__name__ == "LlamaTokenizer":  # weft keeps tokenizer.json's normalizer
        # "a" and "ab" are pieces of words too
        out["only"] = sorted(i for i, a in t.added_tokens_decoder.items() if str(a) not in ("a", "ab"))
    out["templates"] = t.chat_template if isinstance(t.chat_template, dict) else (
        {"default": t.chat_template} if t.chat_template else {})
    return out


def among(only, ids):
    return [i for i in ids if i in only]


def compare(helper, seed, n):
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as work:
        queries, want = [], []
        while len(want) < n:
            folder = pathlib.Path(work) / str(len(queries))
            files = draw(rng, rng.choice(list(CLASSES)))
            write_folder(folder, files)
            ref = reference(folder, rng)
            folder = folder.rename(folder.with_name(f"done {folder.name} {len(want)} {time.time_ns()}"))
            if ref:
                queries.append({"path": str(folder), "texts": TEXTS, "ids": ref.pop("ids")})
                want.append((files, ref))
        out = subprocess.run([helper], input="\n".join(map(json.dumps, queries)), capture_output=True, text=True,
            check=True).stdout
        for line, (files, ref) in zip(out.splitlines(), want, strict=True):
            got = json.loads(line)
            files = {k: v for k, v in files.items() if k != "tokenizer.json"} | {
                "added": files["tokenizer.json"]["added_tokens"]}
            assert "error" not in got, (got["error"], files)
            only = ref.pop("only", None)
            for key, value in ref.items():
                if only is not None and key in ("plain", "special", "as_text"):
                    got[key], value = ([among(only, ids) for ids in lists] for lists in (got[key], value))
                if only is not None and key in ("skipped", "whole"):
                    continue
                assert got[key] == value, (key, [p for p in zip(got[key], value) if p[0] != p[1]]
                    if isinstance(value, list) else (got[key], value), files)
    return f"{n} folders"


def run(check, arguments):
    """Compares the ids, texts, named tokens and chat templates of random folders."""
    helper = ".cache/tokens"
    subprocess.run(["go", "build", "-o", helper, "./scripts/python/tokens"], check=True)
    check("transformers, token files", compare, helper, time.time_ns(), 300)


def write():
    rng, out = random.Random(15), []
    base = text_cases.kinds()["llama"]
    with tempfile.TemporaryDirectory() as work:
        while len(out) < 20:
            folder = pathlib.Path(work) / str(time.time_ns())
            files = draw(rng, "llama")
            write_folder(folder, files)
            if ref := reference(folder, rng):
                files["tokenizer.json"] = files["tokenizer.json"]["added_tokens"]
                out.append({"files": files, **ref})
    model = json.loads(base.to_str()) | {"added_tokens": []}
    lines = ",\n".join(json.dumps(x, separators=(",", ":")) for x in out)
    FIXTURE.write_text(f'{{"tokenizer":{json.dumps(model, separators=(",", ":"))},"texts":{json.dumps(TEXTS)},'
                       f'"cases":[\n{lines}\n]}}\n')


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--write", action="store_true", required=True)
    p.parse_args()
    write()
