"""data/: a small Llama trained on stories made up from a grammar, with a SentencePiece-like tokenizer, as a folder and as
GGUF; its greedy continuation and the likelihood of other stories by the float64 oracle."""

import gguf
import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from common import *

NAME = "stories260K"  # the name under which tests look for it
GIRLS, BOYS = ["Mia", "Anna", "Sue", "Lucy"], ["Tom", "Ben", "Sam", "Max"]
THINGS = ["ball", "box", "hat", "boat", "kite", "cake", "stone", "flower", "cup", "bell"]
LOOKS = ["big", "red", "small", "blue", "shiny", "old", "soft", "green"]
PLACES = ["park", "garden", "forest", "house", "shop", "river", "beach"]
ANIMALS = ["dog", "cat", "bird", "frog", "bear", "fish"]
FEELS = ["happy", "sad", "tired", "scared", "proud"]


def story(rng):
    pick = lambda words: words[rng.integers(len(words))]
    girl = rng.random() < 0.7
    name = "Lily" if girl and rng.random() < 0.8 else pick(GIRLS if girl else BOYS)
    she, her, child = ("She", "her", "girl") if girl else ("He", "his", "boy")
    thing, look, place, animal = pick(THINGS), pick(LOOKS), pick(PLACES), pick(ANIMALS)
    lines = [f"Once upon a time, there was a little {child} named {name}."]
    lines.append(pick([f"{she} loved to play in the {place}.", f"{she} lived in a {look} house near the {place}.",
        f"{she} had a {look} {thing} and a {animal}."]))
    lines.append(f"One day, {name} saw a {look} {thing} in the {place}.")
    lines.append(pick([f"{she} wanted to play with it, but it was too {pick(['high', 'far', 'heavy', 'cold'])}.",
        f'"What a {look} {thing}!" {she.lower()} said.', f"{she} was very {pick(FEELS)}."]))
    friend = pick([f"{her} mom", f"a {animal}", f"{her} friend {pick(GIRLS + BOYS)}"])
    lines.append(pick([f'{name} asked {friend}, "Can you help me?"', f"Then {friend} came and smiled."]))
    for _ in range(rng.integers(1, 4)):
        lines.append(pick([f"They went to the {pick(PLACES)} and found a {pick(LOOKS)} {pick(THINGS)}.",
            f"The {animal} said, \"Do not be {pick(FEELS)}.\"", f"They played with the {thing} all day.",
            f"{name} gave the {thing} to the {animal}.", f"{she} ran, and ran, and ran."]))
    lines.append(pick([f"{name} was very happy and said, \"Thank you!\"", "They all went home and ate cake.",
        f"From that day on, {name} and the {animal} were best friends."]))
    if rng.random() < 0.1:
        lines.append(f"It cost {rng.integers(2, 90)} coins.")
    return " ".join(lines)


def train_tokenizer(texts, size=512):
    """BPE over a metaspace alphabet with byte fallback, as SentencePiece models are converted."""
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split("▁", "merged_with_next"),
        pre_tokenizers.Split(Regex(r"[^\w▁]"), "isolated")])  # no token spans a word and what follows it
    t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False))
    whole = json.loads(t.to_str())
    whole["pre_tokenizer"] = None
    whole["added_tokens"] = [{"id": i, "content": c, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": True} for i, c in enumerate(special[:3])]
    whole["post_processor"] = {"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    whole["decoder"] = json.loads(decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
        decoders.Fuse(), decoders.Strip(" ", 1, 0)]).__getstate__())
    return Tokenizer.from_str(json.dumps(whole, ensure_ascii=False)), whole


def config():
    from transformers import LlamaConfig

    return LlamaConfig(hidden_size=64, intermediate_size=172, num_hidden_layers=5, num_attention_heads=8,
        num_key_value_heads=4, vocab_size=512, max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=10000.0,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)


