"""Writes finetune/train/testdata/early_stopping.json: where transformers' EarlyStoppingCallback stops on random curves
of the evaluation loss, and which evaluation Trainer counts as the best one. Needs transformers 5.

  early_stopping.py FILE
"""
import json
import math
import random
import sys
import types

from transformers import EarlyStoppingCallback, Trainer, TrainerControl, TrainerState
from transformers.trainer_utils import SaveStrategy


def outcome(losses, patience, threshold):
    """Evaluations made, and the index of the best one (-1: none), as Trainer has them."""
    args = types.SimpleNamespace(metric_for_best_model="loss", greater_is_better=False,
        save_strategy=SaveStrategy.STEPS)
    state, control = TrainerState(), TrainerControl()
    callback = EarlyStoppingCallback(patience, threshold) if patience else None
    best = -1
    for i, loss in enumerate(losses):
        state.global_step = i
        # as Trainer._maybe_log_save_evaluate: the callback sees the best metric of the evaluations before
        if callback:
            callback.on_evaluate(args, state, control, {"eval_loss": loss})
        if Trainer._determine_best_metric(types.SimpleNamespace(args=args, state=state), {"eval_loss": loss}, None):
            best = i
        if control.should_training_stop:
            return i + 1, best
    return len(losses), best


def curves(seed, count):
    """Curves that fall, rise, repeat values and move by exactly the threshold."""
    r = random.Random(seed)
    for _ in range(count):
        threshold = r.choice([0, 0, 0.25, 0.125, 1e-3, 0.1])
        losses = [r.uniform(1, 4)]
        for _ in range(r.randrange(1, 14)):
            losses.append(max(0.0, losses[-1] + r.choice([0, threshold, -threshold, r.gauss(-0.05, 0.2),
                r.gauss(0, 0.01), -2 * threshold])))
        if r.random() < 0.2:
            losses = [round(v * 4) / 4 for v in losses]
        yield losses, r.randrange(0, 5), threshold


def main():
    cases = [{"losses": losses, "patience": patience, "threshold": threshold,
        "evaluations": (o := outcome(losses, patience, threshold))[0], "best": o[1]}
        for losses, patience, threshold in curves(23, 150)]
    assert sum(c["evaluations"] < len(c["losses"]) for c in cases) > 40
    assert all(math.isfinite(v) for c in cases for v in c["losses"])
    with open(sys.argv[1], "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


if __name__ == "__main__":
    main()
