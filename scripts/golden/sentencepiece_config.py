"""Writes runtime/tokenizer/testdata/sentencepiece.json: a small tokenizer.model, trained on README.md, and the ids that
transformers gives where only this file and a tokenizer_config.json are there.

Run:  pip install transformers==5.23.0 sentencepiece==0.2.3 && python3 scripts/golden/sentencepiece_config.py
"""
import base64
import io
import json
import os
import pathlib
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import sentencepiece
from transformers import AutoTokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXTS = ["Hello world", " Hello", "  two  spaces", "a<s>b", "a </s> b", "<s> serve", "", "\n\nthe", "é語🐶 x",
    "model</s>adapter <unk> z", "▁x", " ", "weft serves one model to many tenants"]
LLAMA = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
CONFIGS = [LLAMA | c for c in [{}, {"legacy": True, "add_bos_token": True}, {"legacy": False, "add_bos_token": True},
    {"legacy": None}, {"legacy": False, "add_prefix_space": False}, {"legacy": True, "add_prefix_space": False},
    {"add_prefix_space": True}, {"add_bos_token": False}, {"add_bos_token": True, "add_eos_token": True},
    {"add_eos_token": True}, {"bos_token": "</s>", "add_bos_token": True}]]


def main():
    text = (ROOT / "README.md").read_text()
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(text.splitlines()), model_writer=model,
        model_type="bpe", vocab_size=480, byte_fallback=True, character_coverage=0.99, normalization_rule_name="identity",
        remove_extra_whitespaces=False, num_threads=1, minloglevel=2)
    cases = []
    with tempfile.TemporaryDirectory() as t:
        folder = pathlib.Path(t)
        (folder / "tokenizer.model").write_bytes(model.getvalue())
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
        for config in CONFIGS:
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
            tok = AutoTokenizer.from_pretrained(folder)
            ids = [tok(s)["input_ids"] for s in TEXTS]
            cases.append({"config": config, "ids": ids, "decoded": [tok.decode(i) for i in ids]})
    out = {"model": base64.b64encode(model.getvalue()).decode(), "texts": TEXTS, "cases": cases}
    (ROOT / "runtime/tokenizer/testdata/sentencepiece.json").write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
