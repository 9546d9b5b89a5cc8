package model

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/internal/numtest"
	"weft/runtime/device"
	"weft/runtime/tensor"
	"weft/runtime/weights"
)

// ggufNames are GGUF's names of the modules of a block; Gemma's norms differ.
var ggufNames = map[string]string{
	"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
	"self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
	"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm",
	"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
	"mlp.down_proj": "ffn_down", "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up",
	"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
}

func ggufName(name string, gemma bool) string {
	stem, kind := name[:strings.LastIndex(name, ".")], name[strings.LastIndex(name, "."):]
	var layer int
	if n, _ := fmt.Sscanf(stem, "model.layers.%d.", &layer); n == 0 {
		return ggufNames[stem] + kind
	}
	module := strings.TrimPrefix(stem, fmt.Sprintf("model.layers.%d.", layer))
	to := ggufNames[module]
	if gemma {
		if special := map[string]string{
			"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
			"post_feedforward_layernorm": "post_ffw_norm",
		}[module]; special != "" {
			to = special
		}
	}
	return fmt.Sprintf("blk.%d.%s%s", layer, to, kind)
}

// ggufMetadata returns c in GGUF's keys, as llama.cpp's converter writes them.
func ggufMetadata(c *Config) (arch string, meta map[string]any) {
	arch = c.Architecture
	full := c.Ropes[0]
	meta = map[string]any{
		"general.architecture": arch, arch + ".embedding_length": uint32(c.Hidden),
		arch + ".block_count": uint32(c.Layers), arch + ".attention.head_count": uint32(c.Heads),
		arch + ".attention.head_count_kv": uint32(c.KVHeads), arch + ".attention.key_length": uint32(c.HeadDim),
		arch + ".attention.value_length": uint32(c.HeadDim),
		arch + ".feed_forward_length":    uint32(c.FFN), arch + ".context_length": uint32(c.MaxContext),
		arch + ".attention.layer_norm_rms_epsilon": c.RMSEps,
		arch + ".vocab_size":                       uint32(c.Vocab), arch + ".rope.freq_base": float32(full.Theta),
		arch + ".rope.dimension_count": uint32(full.Rot),
	}
	if w := slices.Max(c.Windows); w > 0 {
		meta[arch+".attention.sliding_window"] = uint32(w)
	}
	if c.AttnSoftcap > 0 {
		meta[arch+".attn_logit_softcapping"] = c.AttnSoftcap
	}
	if c.FinalSoftcap > 0 {
		meta[arch+".final_logit_softcapping"] = c.FinalSoftcap
	}
	if len(c.Ropes) > 1 {
		meta[arch+".rope.freq_base_swa"] = float32(c.Ropes[1].Theta)
		meta[arch+".attention.sliding_window_pattern"] = uint32(slices.Index(c.Windows, 0) + 1)
	}
	switch scaling := arch + ".rope.scaling."; full.Kind {
	case "linear", "yarn":
		meta[scaling+"type"], meta[scaling+"factor"] = full.Kind, float32(full.Factor)
		if full.Kind == "yarn" {
			meta[scaling+"original_context_length"] = uint32(full.Original)
			meta[scaling+"yarn_beta_fast"], meta[scaling+"yarn_beta_slow"] = float32(full.Fast), float32(full.Slow)
			meta[scaling+"attn_factor"] = float32(full.Scale / yarnMagnitude(full.Factor, 1))
		}
	case "longrope":
		meta[scaling+"original_context_length"], meta[scaling+"attn_factor"] = uint32(full.Original),
			float32(full.Scale)
	}
	return arch, meta
}

