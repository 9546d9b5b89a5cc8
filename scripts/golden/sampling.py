"""goldens/serve/sampling.json: probabilities of transformers' own logits processors, in float64, and log-probabilities."""

from transformers import (MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper,
    TopKLogitsWarper, TopPLogitsWarper, TypicalLogitsWarper)

from common import *

VOCAB = 40
CONTEXTS = {"a": {"prompt": [3, 9, 9, 17, 39], "output": [17, 5, 5, 5, 22, 9]}, "b": {"prompt": [], "output": []},
    "c": {"prompt": list(range(12)), "output": [30, 30, 30, 38]}}


def logits():
    rng = generator("sampling")
    out = {"normal": rng.standard_normal(VOCAB) * 2.5, "flat": rng.standard_normal(VOCAB) * 0.05,
        "peaked": rng.standard_normal(VOCAB) * 9, "large": rng.standard_normal(VOCAB) * 3 + 2000,
        "ties": np.round(rng.standard_normal(VOCAB) * 2), "impossible": rng.standard_normal(VOCAB) * 2}
    out["impossible"][rng.permutation(VOCAB)[:15]] = -np.inf
    return {k: v.astype(np.float32) for k, v in out.items()}


def params():
    """Each setting alone, then random combinations of all."""
    out = [{}] + [{"temperature": t} for t in (0.0, 0.2, 0.7, 1.6)] + [{"top_k": k} for k in (1, 3, 20, 40)]
    out += [{"top_p": p} for p in (0.0, 0.1, 0.5, 0.9, 0.999)] + [{"min_p": p} for p in (0.01, 0.1, 0.6)]
    out += [{"repetition_penalty": p} for p in (0.6, 1.3)] + [{"presence_penalty": p} for p in (-1.1, 0.8)]
    out += [{"frequency_penalty": p} for p in (-0.4, 0.7)] + [{"logit_bias": {"3": 4.5, "17": -100.0}}]
    rng = generator("params")
    for _ in range(24):
        some = {"temperature": round(rng.uniform(0.3, 1.8), 2), "top_k": int(rng.integers(2, 38)),
            "top_p": round(rng.uniform(0.3, 0.98), 2), "min_p": round(rng.uniform(0.001, 0.2), 3),
            "repetition_penalty": round(rng.uniform(0.7, 1.5), 2), "presence_penalty": round(rng.uniform(-1, 1.5), 2),
            "frequency_penalty": round(rng.uniform(-0.5, 1), 2), "logit_bias": {str(int(rng.integers(VOCAB))): 2.25}}
        keep = rng.permutation(len(some))[: rng.integers(2, len(some) + 1)]
        out.append({k: v for i, (k, v) in enumerate(some.items()) if i in keep})
    return out + typical_params() + [{"repetition_penalty": 1.4, "repeat_last_n": n} for n in (1, 2, 5, 64)]


def typical_params():
    """TypicalLogitsWarper alone, then with the other filters."""
    out = [{"typical_p": p} for p in (1e-6, 0.1, 0.3, 0.5, 0.8, 0.95, 0.999)]
    rng = generator("typical")
    for _ in range(12):
        out.append({"typical_p": round(rng.uniform(0.2, 0.95), 2), "temperature": round(rng.uniform(0.3, 1.8), 2),
            "top_k": int(rng.integers(4, 38)), "top_p": round(rng.uniform(0.3, 0.98), 2),
            "min_p": round(rng.uniform(0.001, 0.2), 3)})
    return out


def penalized(row, p, context):
    scores = torch.tensor(row, dtype=torch.float64)
    for k, v in p.get("logit_bias", {}).items():
        scores[int(k)] += v
    seen = context["prompt"] + context["output"]
    seen = seen[-p.get("repeat_last_n", len(seen)):]  # llama.cpp's window
    if "repetition_penalty" in p and seen:
        scores = RepetitionPenaltyLogitsProcessor(p["repetition_penalty"])(torch.tensor([seen]), scores[None])[0]
    for id in set(context["output"]):  # OpenAI's definition; transformers has none
        scores[id] -= p.get("frequency_penalty", 0.0) * context["output"].count(id) + p.get("presence_penalty", 0.0)
    return scores


def distribution(row, p, context):
    scores = penalized(row, p, context)
    if p.get("temperature") == 0.0:
        out = torch.zeros(VOCAB, dtype=torch.float64)
        out[int((scores == scores.max()).nonzero()[0])] = 1
        return out
    warpers = []
    if "temperature" in p:
        warpers.append(TemperatureLogitsWarper(p["temperature"]))
    if "top_k" in p:
        warpers.append(TopKLogitsWarper(p["top_k"]))
    if "typical_p" in p:
        warpers.append(TypicalLogitsWarper(p["typical_p"]))
    if "top_p" in p:
        warpers.append(TopPLogitsWarper(p["top_p"]))
    if "min_p" in p:
        warpers.append(MinPLogitsWarper(p["min_p"]))
    scores = scores[None]
    for w in warpers:
        scores = w(None, scores)
    return torch.softmax(scores[0], -1)


def tied(scores, p):
    """Whether top_p's result depends on the order of equal logits."""
    finite = scores[torch.isfinite(scores)]
    return "top_p" in p and len(set(finite.tolist())) < len(finite)


def number(x):
    return ("inf" if x > 0 else "-inf") if np.isinf(x) else float(x)


def run(root):
    rows, cases = logits(), []
    for i, p in enumerate(params()):
        for j, (name, row) in enumerate(rows.items()):
            context = "abc"[(i + j) % 3]
            if i >= 25 and (i + j) % 2 and "typical_p" not in p:
                continue
            if tied(penalized(row, p, CONTEXTS[context]), p):
                continue
            with float64():
                probs = distribution(row, p, CONTEXTS[context])
            kept = probs.nonzero().flatten().tolist()
            cases.append({"logits": name, "context": context, "params": p, "kept": len(kept),
                "probs_sparse": {str(k): float(f"{probs[k].item():.12g}") for k in kept}})
    best = {}
    for name, row in rows.items():
        logp = torch.log_softmax(torch.tensor(row, dtype=torch.float64), -1)
        order = sorted(range(VOCAB), key=lambda k: (-row[k], k))[:20]
        best[name] = [{"id": k, "logprob": number(float(f"{logp[k].item():.15g}"))} for k in order]
    write_json(root / "goldens" / "serve" / "sampling.json", {"vocab": VOCAB,
        "logits": {k: [number(x) for x in v] for k, v in rows.items()}, "contexts": CONTEXTS,
        "logprobs_top20_of_raw_logits": best, "cases": cases})
