"""goldens/train/F_metrics: texts with what sacrebleu, rouge-score, rouge_chinese and NLTK's stemmer make of them.

It runs in the environment of these tools, apart from the other parts; make.py starts it, or:

  "$(scripts/python/environment data)" scripts/golden/metrics.py OUT [--seed N]
"""
import argparse
import collections
import json
import math
import pathlib
import re
import string
import struct

import numpy as np
from nltk.stem.porter import PorterStemmer
from rouge_chinese import Rouge
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

TOKENIZERS = ["13a", "intl", "char", "zh", "none"]
ROUGE = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
FIXED = [("the cat sat on the mat", ["the cat is on the mat", "there is a cat on the mat"]),
    ("", ["not empty"]), ("It costs $3,000.50-5.5 (about 12%).", ["It costs &amp;3,000.50, about 12%."]),
    ("running runners ran.\nThe flies died happily", ["runner runs\ndying fly, happily died\nrunning"]),
    ("今天天气很好,我们去公园散步吧。", ["今天天气很好,我们一起去公园散步。"]), ("Weft 是用 Go 写的“服务”……对吧?", ["Weft是用 Go 写的服务。"]),
    ("The answer, an apple: the Emoji 🫩!", ["answer apple", "a emoji 🫩"])]
WORDS = "the a of weights adapter adapters model training trained quickly slow 3.5 10-year U.S. batch, batch. (loss) loss".split()


def pairs(rng, n):
    """Random texts, and references that differ in some words."""
    out = []
    for _ in range(n):
        words = rng.choice(WORDS, int(rng.integers(4, 14))).tolist()
        refs = [" ".join(w if rng.random() < 0.7 else str(rng.choice(WORDS)) for w in words) for _ in range(rng.integers(1, 3))]
        out.append((" ".join(words), refs))
    return out


class Chinese:
    """Runs of a to z and 0 to 9 are tokens, and every other character that is no space."""

    def tokenize(self, text):
        return re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower())