// ggufLacks returns the setting of a configuration for which GGUF has no key, or "".
func ggufLacks(c *Config) string {
	near := Rope{Rot: c.HeadDim, Kind: "default", Scale: 1}
	if len(c.Ropes) > 1 {
		near.Theta = c.Ropes[1].Theta
	}
	pattern := slices.Index(c.Windows, 0) + 1
	regular := !slices.ContainsFunc(c.Windows, func(w int) bool { return w > 0 && w != slices.Max(c.Windows) })
	for l, w := range c.Windows {
		switch c.Architecture {
		case "gemma2":
			regular = regular && (w > 0) == everyOther(l)
		case "gemma3":
			regular = regular && pattern > 0 && (w > 0) == ((l+1)%pattern != 0)
		case "qwen2", "qwen3":
			regular = regular && w == 0
		}
	}
	act := device.SiLU
	if c.SandwichNorm {
		act = device.GELUTanh
	}
	switch {
	case !regular:
		return "these windows"
	case c.Act != act:
		return "another activation"
	case c.Architecture == "gemma2" && (c.AttnSoftcap == 0 || c.FinalSoftcap == 0):
		return "the absence of soft caps"
	case c.Architecture != "llama" && (c.OBias || c.QKVBias != (c.Architecture == "qwen2")):
		return "biases of this architecture"
	case c.Ropes[0].Kind == "yarn" && !c.Ropes[0].Truncate:
		return "a yarn ramp between dimensions"
	case len(c.Ropes) > 1 && !slices.Equal(c.Ropes[1].frequencies(false), near.frequencies(false)):
		return "a scaled second RoPE"
	}
	return ""
}

// ggufTensors are the tensors of a folder as llama.cpp's converter writes them: 1 added to Gemma's norms, llama's q and
// k rows interleaved, with RoPE's divisors.
func ggufTensors(t *testing.T, dir string, c *Config) map[string]memoryTensor {
	t.Helper()
	src, err := weights.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	out := map[string]memoryTensor{}
	for _, name := range src.Names() {
		info, _ := src.Info(name)
		var values []float32
		if len(info.Shape) == 1 {
			if values, err = src.Vector(name); err != nil {
				t.Fatal(err)
			}
			values = slices.Clone(values)
			for i := range values {
				if c.NormPlusOne {
					values[i]++
				}
			}
		} else {
			m, err := src.Matrix(name)
			if err != nil {
				t.Fatal(err)
			}
			for r := range m.Rows {
				row := make([]float32, m.Cols)
				m.Row(r, row)
				values = append(values, row...)
			}
		}
		if c.Architecture == "llama" && (strings.Contains(name, ".q_proj") || strings.Contains(name, ".k_proj")) {
			width := len(values) / info.Shape[0]
			interleaved := make([]float32, 0, len(values))
			for r := range info.Shape[0] {
				head, j := r/c.HeadDim*c.HeadDim, r%c.HeadDim
				from := head + j/2 + j%2*c.HeadDim/2
				interleaved = append(interleaved, values[from*width:(from+1)*width]...)
			}
			values = interleaved
		}
		out[ggufName(name, c.SandwichNorm)] = memoryTensor{info.Shape, values}
	}
	divisorTensor := func(name string, divisors []float64) {
		v := make([]float32, len(divisors))
		for i := range v {
			v[i] = float32(divisors[i])
		}
		out[name] = memoryTensor{[]int{len(v)}, v}
	}
	switch r := c.Ropes[0]; r.Kind {
	case "longrope":
		divisorTensor("rope_factors_short.weight", r.Short)
		divisorTensor("rope_factors_long.weight", r.Long)
	case "llama3":
		plain, scaled := Rope{Kind: "default", Rot: r.Rot, Theta: r.Theta}, r.frequencies(false)
		f := plain.frequencies(false)
		for i := range f {
			f[i] /= scaled[i]
		}
		divisorTensor("rope_freqs.weight", f)
	}
	return out
}

