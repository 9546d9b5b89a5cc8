package weights

import (
	"fmt"
	"strconv"
	"strings"
)

// The names of GGUF tensors (gguf-py, tensor_mapping.py) and of transformers' modules.
var (
	ggufTop = map[string]string{
		"token_embd":  "model.embed_tokens",
		"output_norm": "model.norm",
		"output":      "lm_head",
	}
	ggufLayer = map[string]string{
		"attn_norm":   "input_layernorm",
		"attn_q":      "self_attn.q_proj",
		"attn_k":      "self_attn.k_proj",
		"attn_v":      "self_attn.v_proj",
		"attn_output": "self_attn.o_proj",
		"attn_q_norm": "self_attn.q_norm",
		"attn_k_norm": "self_attn.k_norm",
		"ffn_norm":    "post_attention_layernorm",
		"ffn_gate":    "mlp.gate_proj",
		"ffn_up":      "mlp.up_proj",
		"ffn_down":    "mlp.down_proj",
	}
	gemmaLayer = map[string]string{
		"post_attention_norm": "post_attention_layernorm",
		"ffn_norm":            "pre_feedforward_layernorm",
		"post_ffw_norm":       "post_feedforward_layernorm",
	}
	// ggufArchitectures lists the architectures whose names are translated, with what differs from ggufLayer. The names
	// of all others stay as they are.
	ggufArchitectures = map[string]map[string]string{
		"llama":  nil, // also Mistral, SmolLM2 and whatever else has llama's shape
		"qwen2":  nil,
		"qwen3":  nil,
		"gemma2": gemmaLayer,
		"gemma3": gemmaLayer,
		"phi3": {
			"attn_qkv": "self_attn.qkv_proj",
			"ffn_up":   "mlp.gate_up_proj", // gate rows, then up rows
		},
	}
)

// HuggingFaceName translates a GGUF tensor name. Names without a counterpart are returned unchanged:
// "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight", and unknown names.
func HuggingFaceName(arch, name string) string {
	special, ok := ggufArchitectures[arch]
	if !ok {
		return name
	}
	stem, kind, ok := cutLast(name, ".")
	if !ok || kind != "weight" && kind != "bias" {
		return name
	}
	if to := ggufTop[stem]; to != "" {
		return to + "." + kind
	}
	layer, part, ok := layerPart(stem)
	if !ok {
		return name
	}
	to := special[part]
	if to == "" {
		to = ggufLayer[part]
	}
	if to == "" {
		return name
	}
	return fmt.Sprintf("model.layers.%d.%s.%s", layer, to, kind)
}

// layerPart splits "blk.7.attn_q" into 7 and "attn_q".
func layerPart(stem string) (layer int, part string, ok bool) {
	rest, ok := strings.CutPrefix(stem, "blk.")
	if !ok {
		return 0, "", false
	}
	number, part, ok := strings.Cut(rest, ".")
	layer, err := strconv.Atoi(number)
	if !ok || err != nil || layer < 0 || strconv.Itoa(layer) != number {
		return 0, "", false
	}
	return layer, part, true
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// interleavedHeads returns how many heads the rows of a tensor are interleaved in, 0 where they are in transformers'
// order. llama.cpp's converter stores llama's q and k rows, and their biases, so that RoPE rotates adjacent pairs.
func interleavedHeads(arch, name string, meta map[string]any) (int, error) {
	stem, _, _ := cutLast(name, ".")
	layer, part, ok := layerPart(stem)
	if !ok || !Interleaved(arch) || part != "attn_q" && part != "attn_k" {
		return 0, nil
	}
	key := arch + ".attention.head_count"
	if _, own := meta[key+"_kv"]; own && part == "attn_k" {
		key += "_kv"
	}
	heads, ok := perLayer(meta[key], layer)
	if !ok || heads < 1 || heads > 1<<20 {
		return 0, fmt.Errorf("%s is missing or makes no sense (%v); tensor %q cannot be put in order without it", key,
			meta[key], name)
	}
	return int(heads), nil
}

// perLayer reads an integer, or the layer's element of an array of them.
func perLayer(v any, layer int) (int64, bool) {
	switch v := v.(type) {
	case uint32:
		return int64(v), true
	case int32:
		return int64(v), true
	case uint64:
		return int64(v), v <= 1<<62
	case int64:
		return v, true
	case []uint32:
		if layer < len(v) {
			return int64(v[layer]), true
		}
	case []int32:
		if layer < len(v) {
			return int64(v[layer]), true
		}
	}
	return 0, false
}
