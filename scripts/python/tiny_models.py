"""Small random models of the families that weft trains, as transformers writes them, each with a tokenizer."""
import json
import pathlib
import shutil

import tokenizers
import torch
import transformers

SHAPE = dict(vocab_size=512, hidden_size=64, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2,
             max_position_embeddings=512, bos_token_id=0, eos_token_id=0, pad_token_id=0)
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SHAPE),
    "llama-tied": lambda: transformers.LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "qwen2": lambda: transformers.Qwen2Config(**SHAPE),
    "qwen3": lambda: transformers.Qwen3Config(**SHAPE, head_dim=32),
    "phi3": lambda: transformers.Phi3Config(**SHAPE),
    "gemma2": lambda: transformers.Gemma2Config(**SHAPE, head_dim=24, query_pre_attn_scalar=20, sliding_window=8),
    "gemma3": lambda: transformers.Gemma3TextConfig(**SHAPE, head_dim=24, query_pre_attn_scalar=20, sliding_window=8),
}


def tokenizer(folder, texts):
    """Trains a byte-level BPE tokenizer on the texts, of the vocabulary size of the folder's model; writes it there."""
    config = json.loads((folder / "config.json").read_text())
    t = tokenizers.Tokenizer(tokenizers.models.BPE())
    t.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = tokenizers.decoders.ByteLevel()
    t.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
        vocab_size=config["vocab_size"], special_tokens=["<|end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    transformers.PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<|end|>",
        eos_token="<|end|>").save_pretrained(folder)


def make(root, goldens, texts):
    """Writes the models below root, and copies of those of the goldens, and returns {name: folder}."""
    out = {}
    for name, config in CONFIGS.items():
        torch.manual_seed(len(out))
        model = transformers.AutoModelForCausalLM.from_config(config(), dtype=torch.float32)
        for key, p in model.named_parameters():
            if p.dim() == 2:
                p.data.normal_(0, 1.2 / p.shape[1] ** 0.5)
            elif key.endswith("bias"):
                p.data.normal_(0, 0.3)
            else:
                p.data.add_(0.15 * torch.randn_like(p))
        out[name] = root / name
        model.save_pretrained(out[name])
    for folder in sorted(pathlib.Path(goldens, "train", "models").glob("*/")):
        out[folder.name] = pathlib.Path(shutil.copytree(folder, root / folder.name, copy_function=shutil.copyfile))
    for folder in out.values():
        folder.chmod(0o755)
        tokenizer(folder, texts)
    return out
