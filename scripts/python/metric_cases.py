"""Random texts, drawn anew each time, on which `weft eval metrics` computes what sacrebleu, rouge-score, rouge_chinese
and SQuAD's own rule compute, to 1e-6; and the class of every character for the tokenizer intl."""
import collections
import json
import logging
import pathlib
import random
import re
import string
import subprocess
import tempfile

from rouge_chinese import Rouge
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

N = 500
ROUGE = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
TOKENIZERS = ["13a", "intl", "char", "zh", "none"]
WORDS = ("the a an of in weights adapters adapter training trained trains model models loss happily flies died running generalizations "
    "U.S. 3.14 1,000 10-year state-of-the-art don't O'Neil (see) [1] \"quoted\" &quot; &amp; <b> <skipped> e.g., A_b x=1; 50% $5 end. "
    "Ünïcode naïve ÉCOLE ΣΟΦΟΣ İstanbul Straße “smart” … — 日本語 カタカナ 한국어 😀 🫩 ½ ² ٣ ﬁ x\u0301 \u212a").split()
HAN = "今天气很好我们去公园散步吧的是不了在有人这中大为上个国说到时要就出会可也你对生能而子那得于着下自之年过发后作里"
MARKS = "，。！？；：“”’（）《》……—、"


def english(r):
    words = [r.choice(WORDS) for _ in range(r.randrange(1, 30))]
    text = "".join(w + r.choice([" "] * 9 + ["\n", ", ", "  ", "-", ". "]) for w in words)
    return text if r.random() < 0.3 else text.strip()


def chinese(r):
    return "".join(r.choice(HAN) if r.random() < 0.85 else r.choice([r.choice(MARKS), " ", "API", "3.5", "？", "……"])
        for _ in range(r.randrange(1, 40)))


