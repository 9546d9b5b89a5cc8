package model

import (
	"fmt"
	"math"

	"weft/runtime/device"
)

// ggufMeta reads a GGUF's metadata by keys below its architecture's name; tensors tell what metadata does not.
type ggufMeta struct {
	arch   string
	meta   map[string]any
	has    func(tensor string) bool
	vector func(tensor string) ([]float64, error)
}

func (m ggufMeta) get(key string) any { return m.meta[m.arch+"."+key] }

// float returns a number of any stored type; an array gives its first element.
func (m ggufMeta) float(key string, def float64) float64 {
	switch v := m.get(key).(type) {
	case float32:
		return float64(v)
	case float64:
		return v
	case nil:
		return def
	}
	return float64(m.integer(key, int(def)))
}

func (m ggufMeta) integer(key string, def int) int {
	switch v := m.get(key).(type) {
	case uint8:
		return int(v)
	case int8:
		return int(v)
	case uint16:
		return int(v)
	case int16:
		return int(v)
	case uint32:
		return int(v)
	case int32:
		return int(v)
	case uint64:
		return int(min(v, math.MaxInt32))
	case int64:
		return int(max(min(v, math.MaxInt32), math.MinInt32))
	}
	return def
}

// ConfigFromGGUF reads the shape of a model from its metadata. hasTensor and vector look at the file's tensors (Hugging Face names); either may be nil.
func ConfigFromGGUF(meta map[string]any, hasTensor func(string) bool, vector func(string) ([]float32, error)) (*Config, error) {
	name, _ := meta["general.architecture"].(string)
	a := findArchitecture(name, func(a *architecture) []string { return a.gguf })
	if a == nil {
		return nil, unsupported("GGUF architecture %q", name)
	}
	if hasTensor == nil {
		hasTensor = func(string) bool { return false }
	}
	m := ggufMeta{arch: name, meta: meta, has: hasTensor}
	if vector != nil {
		m.vector = func(t string) ([]float64, error) {
			v, err := vector(t)
			out := make([]float64, len(v))
			for i := range v {
				out[i] = float64(v[i])
			}
			return out, err
		}
	}
	if n := m.integer("expert_count", 0); n > 1 {
		return nil, unsupported("GGUF architecture %q with %d experts", name, n)
	}
	c := &Config{
		Architecture: a.name, Hidden: m.integer("embedding_length", 0), Layers: m.integer("block_count", 0), Heads: m.integer("attention.head_count", 0),
		FFN: m.integer("feed_forward_length", 0), MaxContext: m.integer("context_length", 0), Vocab: m.integer("vocab_size", 0),
		RMSEps: float32(m.float("attention.layer_norm_rms_epsilon", 1e-5)), EmbedScale: 1, Act: device.SiLU,
		Tied: !hasTensor("lm_head.weight"),
	}
	c.KVHeads = m.integer("attention.head_count_kv", c.Heads)
	if tokens, ok := meta["tokenizer.ggml.tokens"].([]string); ok {
		c.Vocab = len(tokens)
	}
	if c.Layers < 1 || c.Layers > maxLayers || c.Heads < 1 {
		return nil, fmt.Errorf("%w: %d layers, %d attention heads", ErrConfig, c.Layers, c.Heads)
	}
	c.HeadDim = m.integer("attention.key_length", c.Hidden/c.Heads)
	if v := m.integer("attention.value_length", c.HeadDim); v != c.HeadDim {
		return nil, fmt.Errorf("%w: keys of %d and values of %d", ErrUnsupported, c.HeadDim, v)
	}
	c.AttnScale = float32(1 / math.Sqrt(float64(c.HeadDim)))
	c.Windows, c.RopeOf = make([]int, c.Layers), make([]int, c.Layers)
	if err := a.fromGGUF(c, m); err != nil {
		return nil, err
	}
	return c, c.validate()
}

// oneRopeGGUF reads the RoPE of a model whose layers share one; rope_freqs holds llama3's divisors, worked out.
func (c *Config) oneRopeGGUF(m ggufMeta) error {
	r := Rope{Rot: m.integer("rope.dimension_count", c.HeadDim), Theta: m.float("rope.freq_base", 10000), Kind: "default", Scale: 1}
	switch kind, _ := m.get("rope.scaling.type").(string); kind {
	case "", "none", "longrope":
	case "linear":
		r.Kind, r.Factor = "linear", m.float("rope.scaling.factor", 1)
	default:
		return fmt.Errorf("%w: RoPE scaling %q in GGUF; supported are none, linear, longrope", ErrUnsupported, kind)
	}
	if m.vector != nil && m.has("rope_freqs.weight") {
		f, err := m.vector("rope_freqs.weight")
		if err != nil {
			return err
		}
		r.Short = f
	}
	c.Ropes = []Rope{r}
	return nil
}
