"""Compares the ids of package tokenizer with those of the tokenizers library: random tokenizer.json files (normalizers,
pre-tokenizers in sequences, added tokens with all flags, models) and random texts, and every character by itself. A
file that weft refuses must name what it does not know; it may not give other ids.

  python3 scripts/python/tokenizer_cases.py --helper .cache/tokenizer [--seed N] [--files N]   prints what differs
  python3 scripts/python/tokenizer_cases.py --write    writes runtime/tokenizer/testdata/steps.json and characters.json,
                                                        which the Go tests read
"""
import argparse
import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

import unicode_tables

FIXTURE = pathlib.Path(__file__).resolve().parents[2] / "runtime/tokenizer/testdata/steps.json"
CHARACTERS = FIXTURE.with_name("characters.json")
EXPRESSIONS = [r"\p{L}", r"\p{N}", r"\s", r"\p{P}", r"\p{M}", r"\p{S}", r"\p{Z}", r"\p{C}", r"\w", r"\d", r"\S",
    r"\W", r"\P{L}",
    r"[^\s\p{L}\p{N}]", r"\p{Lu}", r"\p{Ll}", r"\p{Lt}", r"\p{Lm}", r"\p{Lo}", r"\p{Mn}", r"\p{Nd}", r"\p{Po}",
    r"\p{Sm}", r"\p{Cn}", r"\p{Han}",
    r"\p{Hiragana}", r"\p{Katakana}", r"\p{Hangul}", r"\p{Latin}", r"\p{Thai}", r"(?i:s)", r"(?i:[a-z])",
    r"(?i:[^a-z])", r"."]
SPELLED = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
BYTE_CHARS = {b: chr(b) for b in SPELLED} | {b: chr(256 + i) for i, b in enumerate(
    b for b in range(256) if b not in SPELLED)}
WORDS = ["a", "ab", "abc", "b", "ba", "hello", "Hello", "HELLO", "don't", "WE'LL", "I'Ve", "'s", "'ſ", "1", "12",
    "345", "6789", "½", "²",
    "٣", "Ⅷ", " ", "  ", "   ", "\n", "\r\n", "\n\n", "\t", "\u00a0", "\u2003", "\u3000", "\x85", "\u200b", "▁",
    "▁▁", "_", "!", "?!", "...", "—",
    "$", "+", "<", ">", "^", "`", "«", "，", "é", "e\u0301", "ﬁ", "ﬀ", "Å", "\u212b", "ẞ", "ß", "İ", "ſ", "K", "ǆ",
    "Ω", "가", "\u1100\u1161",
    "각", "語", "日本語", "ひらがな", "カタカナ", "ｶﾞ", "中文", "русский", "Ё", "עברית", "ไทย", "हिन्दी", "🐶", "👩\u200d💻",
    "\u0301", "\u0345",
    "\u0323\u0307", "\x00", "\x07", "\ue000", "\ufffd", "\U0001d15e", "\U00010d50", "\U00016ea0", "\U0002ebf0",
    "\u1c89",
    "\ua7cb", "\U00011de0", "<s>", "</s>", "<t>", "[x]", "ab ", " ab", "x", "Xy"]
REGEXES = [r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+", r"[一-龥぀-ゟ゠-ヿ]+", r"\p{N}{1,3}", r"\p{N}", r"\d", r"\d+", r"\s+", r"\s", r"\w+",
    r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[^\s]+", r"\p{Han}+", r"[\p{Han}\p{Hiragana}\p{Katakana}]+",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
    r"(?=(\d{3})+(?!\d))", r"\d(?=(?:\d{3})*(?!\d))", r"(?<=\d)(?=\p{L})", r"(?<!\s)\b", r"\b", r"\B", r"^", r"$",
    r"a|ab|abc", r"(a|ab)(c|bcd)?",
    r"a*?b", r"a+?", r"[a-c&&[^b]]+", r"[^\W_]+", r"\p{L}++", r"\p{N}{1,3}+", r"(?>a|ab)c", r"(?i)h+e?L*o",
    r"(?i:[a-c]|ll)", r"\P{L}+", r"\p{^L}+",
    r"x{2,}|x", r"[\x41-\x5a]+", r"\x{4e00}|\u8a9e", r".", r"..", r"\Aa|b\z", r"\h+", r"[\p{Lu}&&\p{Latin}]\p{Ll}*",
    r"\p{M}", r"\p{Mn}+", r"\p{S}", r"\p{Cn}",
    r"", r"(?:)", r"a?", r"a*|b", r"(?:ab?)*|b+", r"(?=a)", r"\p{Greek}", r"[[:alpha:]]+", r"(a)\1", r"\R",
    r"\X", r"(?i:ss|fi)", r"(?i:é)",
    r"(a*)*", r"\p{Tifinagh}", r"\p{Uppercase_Letter}"]


