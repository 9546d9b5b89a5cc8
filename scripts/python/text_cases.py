"""The text of completions, compared with tokenizers' decode, and YaRN in a folder and in its GGUF file. See run.

  text_cases.py --write    writes the fixture of go test ./runtime/tokenizer, testdata/streams.json

The text of a completion is decode(prompt ids + new ids) without decode(prompt ids), which ends at its last complete
character. The tokenizers are made up, of the kinds that models have, with many byte tokens, so that random ids are full
of half characters.
"""
import argparse
import codecs
import json
import pathlib
import random
import re
import subprocess
import tempfile
import time
import urllib.request

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

FIXTURE = pathlib.Path(__file__).parents[2] / "runtime/tokenizer/testdata/streams.json"
SPACE = "\u2581"
HALF = "\ufffd"


def pieces():
    """A SentencePiece-style vocabulary with bytes, and its merges."""
    merges = [(SPACE, "a"), (SPACE, "b"), ("a", "b"), (SPACE + "a", "b"), (SPACE, SPACE), (SPACE + SPACE, SPACE)]
    words = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    words += [SPACE, "a", "b", "é", "世", "!", "\n"] + [x + y for x, y in merges]
    return {w: i for i, w in enumerate(words)}, merges


def spm(decoder, normalizer=None, pre=None):
    vocab, merges = pieces()
    t = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if normalizer:
        t.normalizer = normalizer
    if pre:
        t.pre_tokenizer = pre
    if decoder:
        t.decoder = decoder
    t.add_special_tokens(["<unk>", "<s>", "</s>"])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return t


def byte_level():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "a"), ("a", "b"), ("Ã", "©"), ("ä", "¸"), ("ä¸", "ĸ"), ("ð", "Ł")]
    words = ["</s>"] + alphabet + [x + y for x, y in merges]
    t = tokenizers.Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, merges))
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    t.add_special_tokens(["</s>"])
    return t


def kinds():
    """Returns the tokenizers by their names."""
    sequence, replace = decoders.Sequence, decoders.Replace(SPACE, " ")
    llama = [replace, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    spaces = normalizers.Replace(" ", SPACE)
    prepended = normalizers.Sequence([normalizers.Prepend(SPACE), spaces])
    meta = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False)
    return {
        "llama": spm(sequence(llama), prepended),
        "mistral": spm(sequence(llama), pre=meta),
        "gemma": spm(sequence(llama[:3]), spaces),
        "two spaces": spm(sequence(llama[:3] + [decoders.Strip(" ", 2, 0)]), prepended),
        "metaspace": spm(decoders.Metaspace(replacement=SPACE, prepend_scheme="always"), prepended),
        "metaspace with bytes": spm(sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")]),
            prepended),
        "no decoder": spm(None, prepended),
        "byte level": byte_level(),
    }


def byte(t, i):
    piece = t.id_to_token(i)
    return bytes([int(piece[3:5], 16)]) if len(piece) == 6 and piece.startswith("<0x") else None


def complete(t, ids, skip):
    """The text of ids up to its last complete character."""
    text = t.decode(ids, skip_special_tokens=skip)
    if not text.endswith(HALF):
        return text
    for n in range(1, 4):  # byte tokens that begin a character leave those before them as they are
        tail = [byte(t, i) for i in ids[len(ids) - n:]]
        try:
            if None not in tail and codecs.getincrementaldecoder("utf-8")().decode(b"".join(tail)) == "":
                before = t.decode(ids[:-n], skip_special_tokens=skip)
                if not before.endswith(HALF):
                    return before
        except UnicodeDecodeError:
            pass
    return text.rstrip(HALF)


def answer(t, prompt, new, skip=True):
    """The text of the completion new."""
    return t.decode(prompt + new, skip_special_tokens=skip)[len(complete(t, prompt, skip)):]