def changed(r, text, units):
    """The text with some of its parts gone, moved or new."""
    parts = re.findall(r"\s*\S+\s*", text) if units is WORDS else list(text)
    parts = [r.choice(units) + (" " if units is WORDS else "") if r.random() < 0.2 else p for p in parts if r.random() > 0.1]
    if r.random() < 0.3:
        parts = parts[len(parts) // 2:] + parts[:len(parts) // 2]
    return "".join(parts)


def pairs(r, draw, units):
    """Texts with one to three references."""
    hyps = [draw(r) for _ in range(N)]
    return hyps, [[changed(r, h, units) for _ in range(r.choice([1, 1, 2, 3]))] for h in hyps]


def weft(a, work, hyps, refs, *flags):
    """What weft prints of texts with their references."""
    for name, rows in (("hyps", [{"text": h} for h in hyps]), ("refs", [{"texts": r} for r in refs])):
        (work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run([a.weft, "eval", "metrics", "--predictions", work / "hyps.jsonl", "--references", work / "refs.jsonl",
        "--json", *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def equal(got, want):
    assert got.keys() == want.keys(), f"{sorted(got)}, want {sorted(want)}"
    worst = max(abs(got[k] - want[k]) for k in want)
    assert worst <= 1e-6, f"{got}, want {want}"
    assert max(want.values()) > 1, f"{want}: the texts have nothing in common"
    return f"{worst:.0e}"


def columns(refs):
    return [[r[i] if i < len(r) else None for r in refs] for i in range(max(map(len, refs)))]


def sacrebleu(a, work, hyps, refs, tokenizer):
    want = {"bleu": BLEU(tokenize=tokenizer).corpus_score(hyps, columns(refs)).score,
        "chrf": CHRF().corpus_score(hyps, columns(refs)).score, "chrf++": CHRF(word_order=2).corpus_score(hyps, columns(refs)).score}
    return equal(weft(a, work, hyps, refs, "--metrics", "bleu,chrf,chrf++", "--tokenize", tokenizer), want)


def one_by_one(a, work, hyps, refs):
    """Sentences alone, whose short texts reach the rules for missing n-grams."""
    worst = 0
    for h, r in list(zip(hyps, refs))[:25]:
        h, r = h[:40], [x[:40] for x in r]
        want = {"bleu": BLEU().corpus_score([h], columns([r])).score, "chrf": CHRF().corpus_score([h], columns([r])).score}
        got = weft(a, work, [h], [r], "--metrics", "bleu,chrf")
        worst = max(worst, *(abs(got[k] - want[k]) for k in want))
        assert worst <= 1e-6, f"{h!r} {r!r}: {got}, want {want}"
    return f"{worst:.0e}"


class Chinese:
    """Runs of a to z and 0 to 9 are tokens, and every other character that is no space."""

    def tokenize(self, text):
        return re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower())


def rouge_score(a, work, hyps, refs, scorer, *flags):
    scores = [scorer.score_multi(r, h) for h, r in zip(hyps, refs)]
    want = {k: 100 * sum(s[k].fmeasure for s in scores) / len(scores) for k in ROUGE}
    return equal(weft(a, work, hyps, refs, "--metrics", ",".join(ROUGE), *flags), want)


def rouge_chinese(a, work, hyps, refs, prepare, *flags):
    refs = [r[0] for r in refs]
    kept = [(h, r) for h, r in zip(hyps, refs) if h.strip() and r.strip()]  # it refuses empty texts
    hyps, refs = map(list, zip(*kept))
    scores = Rouge().get_scores([prepare(h) for h in hyps], [prepare(r) for r in refs])
    want = {k: 100 * sum(s[k]["f"] for s in scores) / len(scores) for k in ("rouge-1", "rouge-2", "rouge-l")}
    return equal(weft(a, work, hyps, [[r] for r in refs], "--metrics", "rouge-1,rouge-2,rouge-l", *flags), want)


def segmented(r):
    """Chinese words of one to three characters between spaces."""
    return " ".join("".join(r.choice(HAN) for _ in range(r.randrange(1, 4))) + r.choice([""] * 6 + list("。？，！") + ["……", "......a"])
        for _ in range(r.randrange(1, 30)))


def squad(a, work, hyps, refs):
    def normal(text):
        text = "".join(c for c in text.lower() if c not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    em = f1 = 0.0
    for h, rs in zip(hyps, refs):
        h, best = normal(h), 0.0
        for r in map(normal, rs):
            same = sum((collections.Counter(h) & collections.Counter(r)).values())
            if same:
                best = max(best, 2 * same / (len(h) + len(r)))
        em, f1 = em + any(normal(r) == h for r in rs), f1 + best
    want = {"exact_match": 100 * em / len(hyps), "f1": 100 * f1 / len(hyps)}
    return equal(weft(a, work, hyps, refs, "--metrics", "exact_match,f1"), want)


def every_character(a, work):
    """The tokenizer intl separates marks and symbols and knows numerals: for each character, the text and what sacrebleu
    makes of it are equal to weft only if it has the same class."""
    tokenizer = BLEU(tokenize="intl").tokenizer
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and chr(c) not in "\n\r"]
    texts = [f"a{chr(c)}b 1{chr(c)}2 {chr(c)}.x x.{chr(c)}" for c in points]
    (work / "hyps.txt").write_text("\n".join(texts), encoding="utf-8", newline="\n")
    (work / "refs.txt").write_text("\n".join(tokenizer(t) for t in texts), encoding="utf-8", newline="\n")
    for tok, same in (("intl", True), ("13a", False)):
        done = subprocess.run([a.weft, "eval", "metrics", "--predictions", work / "hyps.txt", "--references", work / "refs.txt",
            "--metrics", "bleu", "--tokenize", tok, "--json"], capture_output=True, text=True, check=True)
        score = json.loads(done.stdout)["bleu"]
        assert (abs(score - 100) < 1e-9) == same, f"{tok}: {score}"
    return f"{len(points)} characters"


def run(check, a):
    logging.disable()
    seed = random.SystemRandom().randrange(1 << 32)
    r = random.Random(seed)
    print(f"metrics: seed {seed}", flush=True)
    en, zh, words = pairs(r, english, WORDS), pairs(r, chinese, HAN), pairs(r, segmented, HAN)
    en[0][:10] = [refs[0] for refs in en[1][:10]]  # some are equal
    with tempfile.TemporaryDirectory() as t:
        work = pathlib.Path(t)
        for language, texts in (("English", en), ("Chinese", zh)):
            for tokenizer in TOKENIZERS:
                check(f"sacrebleu, {tokenizer}, {language}", sacrebleu, a, work, *texts, tokenizer)
            check(f"sacrebleu, sentences, {language}", one_by_one, a, work, *texts)
            check(f"SQuAD, {language}", squad, a, work, *texts)
            for tokenizer in ("zh", "char"):
                check(f"rouge-score over characters, {tokenizer}, {language}", rouge_score, a, work, *texts,
                    RougeScorer(ROUGE, tokenizer=Chinese()), "--tokenize", tokenizer)
        check("rouge-score", rouge_score, a, work, *en, RougeScorer(ROUGE))
        check("rouge-score, stems", rouge_score, a, work, *en, RougeScorer(ROUGE, use_stemmer=True), "--stemmer")
        check("rouge_chinese, segmented", rouge_chinese, a, work, *words, str)
        check("rouge_chinese, characters", rouge_chinese, a, work, *zh, lambda s: " ".join(s.replace(" ", "")), "--tokenize", "zh")
        check("regex, every character", every_character, a, work)
