"""Runs lm-evaluation-harness against a served weft on a small task, and compares its values with those of `weft eval`.
The task is made of the public data in --data, or where that is absent of testdata/harness.json. `make test-python` runs
it, in an environment of its own (scripts/python/environment harness)."""
import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading

from checks import Checks

CONTEXT, ANSWER = 512, 12  # tokens
BOUND = 1e-4
ROLLING = ("word_perplexity", "byte_perplexity", "bits_per_byte")
FOLDED = {"ignore_case": True, "ignore_punctuation": True, "regexes_to_ignore": [r"(?i)\b(a|an|the)\b", r"^\s+|\s+$"]}


def public(data):
    """Questions with short answers, and texts of which one is longer than the context."""
    questions = []
    with open(data / "instruct/stanford_alpaca/seed_tasks.jsonl") as f:
        for row in map(json.loads, f):
            for i in row["instances"]:
                question = row["instruction"] + ("\n" + i["input"] if i["input"] else "")
                if len(question) < 400 and len(i["output"]) < 20 and "\n" not in i["output"]:
                    questions.append((question, i["output"]))
    play = (data / "corpora/tinyshakespeare_input.txt").read_text()
    return questions, [play[:600], play[600:5000]]


def committed():
    made = json.loads((pathlib.Path(__file__).parent / "testdata/harness.json").read_text())
    return made["questions"], [*made["texts"], " ".join(made["texts"][0] for _ in range(20))]


def write_tasks(folder, questions, texts):
    """A prompt shows some questions with their answers first, so that a small model sees what an answer is."""
    shots = "".join(f"Task: {q}\nAnswer: {a}\n\n" for q, a in questions[:4])
    rows = [{"prompt": f"{shots}Task: {q}\nAnswer:", "completion": f" {a}"} for q, a in questions]
    for name, made in (("answers", rows), ("texts", [{"text": t} for t in texts])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in made))
    answers = {"output_type": "generate_until", "doc_to_text": "{{prompt}}", "doc_to_target": "{{completion}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": ANSWER}}
    exact = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    tasks = {"strict": ("answers", answers | {"metric_list": [exact]}),
        "folded": ("answers", answers | {"metric_list": [exact | FOLDED]}),
        "texts": ("texts", {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
            "metric_list": [{"metric": m} for m in ROLLING]})}
    (folder / "tasks").mkdir()
    for name, (file, task) in tasks.items():
        task |= {"task": name, "dataset_path": "json", "test_split": "test",
            "dataset_kwargs": {"data_files": {"test": str(folder / f"{file}.jsonl")}}}
        (folder / "tasks" / f"{name}.yaml").write_text(json.dumps(task))  # which is YAML, too
    return ",".join(tasks)


def harness(a, folder, tasks):
    """The harness's results, of a server that ends with it."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{s.getsockname()[1]}"
    server = subprocess.Popen([a.weft, "serve", "--max-context", str(CONTEXT), "--listen", at,
        "--served-model-name", "m"], stderr=subprocess.PIPE, text=True)
    try:
        log = []
        for line in server.stderr:
            log.append(line)
            if at in line:
                break
        else:
            raise AssertionError("".join(log))
        rest = threading.Thread(target=server.stderr.read, daemon=True)
        rest.start()
        done = subprocess.run([sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args",
            f"model=m,base_url=http://{at}/v1/completions,tokenizer_backend=remote,max_length={CONTEXT}," +
            "num_concurrent=4",
            "--tasks", tasks, "--include_path", folder / "tasks", "--output_path", folder / "out"], capture_output=True,
            text=True, env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")})
        assert done.returncode == 0, done.stderr[-4000:]
    finally:
        server.terminate()
        server.wait()
    [report] = (folder / "out").rglob("results_*.json")
    return json.loads(report.read_text())["results"]


def weft(a, *args):
    done = subprocess.run([a.weft, "eval", "--max-context", str(CONTEXT), "--json", *map(str, args)],
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {k: v["value"] for k, v in json.loads(done.stdout)["results"][0]["metrics"].items()}


def equal(a, questions, texts):
    with tempfile.TemporaryDirectory() as d:
        d = pathlib.Path(d)
        theirs = harness(a, d, write_tasks(d, questions, texts))
        ours = weft(a, "--data", d / "answers.jsonl", "--metrics", "exact_match,exact_match_strict", "--max-tokens",
            ANSWER, "--stop", "\n") | weft(a, "--data", d / "texts.jsonl", "--metrics", ",".join(ROLLING))
    pairs = {"exact_match_strict": 100 * theirs["strict"]["exact_match,none"],
        "exact_match": 100 * theirs["folded"]["exact_match,none"]} | {m: theirs["texts"][f"{m},none"] for m in ROLLING}
    assert 0 < ours["exact_match_strict"] < 100, ours
    for name, value in pairs.items():
        assert abs(ours[name] - value) <= BOUND, (name, ours[name], value)
    return f"{len(questions)} questions, " + ", ".join(f"{k} {v:.4f}" for k, v in ours.items())


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--weft", required=True)
    p.add_argument("--data", required=True, type=pathlib.Path)
    p.add_argument("--only", default="", help="expression: the checks to make")
    a = p.parse_args()
    a.weft = os.path.abspath(a.weft)
    check = Checks(a.only)
    check("lm-evaluation-harness has weft eval's values on the committed task", equal, a, *committed())
    if a.data.is_dir():
        check("lm-evaluation-harness has weft eval's values on a task of public data", equal, a, *public(a.data))
    print(f"test-python: {check.passed} passed, {check.failed} failed, with lm-evaluation-harness")
    sys.exit(1 if check.failed else 0)


if __name__ == "__main__":
    main()
