"""Full finetuning with PyTorch, the baseline of `weft train --method full`: the same samples, loss and optimizer.

The data is JSON lines with `text`. Every step takes all samples as one batch, so that their order does not matter, and
all are cut to --length tokens, so that nothing is padded. Prints one JSON object;
tokens_per_second counts forward, backward, clipping and the optimizer, without the first step.
"""
import argparse
import json
import os
import resource
import time


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--model", required=True, help="Hugging Face folder")
    p.add_argument("--data", required=True)
    p.add_argument("--length", type=int, default=256)
    p.add_argument("--steps", type=int, default=40)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(a.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch
    import transformers
    torch.set_num_threads(a.threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(a.model)
    rows = [tokenizer(json.loads(line)["text"])["input_ids"][:a.length] for line in open(a.data, encoding="utf8")]
    if {len(r) for r in rows} != {a.length}:
        raise SystemExit(f"every sample must have at least {a.length} tokens; the shortest has {min(map(len, rows))}")
    ids = torch.tensor(rows)
    model = transformers.AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32)
    model.config.use_cache = False
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=a.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01,
        fused=True)
    losses, seconds = [], []
    for _ in range(a.steps):
        start = time.perf_counter()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    print(json.dumps({"tokens_per_second": ids.numel() * (a.steps - 1) / sum(seconds[1:]), "losses": losses,
        "threads": a.threads, "torch": torch.__version__,
                      "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