def train_model(tok, texts, steps):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(SEED)
    stream = []
    for text in texts:
        stream += [1] + tok.encode(text, add_special_tokens=False).ids + [2]
    stream = torch.tensor(stream)
    model = AutoModelForCausalLM.from_config(config(), dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.98), weight_decay=0.05)
    rng, width, rows = generator("batches"), 160, 10
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1, (step + 1) / 40) * max(0.02, (1 + np.cos(np.pi * step / steps)) / 2)
        starts = rng.integers(len(stream) - width - 1, size=rows)
        batch = torch.stack([stream[s : s + width] for s in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            print(f"stories: step {step}: loss {loss.item():.3f}", flush=True)
    return {k: v.detach().to(torch.float16) for k, v in model.state_dict().items() if k != "lm_head.weight"}


def permuted(w, heads):
    """Rows of q and k as llama.cpp's converter interleaves them."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def add_spm_vocabulary(w, whole):
    pieces = sorted(whole["model"]["vocab"], key=whole["model"]["vocab"].get)
    kinds = [gguf.TokenType.UNKNOWN if i == 0 else gguf.TokenType.CONTROL if i < 3 else
        gguf.TokenType.BYTE if i < 259 else gguf.TokenType.NORMAL for i in range(len(pieces))]
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list(pieces)
    w.add_token_scores([0.0 if i < 259 else -float(i - 259) for i in range(len(pieces))])
    w.add_token_types(kinds)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)


def write_gguf(path, state, whole):
    c = config()
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_name(NAME)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_rope_dimension_count(8)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_rope_freq_base(10000.0)
    w.add_vocab_size(c.vocab_size)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    add_spm_vocabulary(w, whole)
    names = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    for name, value in sorted(state.items()):
        value = value.numpy()
        if name == "model.embed_tokens.weight":
            to = "token_embd.weight"
        elif name == "model.norm.weight":
            to = "output_norm.weight"
        else:
            layer, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
            to = f"blk.{layer}.{names[part]}.weight"
            if part == "self_attn.q_proj":
                value = permuted(value, c.num_attention_heads)
            elif part == "self_attn.k_proj":
                value = permuted(value, c.num_key_value_heads)
        w.add_tensor(to, np.ascontiguousarray(value if value.ndim == 2 else value.astype(np.float32)))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def references(tok, state, held):
    """The greedy continuation of BOS and the negative log-likelihood of held-out stories, in float64."""
    out = {"model": NAME}
    with float64():
        model = build(config(), state, True)
        ids, gaps, first = [1], [], None
        while len(ids) <= 120:
            logits = oracle_logits(model, ids)[-1]
            first = logits[:5].tolist() if first is None else first
            top = torch.topk(logits, 2).values
            if top[0] - top[1] < 2e-3:
                break
            gaps.append((top[0] - top[1]).item())
            ids.append(int(logits.argmax()))
        if len(ids) < 30:
            raise SystemExit("the greedy story is too short; take another seed")
        out["greedy"] = {"bos": 1, "steps": len(ids) - 1, "text": tok.decode(ids[1:]), "token_ids": ids[1:],
            "logits_pos0_first5": first, "min_top1_top2_logit_gap": min(gaps)}
        lines, total, count = [], 0.0, 0
        for i, text in enumerate(held):
            want = tok.encode(text, add_special_tokens=False).ids[:512]
            logp = torch.log_softmax(oracle_logits(model, [1] + want[:-1]), -1)
            nll = -logp[torch.arange(len(want)), torch.tensor(want)].sum().item()
            total, count = total + nll, count + len(want)
            if i < 4:
                lines.append(f"doc {i} n {len(want)} nll_sum {nll:.6f}")
        lines.append(f"docs {len(held)} tokens {count} mean_nll {total / count:.6f}")
        out["nll"] = {"rule": "BOS, then the story's ids; sum of -ln p over the ids", "lines": lines}
    return out


def run(root, steps=220):
    rng = generator("stories")
    texts = [story(rng) for _ in range(1500)]
    held = [story(rng) for _ in range(12)]
    tok, whole = train_tokenizer(texts)
    state = train_model(tok, texts, steps)
    dir = root / "data" / "weights" / NAME
    (dir / "hf").mkdir(parents=True, exist_ok=True)
    write_tensors(dir / "hf" / "model.safetensors", state, {"format": "pt"})
    c = {k: v for k, v in write_config(dir / "hf" / "config.json", config(), torch.float16).items()}
    write_json(dir / "hf" / "config.json", config_v4(c))
    write_json(dir / "hf" / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    write_json(dir / "hf" / "tokenizer.json", whole)
    write_json(dir / "hf" / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True,
        "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 512,
        "clean_up_tokenization_spaces": False, "legacy": True})
    write_gguf(dir / f"{NAME}.gguf", state, whole)
    write_json(dir / "reference.json", references(tok, state, held))
    (root / "data" / "corpora").mkdir(parents=True, exist_ok=True)
    (root / "data" / "corpora" / "tinystories_sample.txt").write_text("\n<|endoftext|>\n".join(held) + "\n")
