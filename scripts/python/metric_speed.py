"""Measures `weft eval metrics` beside the reference tools: processor time for 100,000 pairs of about 25 words, without
reading the files: of weft's process with the metric, minus that of one which only compares the texts for equality.

make bench-metrics writes docs/benchmarks/metrics.md.
"""
import argparse
import collections
import logging
import pathlib
import platform
import random
import re
import resource
import string
import subprocess
import sys
import tempfile
import time

from rouge_chinese import Rouge
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

HAN = "今天气很好我们去公园散步吧的是不了在有人这中大为上个国说到时要就出会可也你对生能而子那得于着下自之年过发后作里"


def words(r, text):
    """Sentences of 20 to 30 words of a text's prose, and the same with some words changed."""
    vocabulary = re.findall(r"(?<!\S)[\w'-]+[.,;:?!)]?(?!\S)", text)  # each word as often as there
    refs = [r.choices(vocabulary, k=r.randrange(20, 31)) for _ in range(r.pairs)]
    hyps = [[r.choice(vocabulary) if r.random() < 0.3 else w for w in ref] for ref in refs]
    return [" ".join(h) for h in hyps], [" ".join(ref) for ref in refs]


def chinese(r):
    """Sentences of 20 to 30 words of one to three characters, between spaces."""
    vocabulary = ["".join(r.choice(HAN) for _ in range(r.randrange(1, 4))) for _ in range(3000)]
    refs = [r.choices(vocabulary, k=r.randrange(20, 31)) for _ in range(r.pairs)]
    hyps = [[r.choice(vocabulary) if r.random() < 0.3 else w for w in ref] for ref in refs]
    return [" ".join(h) + "。" for h in hyps], [" ".join(ref) + "。" for ref in refs]


class Chinese:
    def tokenize(self, text):
        return re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower())


def normal(text):
    """SQuAD's normalization, as its script has it: the set of punctuation is made for each text."""
    exclude = set(string.punctuation)
    text = "".join(c for c in text.lower() if c not in exclude)
    return " ".join(re.sub(re.compile(r"\b(a|an|the)\b"), " ", text).split())


def f1(hyp, ref):
    h, r = normal(hyp).split(), normal(ref).split()
    same = sum((collections.Counter(h) & collections.Counter(r)).values())
    if same == 0:
        return 0
    p, q = same / len(h), same / len(r)
    return 2 * p * q / (p + q)


def evaluate(hyps, refs):
    """The loops of the metric bleu of the library evaluate."""
    tok = BLEU().tokenizer
    match = collections.Counter()
    for h, r in zip(hyps, refs):
        grams = []
        for t in (r, h):
            t, c = tok(t).split(), collections.Counter()
            for n in range(1, 5):
                for i in range(len(t) - n + 1):
                    c[tuple(t[i:i + n])] += 1
            grams.append(c)
        for g, k in (grams[0] & grams[1]).items():
            match[len(g)] += k


def mean(score):
    return lambda hyps, refs: sum(score(h, r) for h, r in zip(hyps, refs)) / len(hyps)


def rouge(name, **options):
    return mean(lambda h, r, s=RougeScorer([name], **options): s.score(r, h)[name].fmeasure)


def rouge_chinese(name):
    return lambda hyps, refs: Rouge(metrics=[name]).get_scores(hyps, refs, avg=True)


def corpus(metric):
    return lambda hyps, refs: metric().corpus_score(hyps, [refs]).score


def processor(weft, *args):
    """The least processor time of five runs."""
    best = 1e9
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([weft, "eval", "metrics", *args, "--json"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def cases():
    """Metric, its flags, whether over Chinese, and the reference."""
    for name in ("13a", "intl", "char", "zh", "none"):
        yield "bleu", ["--tokenize", name], name == "zh", corpus(lambda name=name: BLEU(tokenize=name))
    yield "chrf", [], False, corpus(CHRF)
    yield "chrf++", [], False, corpus(lambda: CHRF(word_order=2))
    for name in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        yield name, [], False, rouge(name)
    yield "rouge1", ["--stemmer"], False, rouge("rouge1", use_stemmer=True)
    for name in ("rouge1", "rougeL"):
        yield name, ["--tokenize", "zh"], True, rouge(name, tokenizer=Chinese())
    for name in ("rouge-1", "rouge-2", "rouge-l"):
        yield name, [], True, rouge_chinese(name)
    yield "exact_match", [], False, mean(lambda h, r: normal(h) == normal(r))
    yield "f1", [], False, mean(f1)
    yield "hf_evaluate_bleu", [], False, evaluate


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--weft", required=True)
    p.add_argument("--pairs", type=int, default=100_000)
    p.add_argument("--reference-pairs", type=int, default=5_000, help="for the reference, whose time is scaled up")
    p.add_argument("--only", default="")
    p.add_argument("--out", type=pathlib.Path)
    a = p.parse_args()
    logging.disable()
    r = random.Random(1)
    r.pairs = a.pairs
    text = "\n".join(f.read_text() for f in sorted(pathlib.Path("docs").glob("*.md")))
    texts = {False: words(r, text), True: chinese(r)}
    rows = ["| metric | flags | weft, s | reference, s | ratio |", "|---|---|---|---|---|"]
    print("\n".join(rows), flush=True)
    reading = {}
    with tempfile.TemporaryDirectory() as t:
        work = pathlib.Path(t)
        for zh, (hyps, refs) in texts.items():
            (work / f"hyps{zh}").write_text("\n".join(hyps))
            (work / f"refs{zh}").write_text("\n".join(refs))
        for name, flags, zh, reference in cases():
            if a.only and not re.fullmatch(a.only, name):
                continue
            hyps, refs = (x[:a.reference_pairs] for x in texts[zh])
            begin = time.process_time()
            reference(hyps, refs)
            theirs = (time.process_time() - begin) * a.pairs / len(hyps)
            files = ["--predictions", work / f"hyps{zh}", "--references", work / f"refs{zh}"]
            if zh not in reading:
                reading[zh] = processor(a.weft, *files, "--metrics", "exact_match_strict")
            ours = processor(a.weft, *files, "--metrics", name, *flags) - reading[zh]
            rows.append(f"| `{name}` | {' '.join(flags)} | {ours:.2f} | {theirs:.1f} | {theirs / ours:.0f} |")
            print(rows[-1], flush=True)
    if a.out:
        head = (f"# Metrics\n\nProcessor time for {a.pairs:,} pairs of 20 to 30 words on {platform.machine()}, without reading "
            f"the files: of `weft eval metrics`, the best of five\nminus a run that only compares the texts (`exact_match_strict`: "
            f"{reading[False]:.2f} s); of the tools in Python {platform.python_version()}, for {a.reference_pairs:,}\npairs, "
            f"scaled. By `scripts/python/metric_speed.py`.\n\n")
        a.out.write_text(head + "\n".join(rows) + "\n")


if __name__ == "__main__":
    sys.exit(main())