// encodeGGUF writes a version 3 file of float32 tensors.
func encodeGGUF(meta map[string]any, tensors map[string]memoryTensor) []byte {
	var b, data bytes.Buffer
	put := func(v any) { binary.Write(&b, binary.LittleEndian, v) }
	text := func(s string) { put(uint64(len(s))); b.WriteString(s) }
	b.WriteString("GGUF")
	put(uint32(3))
	put(uint64(len(tensors)))
	put(uint64(len(meta)))
	for _, key := range slices.Sorted(maps.Keys(meta)) {
		text(key)
		switch v := meta[key].(type) {
		case uint32:
			put(uint32(4))
			put(v)
		case float32:
			put(uint32(6))
			put(v)
		case string:
			put(uint32(8))
			text(v)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		t := tensors[name]
		text(name)
		put(uint32(len(t.shape)))
		for _, d := range slices.Backward(t.shape) { // innermost first
			put(uint64(d))
		}
		put(uint32(0)) // F32
		put(uint64(data.Len()))
		data.Write(floatBytes(t.values))
		data.Write(make([]byte, -data.Len()&31))
	}
	b.Write(make([]byte, -b.Len()&31))
	b.Write(data.Bytes())
	return b.Bytes()
}

// Every golden model, written as GGUF, has the same configuration and gives the same logits.
func TestGoldenModelsAsGGUF(t *testing.T) { goldens.Each(t, testGoldenModelsAsGGUF) }

func testGoldenModelsAsGGUF(t *testing.T) {
	for _, dir := range modelFolders(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			if isMoE(t, dir) {
				t.Skip("a mixture of experts, which is unsupported")
			}
			dev := floatDevices(t)["ref"](t)
			seqs := goldenIDs(t, dir)
			opt := Options{MaxBatchTokens: longest(seqs), MaxLogitRows: 64}
			want := loadGolden(t, dir, dev, opt)
			if lack := ggufLacks(want.cfg); lack != "" {
				t.Skipf("GGUF has no key for %s", lack)
			}
			g, _ := readGolden(t, dir)
			tol := 5 * g.Error // the file's numbers are float32
			_, meta := ggufMetadata(want.cfg)
			path := filepath.Join(t.TempDir(), "model.gguf")
			if err := os.WriteFile(path, encodeGGUF(meta, ggufTensors(t, dir, want.cfg)), 0o600); err != nil {
				t.Fatal(err)
			}
			src, err := weights.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close()
			cfg, err := ConfigOf(path, src)
			if err != nil {
				t.Fatal(err)
			}
			if cfg.SandwichNorm {
				cfg.AttnScale = want.cfg.AttnScale // GGUF has no key for it
			}
			if !slices.Equal(cfg.Windows, want.cfg.Windows) || !slices.Equal(cfg.RopeOf, want.cfg.RopeOf) ||
				cfg.Tied != want.cfg.Tied || cfg.Act != want.cfg.Act {
				t.Errorf("configuration %+v, want %+v", cfg, want.cfg)
			}
			m, err := Load(src, cfg, dev, opt)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			for _, ids := range seqs {
				a := newHarness(t, m, dev, 16, len(ids), tensor.F32).forward(0, len(ids), ids...)
				b := newHarness(t, want, dev, 16, len(ids), tensor.F32).forward(0, len(ids), ids...)
				numtest.MaxAbs(t, "logits", slices.Concat(a...), slices.Concat(b...), max(2e-5, tol))
			}
		})
	}
}

// Any metadata in a valid GGUF file gives a valid configuration or an error of this package.
func FuzzConfigFromGGUF(f *testing.F) {
	for _, arch := range []string{"llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "mamba"} {
		meta := map[string]any{
			"general.architecture": arch, arch + ".embedding_length": uint32(64), arch + ".block_count": uint32(2),
			arch + ".attention.head_count":    uint32(4),
			arch + ".attention.head_count_kv": uint32(2), arch + ".feed_forward_length": uint32(96),
			arch + ".context_length": uint32(128), arch + ".vocab_size": uint32(99),
			arch + ".attention.sliding_window": uint32(16), arch + ".rope.scaling.type": "yarn",
			arch + ".rope.scaling.factor": float32(4),
		}
		f.Add(encodeGGUF(meta, map[string]memoryTensor{"rope_freqs.weight": {[]int{8}, make([]float32, 8)}}))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "x.gguf")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		src, err := weights.Open(path)
		if err != nil {
			return
		}
		defer src.Close()
		if _, ok := src.(*weights.GGUF); !ok {
			return
		}
		cfg, err := ConfigOf(path, src)
		if err != nil {
			return
		}
		if err := cfg.validate(); err != nil {
			t.Error(err)
		}
		for i := range cfg.Ropes {
			cfg.Ropes[i].frequencies(cfg.Ropes[i].Long != nil)
		}
	})
}
