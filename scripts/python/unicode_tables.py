"""Reads the properties of all characters out of the tokenizers library, for runtime/tokenizer/unicode.txt. Its parts
follow different versions of Unicode: Oniguruma (regular expressions) 16, Rust's char (Digits, Lowercase) 17, the
normalization forms 12, Punctuation 9; so the tables come from the library and not from Unicode's files.

  python3 scripts/python/unicode_tables.py --write   writes the file; needs the tokenizers package only

`make test-python` compares the file with the library that is installed there.
"""
import argparse
import pathlib
import textwrap

from tokenizers import Regex, normalizers, pre_tokenizers

FILE = pathlib.Path(__file__).resolve().parents[2] / "runtime/tokenizer/unicode.txt"
POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
ALL = "".join(map(chr, POINTS))
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cn".split()
SCRIPTS = "Han Hiragana Katakana Hangul Latin Greek Cyrillic Arabic Hebrew Thai Devanagari".split()
HANGUL = range(0xAC00, 0xAC00 + 11172)


def matched(expression):
    """The characters that a regular expression of one character matches."""
    def run(to, text):
        return normalizers.Replace(Regex(expression), to).normalize_str(text)
    out = {a for a, b in zip(ALL, run("\0", ALL), strict=True) if a != b}
    return out | {"\0"} if run("x", "\0") == "x" else out


def alone(step):
    """The characters that a pre-tokenizer separates from letters on both sides."""
    return {c for c in ALL if len(step.pre_tokenize_str("a" + c + "a")) == 3}


def ranges(chars):
    out = []
    for c in sorted(map(ord, chars)):
        if out and out[-1][1] in (c - 1, 0xD7FF if c == 0xE000 else -1):
            out[-1][1] = c
        else:
            out.append([c, c])
    return " ".join(f"{a:x}-{b:x}" if a != b else f"{a:x}" for a, b in out)


def classes(nfd):
    """The canonical combining class of each character that has one, from how NFD orders pairs of marks."""
    def swaps(a, b):
        return nfd("e" + a + b) == "e" + b + a and a != b
    probe = "\u0345"  # class 240, the highest
    marks = {c for c in ALL if ord(c) not in HANGUL and nfd(c) == c and swaps(probe, c)} | {probe}
    groups = []  # marks of equal class, in order of class
    for c in sorted(marks):
        low, high = 0, len(groups)
        while low < high:
            middle = (low + high) // 2
            g = groups[middle][0]
            if swaps(c, g):
                low = middle + 1
            elif swaps(g, c):
                high = middle
            else:
                groups[middle].append(c)
                break
        else:
            groups.insert(low, [c])
    return groups


def hexes(s):
    return ",".join(f"{ord(c):x}" for c in s)


def lines():
    seen = set()
    for name in CATEGORIES:
        got = matched(r"\p{" + name + "}")
        assert not seen & got, name
        seen |= got
        if name != "Cn":
            yield f"category {name} {ranges(got)}"
    assert seen == set(ALL)
    for name in SCRIPTS:
        yield f"script {name} " + ranges(matched(r"\p{" + name + "}"))
    yield "word " + ranges(matched(r"\w"))
    yield "space " + ranges(matched(r"\s"))
    words = pre_tokenizers.Whitespace().pre_tokenize_str
    yield "rust-word " + ranges(c for c in ALL if len(words("a" + c + "a")) == 1)
    yield "rust-space " + ranges(c for c in ALL if not pre_tokenizers.WhitespaceSplit().pre_tokenize_str(c))
    yield "rust-numeric " + ranges(alone(pre_tokenizers.Digits(individual_digits=True)))
    yield "rust-punctuation " + ranges(alone(pre_tokenizers.Punctuation()))
    lower = normalizers.Lowercase().normalize_str
    yield "lower " + " ".join(f"{ord(c):x}={hexes(lower(c))}" for c in ALL if lower(c) != c)
    forms = [getattr(normalizers, f)().normalize_str for f in ("NFC", "NFD", "NFKC", "NFKD")]
    nfc, nfd, nfkc, nfkd = forms
    for i, group in enumerate(classes(nfd)):
        yield f"combining {i + 1} {ranges(group)}"
    rest = [c for c in ALL if ord(c) not in HANGUL]
    yield "canonical " + " ".join(f"{ord(c):x}={hexes(nfd(c))}" for c in rest if nfd(c) != c)
    yield "compatible " + " ".join(f"{ord(c):x}={hexes(nfkd(c))}" for c in rest if nfkd(c) != nfd(c))
    pairs = []
    for c in rest:
        d = nfd(c)
        if d != c and nfc(c) == c:
            first = nfc(d[:-1])
            assert len(first) == 1 and nfc(first + d[-1]) == c, hex(ord(c))
            pairs.append(f"{hexes(first + d[-1])}={ord(c):x}")
    yield "compose " + " ".join(pairs)


def text():
    """One table a paragraph: its name, then its values; lines that begin with a space continue it."""
    out = ["# written by scripts/python/unicode_tables.py"]
    for line in lines():
        out += textwrap.wrap(line, 118, subsequent_indent=" ", break_on_hyphens=False, break_long_words=False)
    return "\n".join(out) + "\n"


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--write", action="store_true")
    if p.parse_args().write:
        FILE.write_text(text())


if __name__ == "__main__":
    main()