def matches_nothing(regex):
    """Whether it matches the empty string somewhere."""
    for text in ("zz", "a", "b", "1", "<", " ", "\n", "é", "a b", "語"):
        try:
            put = normalizers.Replace(Regex(regex), "\x01").normalize_str(text)
        except Exception:
            return False
        if "\x01" in put and put.replace("\x01", "") == text:
            return True
    return False


NOTHING = [json.dumps({"Regex": r}) for r in REGEXES if matches_nothing(r)]
BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
UNKNOWN = {"UnicodeScripts", "StripAccents", "BertNormalizer", "Nmt", "ByteLevel"}


def pattern(rng):
    if rng.random() < 0.4:
        return {"String": rng.choice([" ", "▁", "a", "ab", "  ", "\n", "<", ".", "é", "1"])}
    return {"Regex": rng.choice(REGEXES)}


def normalizer(rng):
    kind = rng.choice(["NFC", "NFD", "NFKC", "NFKD", "Prepend", "Prepend", "Replace", "Replace", "ReplaceSpace",
        "ReplaceSpace", "Strip",
        "Lowercase", "rare"])
    match kind:
        case "Prepend":
            return {"type": kind, "prepend": rng.choice(["▁", "▁", " ", "x", "ab"])}
        case "Replace":
            return {"type": kind, "pattern": pattern(rng), "content": rng.choice(["▁", " ", "", "x", "ab"])}
        case "ReplaceSpace":
            return {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        case "Strip":
            return {"type": kind, "strip_left": rng.random() < 0.5, "strip_right": rng.random() < 0.5}
        case "rare":
            return rng.choice([{"type": "StripAccents"}, {"type": "Nmt"}, {"type": "ByteLevel"},
                {"type": "BertNormalizer",
                "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}])
    return {"type": kind}


def pre_tokenizer(rng):
    kind = rng.choice(["Metaspace"] * 4 + ["Split"] * 5 + ["ByteLevel"] * 3 + ["Digits", "Digits", "Punctuation",
        "Whitespace", "WhitespaceSplit",
        "BertPreTokenizer", "CharDelimiterSplit", "FixedLength", "UnicodeScripts"])
    match kind:
        case "Metaspace":
            scheme = rng.choice(["always", "first", "never", None])
            out = {"type": kind, "replacement": rng.choice("▁▁▁▁_")}
            if scheme:
                out["prepend_scheme"] = scheme
            elif rng.random() < 0.5:
                out["add_prefix_space"] = True
            if rng.random() < 0.7:
                out["split"] = rng.random() < 0.5
            return out
        case "Split":
            return {"type": kind, "pattern": pattern(rng), "behavior": rng.choice(BEHAVIORS),
                "invert": rng.random() < 0.3}
        case "ByteLevel":
            return {"type": kind, "add_prefix_space": rng.random() < 0.3, "trim_offsets": True,
                "use_regex": rng.random() < 0.5}
        case "Digits":
            return {"type": kind, "individual_digits": rng.random() < 0.5}
        case "Punctuation":
            return {"type": kind, "behavior": rng.choice(BEHAVIORS)}
        case "CharDelimiterSplit":
            return {"type": kind, "delimiter": rng.choice(" a▁語")}
        case "FixedLength":
            return {"type": kind, "length": rng.randint(1, 4)}
    return {"type": kind}


def sequence(rng, kind, key, make, counts):
    steps = [make(rng) for _ in range(rng.choice(counts))]
    if len(steps) == 1 and rng.random() < 0.7:
        return steps[0]
    if len(steps) == 4:  # nested
        steps[1:3] = [{"type": kind, key: steps[1:3]}]
    return {"type": kind, key: steps} if steps else None


def vocabulary(rng, byte_level):
    """Symbols, merges of random neighbours of the words, and sometimes bytes."""
    alphabet = sorted({c for w in WORDS for c in w} | set("▁_ xX")) if not byte_level else list(BYTE_CHARS.values())
    if rng.random() < 0.5:
        alphabet = [c for c in alphabet if c in "aeghlo▁Ġ" or rng.random() < 0.9]
    tokens = {c: i for i, c in enumerate(alphabet)}
    spelled = ["".join(BYTE_CHARS[b] for b in w.encode()) for w in WORDS] if byte_level else WORDS
    corpus = [[c for c in rng.choice(["", "", "▁", "Ġ" if byte_level else " "]) + w if c in tokens]
        for w in spelled * 4]
    merges = []
    for _ in range(rng.choice([0, 20, 60, 120]) + 1):
        pairs = [(w[i], w[i + 1]) for w in corpus for i in range(len(w) - 1)]
        if not pairs:
            break
        a, b = rng.choice(pairs)
        tokens.setdefault(a + b, len(tokens))
        merges.append([a, b])
        for w in corpus:
            i = 0
            while i < len(w) - 1:
                if (w[i], w[i + 1]) == (a, b):
                    w[i:i + 2] = [a + b]
                i += 1
    for w in rng.sample(spelled, 12):  # words that no merge makes
        tokens.setdefault(w, len(tokens))
    return tokens, merges


def tokenizer_json(rng):
    pre = sequence(rng, "Sequence", "pretokenizers", pre_tokenizer, [0, 1, 1, 2, 2, 3, 4])
    byte_level = "ByteLevel" in json.dumps(pre)
    norm = sequence(rng, "Sequence", "normalizers", normalizer, [0, 0, 0, 1, 2, 3])
    if byte_level and pre["type"] == "Sequence" and any(r in json.dumps(norm) for r in NOTHING):
        norm = None  # of what is put in before the first character the library splits the last byte off twice
    tokens, merges = vocabulary(rng, byte_level)
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": rng.random() < 0.5, "byte_fallback": rng.random() < 0.3,
        "ignore_merges": rng.random() < 0.3}
    if rng.random() < 0.5:
        model["unk_token"] = "<unk>"
        tokens["<unk>"] = len(tokens)
    if model["byte_fallback"] or rng.random() < 0.1:
        for b in range(256):
            if rng.random() < 0.98:
                tokens.setdefault(f"<0x{b:02X}>", len(tokens))
    added, used = [], set()
    for _ in range(rng.choice([0, 1, 3, 6])):
        content = rng.choice(["<s>", "</s>", "<t>", "[x]", "ab", "abc", " ab", "ab ", "  ", "é", "Hello", "▁", "1",
            "語", "e\u0301", "_"])
        if content not in used:
            used.add(content)
            added.append({"id": tokens.get(content, len(tokens) + sum(a["content"] not in tokens for a in added)),
                "content": content,
                "single_word": rng.random() < 0.25, "lstrip": rng.random() < 0.3, "rstrip": rng.random() < 0.3,
                "normalized": rng.random() < 0.5, "special": rng.random() < 0.5})
    post = None
    if rng.random() < 0.3:
        post = {"type": "Sequence", "processors": [{"type": "ByteLevel", "add_prefix_space": True,
            "trim_offsets": True, "use_regex": True}, {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "a", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "b", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {k: {"id": k, "ids": [0, 1], "tokens": [k, k]} for k in "ab"}}]}
    elif rng.random() < 0.2:
        post = {"type": rng.choice(["BertProcessing", "RobertaProcessing"]), "sep": ["b", 1], "cls": ["a", 0]}
        if post["type"] == "RobertaProcessing":
            post |= {"trim_offsets": True, "add_prefix_space": False}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": norm,
        "pre_tokenizer": pre,
        "post_processor": post, "decoder": None, "model": model | {"vocab": tokens, "merges": merges}}


def text(rng):
    return "".join(rng.choice(WORDS) for _ in range(rng.choice([0, 1, 2, 3, 5, 8, 13])))


def reference(file, texts):
    """The library's ids, or None where it refuses the file or fails."""
    stderr = os.dup(2)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)  # what a panic says
    try:
        tok = Tokenizer.from_str(json.dumps(file))
        normalize = tok.normalizer.normalize_str if tok.normalizer else str
        contents = [normalize(a["content"]) for a in file["added_tokens"] if a["normalized"]]
        if len(set(contents)) < len(contents):  # chance decides which of equal tokens counts
            return None
        out = {"ids": [tok.encode(t, add_special_tokens=False).ids for t in texts],
            "special": [tok.encode(t).ids for t in texts]}
        tok.encode_special_tokens = True
        out["plain"] = [tok.encode(t, add_special_tokens=False).ids for t in texts]
        return out
    except BaseException as e:  # a panic of Rust is a BaseException
        if isinstance(e, KeyboardInterrupt):
            raise
        return None
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def brief(file):
    return {k: file[k] for k in ("normalizer", "pre_tokenizer", "added_tokens", "post_processor")} | {
        "model": {k: v for k, v in file["model"].items() if k not in ("vocab", "merges")}}


def ask(helper, requests):
    lines = "".join(json.dumps(r) + "\n" for r in requests)
    done = subprocess.run([helper], input=lines, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"the helper ended with {done.returncode}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare(helper, seed, files, show=5):
    rng = random.Random(seed)
    requests, want, all_files = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        while len(requests) < files:
            file, texts = tokenizer_json(rng), [text(rng) for _ in range(12)]
            ids = reference(file, texts)
            if ids is None:
                continue
            path = pathlib.Path(folder) / f"{len(requests)}.json"
            path.write_text(json.dumps(file))
            requests.append({"path": str(path), "texts": texts})
            want.append(ids)
            all_files.append(file)
        got = ask(helper, requests)
    refused, bad = 0, []
    for r, w, g, f in zip(requests, want, got, all_files, strict=True):
        if "error" in g:
            refused += 1
            if "unsupported tokenizer" not in g["error"] or not known_refusal(f, g["error"]):
                bad.append((brief(f), g["error"]))
            continue
        for kind in ("ids", "special", "plain"):
            for t, a, b in zip(r["texts"], w[kind], g[kind], strict=True):
                if a != (b or []):
                    bad.append((brief(f), f"{kind} of {t!r}: {b}, the library {a}"))
    for f, what in bad[:show]:
        print(json.dumps(f, ensure_ascii=False), "\n ", what)
    if bad:
        raise AssertionError(f"{len(bad)} of {3 * 12 * files} texts differ (seed {seed})")
    return f"seed {seed}: {files} files, {refused} refused by name, {12 * (files - refused)} texts"


def known_refusal(file, error):
    """Whether the error names a step or an expression that weft is known to refuse."""
    text = json.dumps([file["normalizer"], file["pre_tokenizer"]])
    return any(f'"{name}"' in error and name in text for name in UNKNOWN) or "regular expression" in error or \
        "after ByteLevel" in error


def plain_vocabularies():
    """The two vocabularies of the fixture: characters with bytes for the others, and bytes."""
    rng = random.Random(3)
    chars, merges = {c: i for i, c in enumerate("abcdehlox ▁_1é語")}, [["a", "b"], ["▁", "a"], ["ab", "c"], ["l",
        "l"], ["▁", "▁"], ["1", "1"]]
    for a, b in merges:
        chars.setdefault(a + b, len(chars))
    for w in ["hello", "▁hello", "<unk>"] + [f"<0x{b:02X}>" for b in range(256)]:
        chars.setdefault(w, len(chars))
    spelled = {BYTE_CHARS[b]: b for b in range(256)}
    pairs = [["a", "b"], ["Ġ", "a"], ["ab", "c"], ["l", "l"], ["Ġ", "Ġ"], ["1", "2"], ["Ã", "©"], ["Ċ", "Ċ"]]
    for w in [a + b for a, b in pairs] + ["hello", "Ġhello", "<unk>"]:
        spelled.setdefault(w, len(spelled))
    return [{"vocab": chars, "merges": merges}, {"vocab": spelled, "merges": pairs}]


def write():
    """Files of the fixture take the place of their vocabulary by its number."""
    rng = random.Random(20)
    vocabularies, out = plain_vocabularies(), []
    while len(out) < 60:
        file, texts = tokenizer_json(rng), [text(rng) for _ in range(5)]
        which = int("ByteLevel" in json.dumps(file["pre_tokenizer"]))
        model = vocabularies[which]
        file["model"] |= model
        for i, a in enumerate(file["added_tokens"]):
            a["id"] = model["vocab"].get(a["content"], len(model["vocab"]) +
                sum(b["content"] not in model["vocab"] for b in file["added_tokens"][:i]))
        ids = reference(file, texts)
        if ids is None or any(f'"{name}"' in json.dumps([file["normalizer"], file["pre_tokenizer"]["type"]
                if file["pre_tokenizer"] else ""]) for name in UNKNOWN):
            continue
        file["model"] = {k: v for k, v in file["model"].items() if k not in ("vocab", "merges") and v not in (None,
            False)} | {"vocab": which}
        out.append({k: v for k, v in file.items() if v} | {"cases": [[t, a, b] for t, a, b in zip(texts,
            ids["special"], ids["plain"])]})
    dump = lambda v: json.dumps(v, ensure_ascii=True, separators=(",", ":"))
    FIXTURE.parent.mkdir(exist_ok=True)
    FIXTURE.write_text('{"vocabularies":[\n' + ",\n".join(map(dump, vocabularies)) + '],\n"files":[\n' +
        ",\n".join(map(dump, out)) + "]}\n")
    CHARACTERS.write_text(json.dumps(digests(), indent=1) + "\n")


def digests():
    """Of each expression, the digest of the characters it matches, one byte a character, 1 or 0; of each step, the
    digest of the UTF-8 of what each character becomes, each followed by a line break. Surrogates are left out."""
    digest = lambda data: hashlib.sha256(data).hexdigest()[:32]
    out = {"expressions": {}, "steps": {}}
    for e in EXPRESSIONS:
        found = unicode_tables.matched(e)
        out["expressions"][e] = [len(found), digest(bytes(c in found for c in unicode_tables.ALL))]
    for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase"):
        step = getattr(normalizers, name)().normalize_str
        out["steps"][name] = digest("".join(step(c) + "\n" for c in unicode_tables.ALL).encode())
    for name, step in {"Digits": pre_tokenizers.Digits(individual_digits=True),
            "Punctuation": pre_tokenizers.Punctuation(),
            "Whitespace": pre_tokenizers.Whitespace(), "WhitespaceSplit": pre_tokenizers.WhitespaceSplit(),
            "BertPreTokenizer": pre_tokenizers.BertPreTokenizer()}.items():
        out["steps"][name] = digest("".join("|".join(p for p, _ in step.pre_tokenize_str("a" + c + "a")) + "\n"
            for c in unicode_tables.ALL).encode())
    return out


def normalized(helper):
    """The forms of random texts of characters that decompose, compose or have a combining class."""
    rng = random.Random(4)
    table = {}
    for line in unicode_tables.FILE.read_text().replace("\n ", " ").splitlines():
        name, *values = line.split()
        if name in ("canonical", "compatible"):
            table[name] = [v.split("=")[0] for v in values]
        elif name == "combining":
            table[name] = table.get(name, []) + [v.split("-")[0] for v in values[1:]]
    table["hangul"] = ["1100", "1161", "11a8", "ac00", "ac01", "1112", "1175", "11c2", "d7a3", "11a7"]
    table["letter"] = ["61", "65", "6f", "3b1", "4e00", "915", "9c7", "f71"]
    texts = ["".join(chr(int(rng.choice(table[rng.choice(list(table))]), 16)) for _ in range(rng.choice([2, 3, 5, 9,
        40])))
        for _ in range(4000)]
    vocab = {f"<0x{b:02X}>": b for b in range(256)} | {"\ue000": 256, "\ue000" * 2: 257}
    model = {"type": "BPE", "vocab": vocab, "merges": [["\ue000", "\ue000"]], "byte_fallback": True}
    with tempfile.TemporaryDirectory() as folder:
        requests = []
        for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase"):
            path = pathlib.Path(folder) / f"{name}.json"
            path.write_text(json.dumps({"normalizer": {"type": name}, "model": model, "added_tokens": []}))
            requests.append({"path": str(path), "texts": texts})
        for r, g in zip(requests, ask(helper, requests), strict=True):
            name = pathlib.Path(r["path"]).stem
            step = getattr(normalizers, name)().normalize_str
            for t, ids in zip(texts, g["ids"], strict=True):
                assert bytes(ids
                    or []).decode() == step(t), f"{name} of {t!r}: {bytes(ids).decode()!r}, the library {step(t)!r}"
    return f"{len(texts)} texts, 5 steps"


def characters():
    assert unicode_tables.text() == unicode_tables.FILE.read_text(), "unicode.txt differs from the library: " \
        "run scripts/python/unicode_tables.py --write"
    got, want = json.loads(CHARACTERS.read_text()), digests()
    assert got == want, f"{CHARACTERS} differs from the library: run scripts/python/tokenizer_cases.py --write"


def run(checks, arguments):
    checks("random tokenizer.json files against tokenizers", compare, arguments.tokenizer, random.randrange(2**32),
        500)
    checks("normalization forms of random texts against tokenizers", normalized, arguments.tokenizer)
    checks("every character against tokenizers", characters)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--helper")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--files", type=int, default=1000)
    p.add_argument("--show", type=int, default=5)
    p.add_argument("--write", action="store_true")
    a = p.parse_args()
    if a.write:
        write()
    if not a.helper:
        return
    try:
        print(compare(a.helper, a.seed, a.files, a.show))
    except AssertionError as e:
        sys.exit(str(e))


if __name__ == "__main__":
    main()
