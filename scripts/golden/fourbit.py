"""goldens/train/D_bnb, C_qlora and E_export: bitsandbytes' 4-bit and 8-bit codes and its 8-bit AdamW by its
device-independent kernels, checkpoints in 4 bits with logits in float64, and layers packed as AWQ and GPTQ define."""

import bitsandbytes.backends.cpu.ops as cpu_ops
import bitsandbytes.functional as bnb

import gradients
from common import *

F32 = torch.float32
KEY = torch._C.DispatchKey.CompositeExplicitAutograd


def exact(op, *args):
    """An operation by bitsandbytes' device-independent kernel; its CPU kernel for 8 bits looks values up in a grid."""
    return getattr(torch.ops.bitsandbytes, op).default._op_dk(KEY, *args)


def values(kind, shape, rng):
    x = normal(rng, *shape)
    if kind == "heavy":
        x = x * torch.exp(normal(rng, *shape) * 1.5)
    elif kind == "tiny":
        x = x * 1e-30
    elif kind == "zeros":
        x.reshape(-1)[: x.numel() // 2] = 0
    elif kind == "ties":  # on the midpoints between codes
        code = bnb.get_4bit_type("nf4", device="cpu").sort().values
        mids = (code[1:] + code[:-1]) / 2
        x = mids[torch.from_numpy(rng.integers(0, len(mids), shape))].clone()
        x.reshape(-1)[::16] = 1.0
    return x


def four_bits(out):
    cases = []
    signed = bnb.create_dynamic_map()
    for i, (kind, shape, block) in enumerate([("normal", [24, 64], 64), ("heavy", [10, 128], 128), ("normal", [9, 256], 256),
            ("zeros", [16, 64], 64), ("ties", [16, 64], 64), ("normal", [37, 50], 64), ("heavy", [1000], 128),
            ("tiny", [8, 64], 64), ("normal", [60, 86], 64), ("normal", [7, 3], 64), ("normal", [16, 96], 64)]):
        x = values(kind, shape, generator("q4", i))
        tensors = {"x": x}
        for quant in ("nf4", "fp4"):
            packed, absmax = bnb.torch.ops.bitsandbytes.quantize_4bit.default(x, block, quant, torch.uint8)
            tensors[f"{quant}.packed"] = packed.flatten()
            tensors[f"{quant}.absmax"] = absmax
            tensors[f"{quant}.dequant_f32"] = exact("dequantize_4bit", packed, absmax, block, quant, shape, F32)
            offset = absmax.mean()
            codes, second = exact("quantize_blockwise", absmax - offset, signed, 256)
            tensors |= {f"{quant}_dq.absmax": codes, f"{quant}_dq.absmax2": second, f"{quant}_dq.offset": offset.reshape(1)}
            if quant == "nf4":
                nested = exact("dequantize_blockwise", codes, second, signed, 256, F32) + offset
                tensors["nf4_dq.dequant_f32"] = exact("dequantize_4bit", packed, nested, block, quant, shape, F32)
        file = f"q4_{i:02}.safetensors"
        write_tensors(out / file, tensors)
        cases.append({"file": file, "kind": kind, "shape": shape, "blocksize": block})
    return cases


def blockwise(out):
    cases = []
    maps = {"dynamic_signed": bnb.create_dynamic_map(), "dynamic_unsigned": bnb.create_dynamic_map(signed=False)}
    for i, (kind, n, block, name) in enumerate([("normal", 1024, 256, "dynamic_signed"), ("heavy", 700, 256, "dynamic_signed"),
            ("zeros", 512, 256, "dynamic_signed"), ("heavy", 900, 256, "dynamic_unsigned")]):
        x = values(kind, [n], generator("q8", i))
        if name == "dynamic_unsigned":
            x = x.abs()
        codes, absmax = exact("quantize_blockwise", x, maps[name], block)
        file = f"blockwise8_{i}.safetensors"
        write_tensors(out / file, {"x": x, "codes": codes, "absmax": absmax,
            "dequant": exact("dequantize_blockwise", codes, absmax, maps[name], block, F32)})
        cases.append({"file": file, "kind": kind, "n": n, "blocksize": block, "map": name})
    return cases


def adamw(out):
    def quantized(x, code, absmax, codes, block):
        q, m = exact("quantize_blockwise", x, code, block)
        codes.copy_(q)
        absmax.copy_(m)

    cpu_ops._quant_blockwise_fp32_direct = quantized
    cpu_ops._dequant_blockwise_fp32_direct = lambda q, m, code, block: exact("dequantize_blockwise", q, m, code, block, F32)
    import bitsandbytes

    cases, steps = [], 5
    for i, (n, rate, decay) in enumerate([(4352, 1e-2, 0.0), (4100, 1e-3, 0.01), (300, 1e-2, 0.01)]):
        rng = generator("adamw", i)
        p0 = normal(rng, n)
        grads = (normal(rng, steps, n) * torch.exp(normal(rng, n))).to(torch.bfloat16)
        tensors, eight = {"p0": p0, "grads": grads}, n >= 4096
        for bits in (8, 32):
            p = torch.nn.Parameter(p0.clone())
            cls = bitsandbytes.optim.AdamW8bit if bits == 8 else bitsandbytes.optim.AdamW32bit
            o = cls([p], lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay)
            for step in range(steps):
                p.grad = grads[step].float()
                o.step()
            tensors[f"step{steps}.param{bits}"] = p.data.clone()
            if bits == 8 and eight:
                state = o.state[p]
                tensors |= {f"step{steps}.{k}": state[k].clone() for k in ("state1", "state2", "absmax1", "absmax2")}
        file = f"adamw8bit_{i}.safetensors"
        write_tensors(out / file, tensors)
        cases.append({"file": file, "n": n, "lr": rate, "weight_decay": decay, "betas": [0.9, 0.999], "eps": 1e-8,
            "steps": steps, "eight_bit": eight})
    return cases


def codebooks(out):
    maps = {"nf4": bnb.get_4bit_type("nf4", device="cpu"), "fp4": bnb.get_4bit_type("fp4", device="cpu"),
        "dynamic_signed": bnb.create_dynamic_map(), "dynamic_unsigned": bnb.create_dynamic_map(signed=False)}
    write_json(out / "codebooks.json", {k: {"float32_bits_hex": [f"{b:08x}" for b in v.float().numpy().view(np.uint32)]}
        for k, v in maps.items()})


def logits_last(config, state):
    ids, labels = gradients.batch(config.vocab_size)
    with float64():
        model = build(config, state, True)
        last = torch.stack([oracle_logits(model, s)[-1] for s in ids])
    return gradients.batch_tensors(ids, labels) | {"logits_last": last.to(F32)}


def projections(state):
    return [k for k in state if k.endswith("_proj.weight")]


def checkpoints(out):
    config, state = gradients.model_states()["tiny-llama"]
    signed = bnb.create_dynamic_map()
    for name, kind, double in (("nf4", "nf4", False), ("nf4_dq", "nf4", True), ("fp4", "fp4", False)):
        file, plain = {}, dict(state)
        for k, v in state.items():
            if k not in projections(state):
                file[k] = v
                continue
            packed, absmax = torch.ops.bitsandbytes.quantize_4bit.default(v, 64, kind, torch.uint8)
            q = bnb.QuantState(absmax=absmax, shape=v.shape, code=bnb.get_4bit_type(kind, device="cpu"), blocksize=64,
                quant_type=kind, dtype=F32)
            if double:
                offset = absmax.mean()
                codes, second = exact("quantize_blockwise", absmax - offset, signed, 256)
                q.absmax, q.offset, q.nested = codes, offset, True
                q.state2 = bnb.QuantState(absmax=second, code=signed, blocksize=256, dtype=F32)
                absmax = exact("dequantize_blockwise", codes, second, signed, 256, F32) + offset
            file[k] = packed
            file |= {f"{k}.{p}": x for p, x in q.as_dict(packed=True).items()}
            plain[k] = exact("dequantize_4bit", packed, absmax, 64, kind, list(v.shape), F32)
        write_tensors(out / name / "model.safetensors", file, {"format": "pt"})
        text = write_config(out / name / "config.json", config, F32)
        text["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True, "_load_in_4bit": True,
            "load_in_8bit": False, "_load_in_8bit": False, "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": double,
            "bnb_4bit_compute_dtype": "float32", "bnb_4bit_quant_storage": "uint8"}
        write_json(out / name / "config.json", text)
        some = {f"dequantized.{k}": plain[k] for k in projections(state) if ".layers.1." in k and "up_" not in k}
        write_tensors(out / f"{name}.reference.safetensors", logits_last(config, plain) | some)


def four_bit_base(root, out):
    """The base that QLoRA trains on, made of a model in float16."""
    import serve_adapters

    config, state = serve_adapters.load_base(root, "stories260K")
    signed, plain = bnb.create_dynamic_map(), {k: v.float() for k, v in state.items()}
    for k in projections(state):
        v = plain[k]
        packed, absmax = torch.ops.bitsandbytes.quantize_4bit.default(v, 64, "nf4", torch.uint8)
        offset = absmax.mean()
        codes, second = exact("quantize_blockwise", absmax - offset, signed, 256)
        absmax = exact("dequantize_blockwise", codes, second, signed, 256, F32) + offset
        plain[k] = exact("dequantize_4bit", packed, absmax, 64, "nf4", list(v.shape), F32)
    write_tensors(out / "stories260K_nf4dq_weights.safetensors", {k: plain[k] for k in projections(state) if
        ".layers.4.mlp.down" in k or ".layers.4.self_attn.k" in k})
    write_tensors(out / "stories260K_logits.safetensors", logits_last(config, plain))


def pack(q, order=range(8)):
    """Nibbles along the last dimension, eight to an int32; nibble i of a word is column order[i] of its eight."""
    q = q.to(torch.int64).reshape(*q.shape[:-1], -1, 8)
    word = sum(q[..., c] << (4 * i) for i, c in enumerate(order))
    return torch.where(word >= 2**31, word - 2**32, word).to(torch.int32)


def grouped(w, group):
    """Codes 0 to 15 with a scale and zero point for each group of inputs; w is [in, out]."""
    g = w.reshape(-1, group, w.shape[1])
    low, high = g.amin(1).clamp(max=0), g.amax(1).clamp(min=0)
    scale = ((high - low) / 15).to(torch.float16)
    zero = torch.round(-low / scale.float()).clamp(0, 15)
    q = (torch.round(g / scale.float()[:, None]) + zero[:, None]).clamp(0, 15)
    return q.reshape(w.shape), zero, scale


AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def linear_layers(out):
    """Single layers [in, out] as GPTQ and AWQ pack them; GPTQ stores zero-points less 1."""
    for name, shuffled in (("gptq_linear", False), ("gptq_linear_actorder", True)):
        rng = generator(name)
        w = normal(rng, 128, 48)
        g_idx = torch.arange(128) // 32
        if shuffled:
            g_idx = g_idx[torch.from_numpy(rng.permutation(128))]
        order = torch.argsort(g_idx, stable=True)
        q, zero, scale = grouped(w[order], 32)
        codes = torch.empty_like(q)
        codes[order] = q
        write_tensors(out / f"{name}.safetensors", {"qweight": pack(codes.T.contiguous()).T, "qzeros": pack(zero - 1),
            "scales": scale, "g_idx": g_idx.to(torch.int32), "int4": codes.to(torch.uint8), "zeros": zero.to(torch.uint8),
            "dequantized_f16": scale[g_idx] * (codes - zero[g_idx]).to(torch.float16)})
    for group in (128, 64, 32):
        q, zero, scale = grouped(normal(generator("awq", group), 128, 32), group)
        write_tensors(out / f"awq_linear_g{group}.safetensors", {"qweight": pack(q, AWQ_ORDER), "qzeros": pack(zero, AWQ_ORDER),
            "scales": scale, "int4": q.to(torch.uint8), "zeros": zero.to(torch.uint8), "dequantized_f16":
                (q - zero.repeat_interleave(group, 0)).to(torch.float16) * scale.repeat_interleave(group, 0)})


def awq(out):
    config, state = gradients.model_states()["tiny-llama"]
    file, plain = {}, {k: v.to(torch.float16) for k, v in state.items()}
    for k in projections(state):
        q, zero, scale = grouped(state[k].T.contiguous(), 32)
        name = k.removesuffix("weight")
        file |= {name + "qweight": pack(q, AWQ_ORDER), name + "qzeros": pack(zero, AWQ_ORDER), name + "scales": scale}
        group = q.shape[0] // scale.shape[0]
        plain[k] = ((q - zero.repeat_interleave(group, 0)).to(torch.float16) * scale.repeat_interleave(group, 0)).T.contiguous()
    file |= {k: v for k, v in plain.items() if k not in projections(state)}
    dir = out / "awq_checkpoint"
    write_tensors(dir / "model.safetensors", file, {"format": "pt"})
    text = write_config(dir / "config.json", config, torch.float16)
    text["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
    write_json(dir / "config.json", text)
    some = {f"dequantized.{k}": plain[k] for k in projections(state) if ".layers.0." in k}
    write_tensors(dir / "reference.safetensors", logits_last(config, plain) | some)


def run(root):
    train = root / "goldens" / "train"
    bnb_dir = train / "D_bnb"
    codebooks(bnb_dir)
    write_json(bnb_dir / "cases.json", {"quantize_4bit": four_bits(bnb_dir), "quantize_blockwise": blockwise(bnb_dir),
        "adamw8bit": adamw(bnb_dir)})
    checkpoints(train / "C_qlora" / "checkpoints")
    four_bit_base(root, train / "C_qlora")
    linear_layers(train / "E_export")
    awq(train / "E_export")
