"""goldens/serve/tokenizers and data/tokenizers: small tokenizers of every kind that weft reads, trained here, with what
the tokenizers library makes of many texts; vocabularies as GGUF with vectors in llama.cpp's layout."""

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.decoders import DecodeStream

import stories
from common import *

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def corpus():
    rng = generator("text")
    lines = [stories.story(rng) for _ in range(220)]
    lines += ["def add(a, b):\n    return a + b\n\n\nfor i in range(10):\n\tprint(i)\n", "Straße, naïve café, ¿qué tal?",
        "Привет, мир! Как дела?", "你好，世界。今天天气很好。", "こんにちは世界", "🙂🙃👍🏽👨‍👩‍👧 yes", "x = 3.14159; y = 2e-8;", "don't can't we'll I'd you're"] * 12
    lines += [" ".join(str(rng.integers(0, 10**int(k))) for k in rng.integers(1, 8, 12)) for _ in range(40)]
    return lines


def texts(special):
    rng = generator("cases")
    out = ["", " ", "  ", "a", " a", "a ", "\n", "\n\n", " \n \n", "\t", "hello", " hello", "Hello, World!", "  two  spaces  ",
        "line\nbreak", "line\r\nbreak\r\n", "tab\tand space", "123456789", "3.14 1,000,000 2e-8", "½ Ⅻ ² ٣٤", "don't DON'T we'll I'd",
        "naïve café Straße", "e\u0301 vs \u00e9", "Привет мир", "你好，世界", "こんにちは", "한국어 텍스트", "עברית العربية", "🙂👍🏽👨‍👩‍👧", "🇩🇪🇫🇷",
        "\u00a0nbsp\u00a0", "\u200bzero\u200d", "\ufeffbom", "▁lower▁line", "_under_score", "a▁b", "\x00\x01", "\ufffd", "def f(x):\n    return x**2\n",
        "<html><b>x</b></html>", "a" * 60, "=" * 33, "  \n\n   x", "Once upon a time, there was a little girl named Lily.",
        "\u0928\u092e\u0938\u094d\u0924\u0947", "ﬁ ﬂ Å Å", "x" + "\u0301" * 4, "MiXeD CaSe", "http://a.b/c?d=e&f#g", "C:\\dir\\file"]
    for s in special:
        out += [s, f"a{s}b", f" {s} ", f"{s}{s}", f"x {s}\n y", s[:-1], f"{s} hello"]
    letters = list("abcdeЖ世🙂é  \n\t0123.,!'\"()") + special
    for _ in range(30):
        out.append("".join(letters[i] for i in rng.integers(0, len(letters), rng.integers(1, 18))))
    for _ in range(8):
        story = stories.story(rng)
        begin = int(rng.integers(0, 60))
        out.append(story[begin : begin + 70])
    return list(dict.fromkeys(out))


def streams(tok, ids):
    out = []
    for skip in (False, True):
        prefixes = [tok.decode(ids[: k + 1], skip_special_tokens=skip) for k in range(len(ids))]
        stream = DecodeStream(skip_special_tokens=skip)
        pieces = [stream.step(tok, i) for i in ids]
        if skip and (prefixes, pieces) == (out[0]["prefix_decode"], out[0]["decode_stream"]):
            break
        out.append({"skip_special": skip, "prefix_decode": prefixes, "decode_stream": pieces})
    return out


def golden(tok, source, special):
    as_text = Tokenizer.from_str(tok.to_str())
    as_text.encode_special_tokens = True
    cases, streaming = [], []
    for i, text in enumerate(texts(special)):
        ids = tok.encode(text, add_special_tokens=False).ids
        case = {"text": text, "ids": ids, "decode": tok.decode(ids, skip_special_tokens=False),
            "decode_skip_special": tok.decode(ids, skip_special_tokens=True)}
        with_special = tok.encode(text).ids
        if with_special != ids:
            case["ids_add_special"] = with_special
        plain = as_text.encode(text, add_special_tokens=False).ids
        if plain != ids:
            case["ids_special_as_text"] = plain
            case["decode_special_as_text"] = tok.decode(plain, skip_special_tokens=False)
        cases.append(case)
        if i % 4 == 0 and len(ids) <= 40:
            streaming += [{"case": i, **s} for s in streams(tok, ids)]
    n = tok.get_vocab_size()
    single = [{"id": i, "token": tok.id_to_token(i), "decode": tok.decode([i], skip_special_tokens=False)}
        for i in sorted({*range(0, 12), *range(n - 6, n), *range(12, n, 9)})]
    return {"source": source, "cases": cases, "streaming": streaming, "single": single}


