package model

import (
	"encoding/json"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"weft/internal/goldens"
)

// Both spellings of a golden model's configuration mean the same.
func TestSpellingsAgree(t *testing.T) { goldens.Each(t, testSpellingsAgree) }

func testSpellingsAgree(t *testing.T) {
	for _, dir := range modelFolders(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			old, err := os.ReadFile(filepath.Join(dir, "config_v4.json"))
			if err != nil {
				t.Skip("the folder has one spelling")
			}
			text, err := os.ReadFile(filepath.Join(dir, "config.json"))
			if err != nil {
				t.Fatal(err)
			}
			a, errA := ParseConfig(text)
			b, errB := ParseConfig(old)
			if (errA == nil) != (errB == nil) || !reflect.DeepEqual(a, b) {
				t.Errorf("config.json: %+v, %v\nconfig_v4.json: %+v, %v", a, errA, b, errB)
			}
		})
	}
}

// base is a small sound configuration; edit changes members, nil removes one.
func base(t testing.TB, edit map[string]any) []byte {
	t.Helper()
	members := map[string]any{
		"model_type": "llama", "architectures": []string{"LlamaForCausalLM"}, "hidden_size": 64, "num_hidden_layers": 2,
		"num_attention_heads": 4,
		"num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 128, "max_position_embeddings": 256,
		"rms_norm_eps": 1e-5, "hidden_act": "silu",
		"rope_theta": 10000.0,
	}
	for k, v := range edit {
		if v == nil {
			delete(members, k)
		} else {
			members[k] = v
		}
	}
	text, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestParseConfigRefuses(t *testing.T) {
	type m = map[string]any
	for _, c := range []struct {
		name string
		edit m
		kind error
		say  string
	}{
		{"no architecture", m{"model_type": nil}, ErrUnsupported, "supported are"},
		{"unknown architecture", m{"model_type": "mamba"}, ErrUnsupported, `"mamba"; supported are gemma2, gemma3_text, llama, mistral, phi3, qwen2, qwen3`},
		{"experts", m{"model_type": "mixtral", "num_local_experts": 8}, ErrUnsupported, "mixtral"},
		{"experts in a dense type", m{"num_experts": 8}, ErrUnsupported, "mixture of experts"},
		{"another head", m{"architectures": []string{"LlamaForSequenceClassification"}}, ErrUnsupported,
			"LlamaForSequenceClassification"},
		{"quantized", m{"quantization_config": m{"quant_method": "aqlm"}}, ErrUnsupported, `quant_method "aqlm"; read are bitsandbytes`},
		{"activation", m{"hidden_act": "relu2"}, ErrUnsupported, "relu2"},
		{"layer type", m{"layer_types": []string{"full_attention", "chunked_attention"}}, ErrUnsupported,
			"chunked_attention"},
		{"rope type", m{"rope_scaling": m{"rope_type": "mrope"}}, ErrUnsupported, "mrope"},
		{"rope member", m{"rope_scaling": m{"rope_type": "linear", "factor": 2, "mrope_section": []int{1}}},
			ErrUnsupported, "mrope_section"},
		{"bidirectional", m{"model_type": "gemma2", "use_bidirectional_attention": true}, ErrUnsupported,
			"bidirectional"},
		{"string for a number", m{"hidden_size": "64"}, ErrConfig, "hidden_size"},
		{"fraction", m{"num_hidden_layers": 2.5}, ErrConfig, "num_hidden_layers"},
		{"no layers", m{"num_hidden_layers": 0}, ErrConfig, "layers"},
		{"negative layers", m{"num_hidden_layers": -1}, ErrConfig, "layers"},
		{"too many layers", m{"num_hidden_layers": 1 << 30}, ErrConfig, "layers"},
		{"no heads", m{"num_attention_heads": 0}, ErrConfig, "heads"},
		{"no hidden size", m{"hidden_size": 0}, ErrConfig, "hidden size"},
		{"negative hidden size", m{"hidden_size": -64}, ErrConfig, "hidden size"},
		{"huge vocabulary", m{"vocab_size": 1 << 40}, ErrConfig, "vocabulary"},
		{"no context", m{"max_position_embeddings": 0}, ErrConfig, "context"},
		{"absurd context", m{"max_position_embeddings": 1 << 25}, ErrConfig, "context"},
		{"no feed-forward", m{"intermediate_size": 0}, ErrConfig, "feed-forward"},
		{"no kv heads", m{"num_key_value_heads": 0}, ErrConfig, "key/value heads"},
		{"uneven kv heads", m{"num_key_value_heads": 3}, ErrConfig, "no multiple"},
		{"uneven heads", m{"num_attention_heads": 5, "num_key_value_heads": 5}, ErrConfig, "no multiple"},
		{"odd head width", m{"head_dim": 15}, ErrConfig, "rotated width 15"},
		{"huge head width", m{"head_dim": 1 << 20}, ErrConfig, "head width"},
		{"eps", m{"rms_norm_eps": -1.0}, ErrConfig, "rms_norm_eps"},
		{"theta", m{"rope_theta": 0.0}, ErrConfig, "theta"},
		{"partial", m{"partial_rotary_factor": 1.5}, ErrConfig, "partial_rotary_factor"},
		{"rotated width", m{"model_type": "phi3", "partial_rotary_factor": 0.3, "head_dim": 20, "hidden_size": 80}, nil,
			""},
		{"odd rotated width of 5", m{"model_type": "phi3", "partial_rotary_factor": 0.32}, ErrConfig,
			"rotated width 5"},
		{"scaled part of a head", m{"partial_rotary_factor": 0.5, "rope_scaling": m{"type": "linear", "factor": 2}},
			ErrUnsupported, "partial_rotary_factor 0.5"},
		{"linear factor", m{"rope_scaling": m{"type": "linear", "factor": 0}}, ErrConfig, "factor"},
		{"llama3 scaling",
			m{"rope_scaling": m{"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1,
				"original_max_position_embeddings": 64}}, ErrConfig, "low 4, high 1"},
		{"longrope lengths",
			m{"rope_scaling": m{"type": "longrope", "short_factor": []int{1}, "long_factor": []int{1},
				"original_max_position_embeddings": 64}}, ErrConfig, "1 values, want 8"},
		{"yarn betas", m{"rope_scaling": m{"type": "yarn", "factor": 4, "beta_fast": 1, "beta_slow": 2}}, ErrConfig,
			"beta_fast"},
		{"window", m{"model_type": "mistral", "sliding_window": -8}, ErrConfig, "sliding_window is -8"},
		{"layer types", m{"model_type": "gemma2", "layer_types": []string{"full_attention"}}, ErrConfig,
			"1 layer_types for 2 layers"},
		{"soft cap", m{"model_type": "gemma2", "attn_logit_softcapping": -1}, ErrConfig, "attn_logit_softcapping"},
		{"query scalar", m{"model_type": "gemma2", "query_pre_attn_scalar": 0}, ErrConfig, "attention scale"},
		{"pattern", m{"model_type": "gemma3_text", "sliding_window_pattern": 0}, ErrConfig, "sliding_window_pattern"},
		{"rope of one kind for two",
			m{"model_type": "gemma3_text", "num_hidden_layers": 7, "rope_parameters": m{"rope_theta": 1e6}}, ErrConfig,
			"full_attention"},
		{"a part of a head on gemma3's full layers", m{"model_type": "gemma3_text", "num_hidden_layers": 7,
			"partial_rotary_factor": 0.5, "rope_scaling": m{"rope_type": "linear", "factor": 8}}, ErrUnsupported,
			`partial_rotary_factor 0.5 with RoPE type "linear"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := ParseConfig(base(t, c.edit))
			if c.kind == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if cfg != nil || !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.say) {
				t.Errorf("error %v, want %v and %q", err, c.kind, c.say)
			}
		})
	}
	for _, text := range []string{"", "null", "[]", "{", "{} {}", `{"model_type": 3}`} {
		if cfg, err := ParseConfig([]byte(text)); err == nil || cfg != nil {
			t.Errorf("%q: %+v, %v", text, cfg, err)
		}
	}
}

// edited is m with another member.
func edited(m map[string]any, name string, value any) map[string]any {
	m = maps.Clone(m)
	m[name] = value
	return m
}

// Absent members have the defaults of transformers' classes.
func TestParseConfigDefaults(t *testing.T) {
	type m = map[string]any
	ones := []int{1, 1, 1, 1, 1, 1, 1, 1}
	longrope := m{"type": "longrope", "short_factor": ones, "long_factor": ones}
	for _, c := range []struct {
		name string
		edit m
		ok   func(*Config) bool
	}{
		{"llama", m{"hidden_act": nil, "num_key_value_heads": nil},
			func(c *Config) bool { return c.KVHeads == 4 && c.HeadDim == 16 && !c.Tied && c.Windows[0] == 0 }},
		{"null head_dim", m{"head_dim": json.RawMessage("null")}, func(c *Config) bool { return c.HeadDim == 16 }},
		{"mistral", m{"model_type": "mistral"}, func(c *Config) bool { return c.Windows[1] == 4096 }},
		{"mistral without window", m{"model_type": "mistral", "sliding_window": json.RawMessage("null")},
			func(c *Config) bool { return c.Windows[1] == 0 }},
		{"qwen2 slides in the upper layers",
			m{"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1},
			func(c *Config) bool { return c.Windows[0] == 0 && c.Windows[1] == 8 && c.QKVBias && !c.OBias }},
		{"qwen2 slides from layer 28 on", m{"model_type": "qwen2", "use_sliding_window": true, "num_hidden_layers": 30},
			func(c *Config) bool { return c.Windows[27] == 0 && c.Windows[28] == 4096 }},
		{"qwen3", m{"model_type": "qwen3"}, func(c *Config) bool { return c.HeadDim == 128 && c.QKNorm && !c.QKVBias }},
		{"gemma2", m{"model_type": "gemma2", "hidden_act": nil},
			func(c *Config) bool {
				return c.HeadDim == 256 && c.Tied && c.AttnSoftcap == 50 && c.FinalSoftcap == 30 &&
					c.Windows[0] == 4096 && c.Windows[1] == 0 && c.AttnScale == 1.0/16 && c.EmbedScale == 8
			}},
		{"gemma3", m{"model_type": "gemma3_text", "hidden_act": nil, "rope_theta": nil, "num_hidden_layers": 7},
			func(c *Config) bool {
				return c.AttnSoftcap == 0 && c.Windows[5] == 0 && c.Windows[6] == 4096 &&
					c.Ropes[c.RopeOf[5]].Theta == 1e6 && c.Ropes[c.RopeOf[6]].Theta == 10000
			}},
		{"gemma3 caps logits, never scores",
			m{"model_type": "gemma3_text", "attn_logit_softcapping": 3, "final_logit_softcapping": 7},
			func(c *Config) bool { return c.AttnSoftcap == 0 && c.FinalSoftcap == 7 }},
		{"gemma3 scales full layers only",
			m{"model_type": "gemma3_text", "num_hidden_layers": 7,
				"rope_scaling": m{"rope_type": "linear", "factor": 8}},
			func(c *Config) bool { return c.Ropes[0].Kind == "linear" && c.Ropes[1].Kind == "default" }},
		{"gemma3 with the old name of the type", m{"model_type": "gemma3_text", "num_hidden_layers": 7,
			"rope_scaling": m{"type": "linear", "factor": 8}},
			func(c *Config) bool { return c.Ropes[0].Kind == "default" && c.Ropes[1].Kind == "default" }},
		{"gemma3 without full layers",
			m{"model_type": "gemma3_text", "partial_rotary_factor": 0.5,
				"rope_scaling": m{"rope_type": "linear", "factor": 8}},
			func(c *Config) bool {
				return c.Ropes[c.RopeOf[0]].Theta == 10000 && c.Ropes[c.RopeOf[1]].Kind == "default"
			}},
		{"mistral with layer_types is ministral",
			m{"model_type": "mistral", "sliding_window": 32,
				"layer_types": []string{"full_attention", "sliding_attention"}},
			func(c *Config) bool { return c.Windows[0] == 0 && c.Windows[1] == 32 }},
		{"yarn", m{"rope_scaling": m{"type": "yarn", "factor": 4, "original_max_position_embeddings": 256}},
			func(c *Config) bool { return c.MaxContext == 1024 && math.Abs(c.Ropes[0].Scale-1.1386294) < 1e-6 }},
		{"longrope", m{"model_type": "phi3", "max_position_embeddings": 256, "original_max_position_embeddings": 64,
			"rope_scaling": longrope},
			func(c *Config) bool {
				return c.Ropes[0].Original == 64 && math.Abs(c.Ropes[0].Scale-math.Sqrt(4.0/3)) < 1e-12
			}},
		{"longrope with a factor",
			m{"model_type": "phi3", "original_max_position_embeddings": 64,
				"rope_scaling": edited(longrope, "factor", 8)},
			func(c *Config) bool { return math.Abs(c.Ropes[0].Scale-math.Sqrt(1.5)) < 1e-12 }},
		{"longrope's outer original context wins",
			m{"model_type": "phi3", "original_max_position_embeddings": 64,
				"rope_scaling": edited(longrope, "original_max_position_embeddings", 32)},
			func(c *Config) bool { return c.Ropes[0].Original == 64 }},
		{"phi3's class has an outer original context",
			m{"model_type": "phi3", "rope_scaling": edited(longrope, "original_max_position_embeddings", 32)},
			func(c *Config) bool { return c.Ropes[0].Original == 4096 }},
		{"longrope's inner original context",
			m{"rope_scaling": edited(longrope, "original_max_position_embeddings", 32)},
			func(c *Config) bool { return c.Ropes[0].Original == 32 }},
		{"dynamic", m{"rope_scaling": m{"type": "dynamic", "factor": 4}},
			func(c *Config) bool { return c.Ropes[0].Kind == "default" && c.MaxContext == 256 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := ParseConfig(base(t, c.edit))
			if err != nil {
				t.Fatal(err)
			}
			if !c.ok(cfg) {
				t.Errorf("%+v", cfg)
			}
		})
	}
}

// Scaled frequencies, by hand: a rotated width of 4 has the pairs theta^0 and theta^-0.5.
func TestFrequencies(t *testing.T) {
	for _, c := range []struct {
		name string
		rope Rope
		want []float64
	}{
		{"default", Rope{Kind: "default", Theta: 10000}, []float64{1, 0.01}},
		{"linear", Rope{Kind: "linear", Theta: 10000, Factor: 4}, []float64{0.25, 0.0025}},
		// The first pair turns 1024/(2 pi) = 163 times in the original context, the second 1.63 times: smooth =
		// (1.63-1)/3.
		{"llama3", Rope{Kind: "llama3", Theta: 10000, Factor: 8, Low: 1, High: 4, Original: 1024},
			[]float64{1, 0.01 * (0.125 + 0.875*(1024*0.01/(2*math.Pi)-1)/3)}},
		// The ramp goes from pair floor(0.35) = 0 to ceil(1.11) = 2: pair 1 is half scaled.
		{"yarn", Rope{Kind: "yarn", Theta: 10000, Factor: 4, Fast: 32, Slow: 1, Original: 1024, Truncate: true},
			[]float64{1, 0.01 * (0.25/2 + 1.0/2)}},
		{"divided", Rope{Kind: "default", Theta: 10000, Short: []float64{2, 4}}, []float64{0.5, 0.0025}},
	} {
		c.rope.Rot = 4
		if err := c.rope.validate(4); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		got := c.rope.frequencies(false)
		for i := range c.want {
			if math.Abs(got[i]/c.want[i]-1) > 1e-12 {
				t.Errorf("%s: pair %d turns %v a position, want %v", c.name, i, got[i], c.want[i])
			}
		}
	}
}

// gguf is the metadata of a small sound GGUF file; nil removes a key.
func gguf(edit map[string]any) map[string]any {
	meta := map[string]any{
		"general.architecture": "llama", "llama.embedding_length": uint32(64), "llama.block_count": uint32(2),
		"llama.attention.head_count":    uint32(4),
		"llama.attention.head_count_kv": uint32(2), "llama.feed_forward_length": uint32(96),
		"llama.context_length":                   uint32(256),
		"llama.attention.layer_norm_rms_epsilon": float32(1e-5), "llama.vocab_size": uint32(128),
	}
	maps.Copy(meta, edit)
	maps.DeleteFunc(meta, func(_ string, v any) bool { return v == nil })
	return meta
}

func TestConfigFromGGUF(t *testing.T) {
	type m = map[string]any
	for _, c := range []struct {
		name string
		edit m
		kind error
		say  string
	}{
		{"sound", nil, nil, ""},
		{"vocabulary from the tokens", m{"llama.vocab_size": nil, "tokenizer.ggml.tokens": []string{"a", "b"}}, nil,
			""},
		{"other types of numbers",
			m{"llama.block_count": int64(2), "llama.rope.freq_base": float64(1e4),
				"llama.attention.head_count": uint8(4)}, nil, ""},
		{"yarn", m{"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": float32(4)}, nil, ""},
		{"no architecture", m{"general.architecture": nil}, ErrUnsupported, "supported are"},
		{"unknown architecture", m{"general.architecture": "rwkv7"}, ErrUnsupported, `"rwkv7"`},
		{"experts", m{"llama.expert_count": uint32(8)}, ErrUnsupported, "8 experts"},
		{"rope type", m{"llama.rope.scaling.type": "spiral"}, ErrUnsupported, "spiral"},
		{"value width", m{"llama.attention.value_length": uint32(8)}, ErrUnsupported, "values of 8"},
		{"unknown key", m{"llama.attention.scale": float32(1)}, ErrUnsupported, "attention.scale"},
		{"heads per layer", m{"llama.attention.head_count": []uint32{4, 4}}, ErrConfig, "attention.head_count"},
		{"text for a number", m{"llama.context_length": "long"}, ErrConfig, "context_length"},
		{"no layers", m{"llama.block_count": nil}, ErrConfig, "layers"},
		{"huge", m{"llama.embedding_length": uint64(1) << 60}, ErrConfig, "embedding_length"},
		{"no vocabulary", m{"llama.vocab_size": nil}, ErrConfig, "vocabulary"},
		{"odd rotation", m{"llama.rope.dimension_count": uint32(7)}, ErrConfig, "rotated width 7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := ConfigFromGGUF(gguf(c.edit), nil, nil)
			if c.kind == nil {
				if err != nil || cfg.Layers != 2 || !cfg.Tied {
					t.Errorf("%+v, %v", cfg, err)
				}
				return
			}
			if cfg != nil || !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.say) {
				t.Errorf("error %v, want %v and %q", err, c.kind, c.say)
			}
		})
	}
}

// TestYarnFactor: a GGUF's yarn_attn_factor is what a folder's attention_factor is, the whole factor of cos and sin.
func TestYarnFactor(t *testing.T) {
	type m = map[string]any
	yarn := m{"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": float32(4)}
	for want, more := range map[float64]m{
		yarnMagnitude(4, 1):     {},
		2 * yarnMagnitude(4, 1): {"llama.rope.scaling.attn_factor": float32(2)},
		1.5:                     {"llama.rope.scaling.yarn_attn_factor": float32(1.5)},
	} {
		maps.Copy(more, yarn)
		cfg, err := ConfigFromGGUF(gguf(more), nil, nil)
		if err != nil || math.Abs(cfg.Ropes[0].Scale-want) > 1e-6 {
			t.Errorf("%v: %v, %v, want %v", more, cfg, err, want)
		}
	}
}

func TestSupported(t *testing.T) {
	want := []string{"gemma2", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3"}
	if got := Supported(); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// Whatever the bytes, ParseConfig returns a sound configuration or one of its errors.
func FuzzParseConfig(f *testing.F) {
	type m = map[string]any
	for _, edit := range []m{
		nil, {"model_type": "mistral"}, {"model_type": "qwen2", "use_sliding_window": true}, {"model_type": "qwen3"},
		{"model_type": "gemma2"},
		{"model_type": "gemma3_text",
			"rope_parameters": m{"full_attention": m{"rope_theta": 1e6},
				"sliding_attention": m{"rope_type": "default"}}},
		{"model_type": "phi3",
			"rope_scaling": m{"type": "longrope", "short_factor": []int{1}, "long_factor": []int{2},
				"original_max_position_embeddings": 64}},
		{"rope_scaling": m{"type": "yarn", "factor": 1e300}}, {"num_hidden_layers": -1}, {"hidden_size": 1e9},
	} {
		f.Add(base(f, edit))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := ParseConfig(text)
		if err != nil {
			if cfg != nil || !errors.Is(err, ErrConfig) && !errors.Is(err, ErrUnsupported) {
				t.Errorf("%+v, %v", cfg, err)
			}
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

func TestPadding(t *testing.T) {
	llama := `"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 40000, "max_position_embeddings": 8`
	phi3 := strings.Replace(llama, "llama", "phi3", 1)
	for text, want := range map[string]int{
		llama: -1, llama + `, "pad_token_id": 3`: 3, llama + `, "pad_token_id": null`: -1, llama + `, "pad_token_id": -1`: 39999, llama + `, "pad_token_id": 40000`: -1,
		llama + `, "pad_token_id": [1, 2]`: -1, llama + `, "pad_token_id": -40001`: -1, phi3: 32000, phi3 + `, "pad_token_id": null`: -1, phi3 + `, "pad_token_id": 5`: 5,
	} {
		c, err := ParseConfig([]byte("{" + text + "}"))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		got := -1
		if c.Pad != nil {
			got = *c.Pad
		}
		if got != want {
			t.Errorf("%s: padding %d, want %d", text, got, want)
		}
	}
}