def normal(text):
    """SQuAD's normalization."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def squad(hyp, refs):
    em = f1 = 0.0
    h = normal(hyp)
    for r in map(normal, refs):
        em = max(em, float(h == r))
        same = sum((collections.Counter(h) & collections.Counter(r)).values())
        if same:
            p, q = same / len(h), same / len(r)
            f1 = max(f1, 2 * p * q / (p + q))
    return {"em": em, "f1": f1}


def evaluate(hyps, refs):
    """BLEU of the library evaluate: counts clipped by the most of any reference, no smoothing, the shortest reference."""
    tok = BLEU(tokenize="13a").tokenizer
    match, total, length, shortest = [0] * 4, [0] * 4, 0, 0
    for h, rs in zip(hyps, refs):
        h, rs = tok(h.rstrip()).split(), [tok(r.rstrip()).split() for r in rs]
        length, shortest = length + len(h), shortest + min(map(len, rs))
        for n in range(4):
            grams = lambda t: collections.Counter(tuple(t[i:i + n + 1]) for i in range(len(t) - n))
            most = collections.Counter()
            for r in rs:
                most |= grams(r)
            match[n] += sum((grams(h) & most).values())
            total[n] += max(0, len(h) - n)
    if 0 in match:
        return {"bleu": 0.0}
    bp = 1.0 if length >= shortest else math.exp(1 - shortest / length)
    return {"bleu": bp * math.exp(sum(math.log(m / t) for m, t in zip(match, total)) / 4)}


def triple(score):
    return [score.precision, score.recall, score.fmeasure]


def case(hyp, refs):
    c = {"hyp": hyp, "refs": refs, "tokenized": {}, "sentence_bleu": {}}
    for name in TOKENIZERS:
        metric = BLEU(tokenize=name, effective_order=True)
        c["tokenized"][name] = [metric.tokenizer(t.rstrip()) for t in (hyp, *refs)]
        b = metric.sentence_score(hyp, refs)
        c["sentence_bleu"][name + "/exp"] = {"score": b.score, "counts": b.counts, "totals": b.totals, "sys_len": b.sys_len,
            "ref_len": b.ref_len}
    c["sentence_bleu_no_effective_order_13a_exp"] = BLEU().sentence_score(hyp, refs).score
    c["chrf"] = CHRF().sentence_score(hyp, refs).score
    c["chrf++"] = CHRF(word_order=2).sentence_score(hyp, refs).score
    c["hf_evaluate_bleu"] = evaluate([hyp], [refs])
    plain, stems, zh = RougeScorer(ROUGE), RougeScorer(ROUGE, use_stemmer=True), RougeScorer(ROUGE, tokenizer=Chinese())
    c["rouge"] = {k: triple(s) for k, s in plain.score(refs[0], hyp).items()}
    c["rouge_stem"] = {k: triple(s) for k, s in stems.score(refs[0], hyp).items()}
    c["rouge_zh"] = {k: triple(s) for k, s in zh.score(refs[0], hyp).items()}
    c["rouge_multi"] = {k: triple(s) for k, s in plain.score_multi(refs, hyp).items()}
    c["squad"] = squad(hyp, refs)
    if hyp:
        c["rouge_chinese"] = {k: [v["p"], v["r"], v["f"]] for k, v in Rouge().get_scores(hyp, refs[0])[0].items()}
    return c


def corpus(hyps, refs):
    out, first = {}, [r[0] for r in refs]
    columns = [[r[i] if i < len(r) else None for r in refs] for i in range(max(map(len, refs)))]
    for name in TOKENIZERS:
        for smooth in ("exp", "floor", "add-k", "none"):
            metric = BLEU(tokenize=name, smooth_method=smooth)
            out[f"{name}/{smooth}/all_refs"] = {"score": metric.corpus_score(hyps, columns).score}
        out[f"{name}/exp/first_ref"] = {"score": BLEU(tokenize=name).corpus_score(hyps, [first]).score}
    out["chrf"] = CHRF().corpus_score(hyps, columns).score
    out["chrf++"] = CHRF(word_order=2).corpus_score(hyps, columns).score
    out["hf_evaluate_bleu_all_refs"] = evaluate(hyps, refs)
    scores = [RougeScorer(ROUGE).score(r, h) for h, r in zip(hyps, first)]
    out["rouge_mean_f"] = {k: float(np.mean([s[k].fmeasure for s in scores])) for k in ROUGE}
    return out


def bootstrap(hyps, refs, rng, samples=60):
    """sacrebleu's paired bootstrap over stored indices."""
    systems = {"base": hyps, "b": [h if rng.random() < 0.5 else r for h, r in zip(hyps, refs)]}
    indices = rng.integers(0, len(hyps), (samples, len(hyps))).astype(np.int32)
    metric, results, drawn = BLEU(), [], {}
    for name, texts in systems.items():
        stats = np.array(metric._extract_corpus_statistics(texts, [refs]))
        score = metric._compute_score_from_stats(stats.sum(0).tolist()).score
        drawn[name] = np.array([metric._compute_score_from_stats(stats[i].sum(0).tolist()).score for i in indices])
        p = None
        if name != "base":
            d = np.abs(drawn[name] - drawn["base"])
            p = float((np.sum(d - d.mean() > abs(score - results[0]["score"])) + 1) / (samples + 1))
        results.append({"system": name, "score": score, "p_value": p, "mean": float(drawn[name].mean())})
    return {"systems": systems, "refs": refs, "results": results, "base_sample_scores_head": drawn["base"][:20].tolist()}, indices


def write_indices(path, indices):
    header = json.dumps({"indices": {"dtype": "I32", "shape": list(indices.shape), "data_offsets": [0, indices.nbytes]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + indices.tobytes())


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


STEMS = """caresses ponies ties caress cats feed agreed plastered bled motoring sing conflated troubled sized hopping tanned
falling hissing fizzed failing filing happy sky enjoy spy relational conditional rational valency hesitancy digitizer
conformably radically differently vilely analogously vietnamization predication operator feudalism decisiveness hopefulness
callousness formality sensitivity sensibility triplicate formative formalize electricity electrical hopeful goodness revival
allowance inference airliner gyroscopic adjustable defensible irritant replacement adjustment dependent adoption homologous
communism activate angularity effective bowdlerize probate rate cease controlling roll skies dying lying news innings howe
proceed exceed succeed flies dies died tied spied geology biologically carefully ally finally really generalizations
oscillators yes say syzygy toy eed ing ied abed owing using ease 2020s 3ing aalli""".split()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--seed", type=int, required=True)
    args = p.parse_args()
    rng = np.random.default_rng(args.seed)
    out = args.out / "goldens" / "train" / "F_metrics"
    out.mkdir(parents=True, exist_ok=True)
    texts = FIXED + pairs(rng, 5)
    hyps, refs = [h for h, _ in texts], [r for _, r in texts]
    write_json(out / "metrics.json", {"cases": [case(h, r) for h, r in texts], "corpus": corpus(hyps, refs)})
    write_json(out / "porter.json", {"stems": {w: PorterStemmer().stem(w) for w in STEMS}})
    result, indices = bootstrap(hyps, [r[0] for r in refs], rng)
    write_json(out / "paired_bootstrap.json", result)
    write_indices(out / "bootstrap_indices.safetensors", indices)


if __name__ == "__main__":
    main()