def byte_level(pre, special, size, normalizer=None, ignore_merges=False, post=None):
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    if post:
        t.post_processor = post(t)
    return t


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def bos(text):
    return lambda t: processors.TemplateProcessing(single=f"{text} $A", pair=f"{text} $A {text} $B",
        special_tokens=[(text, t.token_to_id(text))])


CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tokenizers():
    """name: tokenizer, its special tokens"""
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    out = {
        "smollm2": (byte_level(digits, CHATML, 512), CHATML),
        "gpt2-like": (byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>"], 460), ["<|endoftext|>"]),
        "llama3-like": (byte_level(split(LLAMA3), ["<|begin_of_text|>", "<|eot_id|>"], 480, ignore_merges=True,
            post=bos("<|begin_of_text|>")), ["<|begin_of_text|>", "<|eot_id|>"]),
        "qwen2-like": (byte_level(split(QWEN2), CHATML, 480, normalizer=normalizers.NFC()), CHATML),
    }
    spm, whole = stories.train_tokenizer(corpus(), 520)
    marks = ["<|user|>", "<|end|>"]
    whole["added_tokens"] += [{"id": 520 + i, "content": c, "single_word": False, "lstrip": False, "rstrip": i == 1,
        "normalized": False, "special": True} for i, c in enumerate(marks)]
    out["llama2-like"] = (Tokenizer.from_str(json.dumps(whole)), ["<s>", "</s>", *marks])
    return out


def vocabulary(path, tok, special, pre):
    """A GGUF without tensors, and llama.cpp's kind of vectors beside it."""
    w = gguf.GGUFWriter(str(path), "llama")
    whole = json.loads(tok.to_str())
    if pre is None:
        stories.add_spm_vocabulary(w, whole)
    else:
        pieces = sorted(whole["model"]["vocab"], key=whole["model"]["vocab"].get)
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre(pre)
        w.add_token_list(pieces)
        w.add_token_types([gguf.TokenType.CONTROL if p in special else gguf.TokenType.NORMAL for p in pieces])
        w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in whole["model"]["merges"]])
        w.add_bos_token_id(0)
        w.add_eos_token_id(0)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    some = [t for t in texts([]) if "\x00" not in t and "\r" not in t]
    path.with_name(path.name + ".inp").write_text("\n__ggml_vocab_test__\n".join(some), encoding="utf-8", newline="")
    path.with_name(path.name + ".out").write_text("".join(" ".join(map(str, tok.encode(t, add_special_tokens=False).ids)) +
        "\n" for t in some))


def run(root):
    out = root / "goldens" / "serve" / "tokenizers"
    made = tokenizers()
    for name, (tok, special) in made.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        whole = json.loads(tok.to_str())
        write_json(out / name / "tokenizer.json", whole)
        again = Tokenizer.from_file(str(out / name / "tokenizer.json"))
        # the folder smollm2 stands in for the default model's tokenizer, whose own cases are another set's
        write_json(out / (("digits" if name == "smollm2" else name) + ".json"), golden(again, f"tokenizers/{name}/tokenizer.json", special))
    write_json(out / "smollm2" / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>", "pad_token": "<|im_end|>", "add_prefix_space": False,
        "model_max_length": 8192, "clean_up_tokenization_spaces": False})
    for name, like in (("llama2", "stories260K"), ("hf/phi-3", "llama2-like")):  # stand-ins for public tokenizers
        dir = root / "data" / "tokenizers" / name
        dir.mkdir(parents=True, exist_ok=True)
        source = root / stories_file() if like == "stories260K" else out / like / "tokenizer.json"
        write_json(dir / "tokenizer.json", json.loads(source.read_text()))
        write_json(dir / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True,
            "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": True})
    vocab = root / "data" / "tokenizers" / "llamacpp_vocab"
    vocab.mkdir(parents=True, exist_ok=True)
    vocabulary(vocab / "ggml-vocab-smollm-like.gguf", *made["smollm2"], "smollm")
    vocabulary(vocab / "ggml-vocab-gpt2-like.gguf", *made["gpt2-like"], "gpt-2")
    spm = Tokenizer.from_file(str(root / stories_file()))
    vocabulary(vocab / "ggml-vocab-spm-like.gguf", spm, ["<s>", "</s>"], None)
    write_json(out / "stories260K.json", golden(spm, stories_file(), ["<s>", "</s>"]))


def stories_file():
    return f"data/weights/{stories.NAME}/hf/tokenizer.json"