def some_ids(t, rng, most):
    """Random ids, or those of text cut anywhere."""
    if rng.random() < 0.5:
        text = "".join(rng.choice(["a", "ab ", " b", "é", "世", "界", "😀", "  ", "\n", "!", "ü"])
                       for _ in range(rng.randrange(1, 6)))
        ids = t.encode(text, add_special_tokens=rng.random() < 0.5).ids
        return ids[:rng.randrange(1, len(ids) + 1)]
    return [rng.randrange(t.get_vocab_size()) for _ in range(rng.randrange(most))]


def write():
    rng, out = random.Random(15), []
    for name, t in kinds().items():
        cases = []
        for _ in range(25):
            prompt, new, skip = some_ids(t, rng, 5), some_ids(t, rng, 7), rng.random() < 0.5
            cases.append({"prompt": prompt, "new": new, "skip": skip, "complete": complete(t, prompt, skip),
                "text": answer(t, prompt, new, skip), "whole": t.decode(prompt + new, skip_special_tokens=skip)})
        out.append({"name": name, "tokenizer": json.loads(t.to_str()), "cases": cases})
    lines = ",\n".join(json.dumps(x, separators=(",", ":")) for x in out)
    FIXTURE.write_text(f"[\n{lines}\n]\n")


class Server:
    """weft serve on a folder or GGUF file."""

    def __init__(self, weft, model, folder, *flags):
        self.log = open(folder / "serve.log", "w+")
        self.process = subprocess.Popen([weft, "serve", "--model", model, "--listen", "127.0.0.1:0", "--data",
            folder / "data", "--memory", "512MiB", "--kv-memory", "16MiB", *flags], stderr=self.log)

    def __enter__(self):
        for _ in range(600):
            time.sleep(0.1)
            log = pathlib.Path(self.log.name).read_text()
            if ready := re.search(r"msg=ready url=(\S+)/v1", log):
                self.url = ready[1]
                return self
            if self.process.poll() is not None:
                break
        self.process.kill()
        raise RuntimeError("weft serve: " + log)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()

    def post(self, path, **body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(),
            {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as r:
            text = r.read().decode()
        if not body.get("stream"):
            return json.loads(text)
        return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def tiny(folder, t, **config):
    """Writes a random model with the tokenizer t."""
    import torch
    import transformers
    n = t.get_vocab_size()
    torch.manual_seed(n)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=n, hidden_size=32, intermediate_size=64,
        num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=256,
        bos_token_id=None, eos_token_id=None, **config))
    model.save_pretrained(folder)
    t.save(str(folder / "tokenizer.json"))


