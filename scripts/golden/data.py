"""goldens/train/H_data and data/instruct: conversations and instructions as ids with the tokens that the loss counts, by
transformers' renderer and the tokenizers library; packs by TRL's rule; files of records in the public formats."""

from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

import chat
from common import *

EOS = 2
PROMPT = ("Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n")
PROMPT_INPUT = ("Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n"
    "### Response:\n")


def chats(tok, template):
    m, turns = chat.m, ["Hi", "Hello!", "What is 2+2?", "4", "  spaces \n", "naïve 世界 🙂", "a\n\nb", "It's <|im_end|> not", "ok"]
    conversations = [m(("user", a), ("assistant", b)) for a, b in zip(turns, turns[1:])]
    conversations += [m(("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes."), ("user", "Again"), ("assistant", " No. ")),
        m(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e"), ("assistant", "f\n"))]
    head, cases = "<|im_start|>assistant\n", []
    for messages in conversations:
        if any("<|im_end|>" in x["content"] for x in messages):
            continue  # a turn's own end is another rule
        text = render_jinja_template([messages], chat_template=template)[0][0]
        e = tok.encode(text, add_special_tokens=False)
        spans, at = [], 0
        for x in messages:
            if x["role"] == "assistant":
                at = text.index(head, at) + len(head)
                spans.append((at, at + len(x["content"] + "<|im_end|>")))
        def labels(of):
            # a token counts that begins in the answer; one that straddles the header and the answer does not
            return [i if any(a <= s and t <= b for a, b in of) else -100 for i, (s, t) in zip(e.ids, e.offsets)]
        cases.append({"messages": messages, "text": text, "ids": e.ids, "labels": labels(spans), "labels_last_only": labels(spans[-1:])})
    return cases


def alpaca(tok):
    rows = [("Name a colour.", "", "Blue."), ("Add the numbers.", "1, 2 and 3", "6"), ("Say \"hi\"\nin German.", "", "Hallo!\n"),
        ("Repeat.", "naïve 世界 🙂", "naïve 世界 🙂"), ("Write code.", "python", "def f(x):\n    return x\n")]
    cases = []
    for instruction, given, output in rows:
        prompt = (PROMPT_INPUT if given else PROMPT).format(instruction=instruction, input=given)
        p, o = (tok.encode(t, add_special_tokens=False).ids for t in (prompt, output))
        cases.append({"instruction": instruction, "input": given, "output": output, "prompt": prompt, "ids": p + o + [EOS],
            "labels": [-100] * len(p) + o + [EOS]})
    return cases


def packing():
    """Best fit decreasing as TRL's bfd packs: the longest first, each into the bin with the least room that takes it, among
    equals the one that reached that room first; the first label of a sample counts nowhere."""
    rng, length = generator("packing"), 64
    samples = []
    for _ in range(24):
        ids = rng.integers(3, 500, int(rng.integers(4, 90))).tolist()
        labels = [-100 if k < 2 else i for k, i in enumerate(ids)]
        samples.append({"input_ids": ids, "labels": labels})
    bins, clock = [], 0
    for i in sorted(range(len(samples)), key=lambda i: -min(length, len(samples[i]["input_ids"]))):
        n, clock = min(length, len(samples[i]["input_ids"])), clock + 1
        fit = [b for b in bins if b["room"] >= n]
        b = min(fit, key=lambda b: (b["room"], b["since"])) if fit else None
        if b is None:
            b = {"room": length, "samples": []}
            bins.append(b)
        b["samples"].append(i)
        b["room"], b["since"] = b["room"] - n, clock
    packed = []
    for b in bins:
        out = {"input_ids": [], "labels": [], "cu_seqlens": [0]}
        for i in b["samples"]:
            out["input_ids"] += samples[i]["input_ids"][:length]
            out["labels"] += samples[i]["labels"][:length]
            out["cu_seqlens"].append(len(out["input_ids"]))
        packed.append(out)
    return {"seq_length": length, "documents": samples, "packed": packed, "own_bins_document_indices": [b["samples"] for b in bins]}


def run(root):
    out = root / "goldens" / "train" / "H_data"
    tok = Tokenizer.from_file(str(root / "goldens" / "serve" / "tokenizers" / "smollm2" / "tokenizer.json"))
    template = chat.TEMPLATES["default-system"].replace("\\n", "\n")
    write_json(out / "chatml.json", {"template": template, "cases": chats(tok, template)})
    write_json(out / "alpaca.json", {"eos": EOS, "cases": alpaca(tok)})
    write_json(out / "packing_bfd.json", packing())
