"""Training runs of weft beside what transformers decides about the same losses.

  early stopping   weft stops after the evaluation at which transformers' EarlyStoppingCallback stops Trainer, and keeps
                   the parameters that Trainer counts as the best
"""
import pathlib
import random
import sys

sys.path.append(str(pathlib.Path(__file__).parents[1] / "golden"))
from early_stopping import outcome

FLAGS = ["--r", "4", "--eval-steps", "1", "--save-steps", "0", "--learning-rate", "2e-2", "--lr-scheduler-type",
    "constant", "--max-steps", "14", "--per-device-train-batch-size", "2"]


def early_stopping(train, a, work, model, data):
    r = random.Random()
    stopped = 0
    for n in range(6):
        flags = [*FLAGS, "--eval-data", data, "--seed", str(r.randrange(1 << 30))]
        losses = [e["loss"] for e in train(a.weft, work / f"stop {n}", model, data, *flags)["evaluations"]]
        falls = [x - y for x, y in zip(losses, losses[1:])]
        for _ in range(3):
            patience, threshold = r.randrange(1, 4), max(0, r.choice([0, 1e-3, 0.1, r.choice(falls), 2 * max(falls)]))
            run = train(a.weft, work / f"stop {n}", model, data, *flags, "--early-stopping-patience", str(patience),
                "--early-stopping-threshold", repr(threshold), "--overwrite-output-dir")
            evaluations, best = outcome(losses, patience, threshold)
            got = (len(run["evaluations"]), run["steps"], run["best_step"])
            assert got == (evaluations, evaluations, best + 1), (losses, patience, threshold, got, evaluations, best)
            assert evaluations == len(losses) or run["stopped"], "run.json does not say why it stopped"
            stopped += evaluations < len(losses)
    assert stopped > 3, f"only {stopped} runs stopped early"
    return f"{stopped} of 18 runs stopped early"


def run(check, train, a, work, models, data):
    check("early stopping", early_stopping, train, a, work, models["llama"], data)