def completions(weft, name, t, seed):
    """Compares completions of a served model: whole, streamed, echoed, offsets and the command."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        tiny(work / "model", t)
        with Server(weft, work / "model", work) as s:
            for i in range(20):
                ids = some_ids(t, rng, 6) or [5]
                skip = rng.random() < 0.7
                ask = dict(model="model", prompt=ids, max_tokens=rng.randrange(1, 12), seed=i, temperature=1.5,
                    skip_special_tokens=skip, return_token_ids=True, logprobs=1)
                whole = s.post("/v1/completions", **ask)["choices"][0]
                new, text = whole["token_ids"], whole["text"]
                want = answer(t, ids, new, skip)
                assert text == want, (name, ids, new, skip, text, want)
                streamed = s.post("/v1/completions", stream=True, **ask)
                parts = [c["text"] for e in streamed for c in e["choices"]]
                assert "".join(parts) == want, (name, ids, new, skip, parts, want)
                echoed = s.post("/v1/completions", echo=True, **ask)["choices"][0]["text"]
                assert echoed == complete(t, ids, skip) + want, (name, ids, new, skip, echoed)
                base = len(complete(t, ids, skip))
                offsets = whole["logprobs"]["text_offset"]
                whole_texts = [complete(t, ids + new[:k], skip) for k in range(len(new))]
                if HALF not in t.decode(ids + new, skip_special_tokens=skip):
                    assert offsets == [max(len(w) - base, 0) for w in whole_texts], (name, ids, new, offsets,
                        whole_texts)
            if name != "no decoder":
                ask = dict(model="model", prompt="a", max_tokens=6, temperature=0, return_token_ids=True)
                c = s.post("/v1/completions", **ask)["choices"][0]
                for at in range(1, len(c["text"])):
                    stop = c["text"][at - 1:at + 1]
                    got = s.post("/v1/completions", stop=stop, **ask)["choices"][0]["text"]
                    assert got == c["text"][:c["text"].index(stop)], (name, stop, got, c["text"])
        out = subprocess.run([weft, "generate", "--model", work / "model", "--prompt", "a ab",
            "--max-tokens", "8", "--temperature", "1.5", "--json"], capture_output=True, text=True, check=True).stdout
        out = json.loads(out)
        want = answer(t, t.encode("a ab").ids, out["token_ids"])
        assert out["text"] == want, (name, out, want)


def yarn(weft, attention_factor):
    """Compares a text's likelihood under a folder with YaRN and under its GGUF file with transformers."""
    import gguf
    import torch
    import transformers
    t, text = byte_level(), "a abé世 " * 25
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
        if attention_factor:
            rope["attention_factor"] = attention_factor
        tiny(work / "model", t, rope_parameters=rope)
        model = transformers.AutoModelForCausalLM.from_pretrained(work / "model", dtype=torch.float32)
        torch.manual_seed(1)
        for p in model.parameters():
            if p.dim() == 2:
                p.data.normal_(0, 2 / p.shape[1] ** 0.5)
        model.save_pretrained(work / "model")
        ids = torch.tensor([t.encode(text).ids])
        with torch.no_grad():
            want = model(ids, labels=ids).loss.item()
        w = gguf.GGUFWriter(work / "model.gguf", "llama")
        c = model.config
        w.add_context_length(c.max_position_embeddings)
        w.add_embedding_length(c.hidden_size)
        w.add_block_count(c.num_hidden_layers)
        w.add_feed_forward_length(c.intermediate_size)
        w.add_head_count(c.num_attention_heads)
        w.add_head_count_kv(c.num_key_value_heads)
        w.add_layer_norm_rms_eps(c.rms_norm_eps)
        w.add_rope_freq_base(10000.0)
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(4.0)
        w.add_rope_scaling_orig_ctx_len(64)
        if attention_factor:
            w.add_float32("llama.rope.scaling.yarn_attn_factor", attention_factor)
        vocabulary = json.loads(t.to_str())["model"]
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre("gpt-2")
        w.add_token_list(sorted(vocabulary["vocab"], key=vocabulary["vocab"].get))
        w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in vocabulary["merges"]])
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c.num_hidden_layers)
        for name, tensor in model.state_dict().items():
            if "q_proj" in name or "k_proj" in name:  # the converter's order of rotated pairs
                tensor = tensor.reshape(c.num_attention_heads, 2, -1, c.hidden_size).swapaxes(1, 2).reshape(
                    tensor.shape)
            w.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor.contiguous().numpy())
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        (work / "text").write_text(text)
        for path in ("model", "model.gguf"):
            out = subprocess.run([weft, "score", "--model", work / path, "--file", work / "text", "--json", "--memory",
                "512MiB", "--kv-type", "f32"], capture_output=True, text=True, check=True).stdout
            got = json.loads(out)["mean_nll"]
            assert abs(got - want) < 1e-4, (path, attention_factor, got, want)
    return f"{want:.4f}"


def run(check, arguments):
    """Compares the completions of a random model with each tokenizer, of random prompts, and models with YaRN."""
    for factor in (None, 0.8, 1.7):
        check(f"transformers, yarn, attention factor {factor}", yarn, arguments.weft, factor)
    for name, t in kinds().items():
        check(f"tokenizers, completions, {name}", completions, arguments.weft, name, t, time.time_ns())


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--write", action="store_true", required=True)
    p.parse_args()
    write()
