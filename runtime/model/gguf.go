package model

import (
	"errors"
	"fmt"
	"math"
	"reflect"

	"weft/runtime/device"
)

// ggufMeta reads a GGUF's metadata by keys below its architecture's name; tensors add what the metadata lacks. It
// collects errors in errs.
type ggufMeta struct {
	arch   string
	meta   map[string]any
	has    func(tensor string) bool
	vector func(tensor string) ([]float64, error)
	errs   *[]error
}

func (m ggufMeta) get(key string) any { return m.meta[m.arch+"."+key] }

func (m ggufMeta) fail(kind error, key, format string, args ...any) {
	*m.errs = append(*m.errs, fmt.Errorf("%w: %s.%s: %s", kind, m.arch, key, fmt.Sprintf(format, args...)))
}

// float returns a number of any stored type, def where the key is absent.
func (m ggufMeta) float(key string, def float64) float64 {
	v := reflect.ValueOf(m.get(key))
	switch {
	case !v.IsValid():
		return def
	case v.CanFloat():
		return v.Float()
	case v.CanInt():
		return float64(v.Int())
	case v.CanUint():
		return float64(v.Uint())
	}
	m.fail(ErrConfig, key, "it is a %T, expected one number", m.get(key))
	return def
}

// integer returns a whole number of any stored type, def where the key is absent.
func (m ggufMeta) integer(key string, def int) int {
	v := m.float(key, float64(def))
	if v != math.Trunc(v) || math.Abs(v) > math.MaxInt32 {
		m.fail(ErrConfig, key, "it is %v, expected a whole number of 32 bits", v)
		return def
	}
	return int(v)
}

// noWindow refuses a sliding window for an architecture that has none in GGUF.
func (m ggufMeta) noWindow(err error) error {
	if w := m.integer("attention.sliding_window", 0); w > 0 && err == nil {
		return fmt.Errorf("%w: %s with a sliding window of %d in GGUF", ErrUnsupported, m.arch, w)
	}
	return err
}

// refuse refuses metadata that changes the computation in a way that no supported architecture implements.
func (m ggufMeta) refuse() {
	if causal, ok := m.get("attention.causal").(bool); ok && !causal {
		m.fail(ErrUnsupported, "attention.causal", "attention is causal here")
	}
	for _, key := range []string{
		"attention.scale", "logit_scale", "residual_scale", "embedding_scale", "rope.dimension_sections",
		"rope.scaling.yarn_log_multiplier", "rope.scaling.yarn_ext_factor",
	} {
		if m.get(key) != nil {
			m.fail(ErrUnsupported, key, "this key is not understood")
		}
	}
}

// slide gives the layers that rule names the window w; 0 or less is none.
func (c *Config) slide(w int, rule func(layer int) bool) {
	for l := range c.Windows {
		if w > 0 && rule(l) {
			c.Windows[l] = w
		}
	}
}

// ConfigFromGGUF reads the shape of a model from its metadata. hasTensor and vector look at the file's tensors (Hugging
// Face names); either may be nil.
func ConfigFromGGUF(meta map[string]any, hasTensor func(string) bool, vector func(string) ([]float32, error)) (*Config,
	error) {
	name, _ := meta["general.architecture"].(string)
	a := findArchitecture(name, func(a *architecture) []string { return a.gguf })
	if a == nil {
		return nil, unsupported("GGUF architecture %q", name)
	}
	if hasTensor == nil {
		hasTensor = func(string) bool { return false }
	}
	m := ggufMeta{arch: name, meta: meta, has: hasTensor, errs: new([]error)}
	if vector != nil {
		m.vector = func(t string) ([]float64, error) {
			v, err := vector(t)
			if err != nil {
				return nil, err
			}
			out := make([]float64, len(v))
			for i := range v {
				out[i] = float64(v[i])
			}
			return out, nil
		}
	}
	if n := m.integer("expert_count", 0); n > 1 {
		return nil, unsupported("GGUF architecture %q with %d experts", name, n)
	}
	c := &Config{
		Architecture: a.name, Hidden: m.integer("embedding_length", 0), Layers: m.integer("block_count", 0),
		Heads: m.integer("attention.head_count", 0),
		FFN:   m.integer("feed_forward_length", 0), MaxContext: m.integer("context_length", 0),
		Vocab:  m.integer("vocab_size", 0),
		RMSEps: float32(m.float("attention.layer_norm_rms_epsilon", 1e-5)), EmbedScale: 1, Act: device.SiLU,
		Tied: !hasTensor("lm_head.weight"),
	}
	c.KVHeads = m.integer("attention.head_count_kv", c.Heads)
	if tokens, ok := meta["tokenizer.ggml.tokens"].([]string); ok {
		c.Vocab = len(tokens)
	}
	m.refuse()
	if err := errors.Join(*m.errs...); err != nil {
		return nil, err
	}
	if c.Layers < 1 || c.Layers > maxLayers || c.Heads < 1 {
		return nil, fmt.Errorf("%w: %d layers, expected 1 to %d; %d attention heads, expected at least 1", ErrConfig,
			c.Layers, maxLayers, c.Heads)
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
	if err := errors.Join(*m.errs...); err != nil {
		return nil, err
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	return c, nil
}

// oneRopeGGUF reads the RoPE of a model with one RoPE for all layers; rope_freqs has llama3's divisors, already
// computed.
func (c *Config) oneRopeGGUF(m ggufMeta) error {
	r := Rope{Rot: m.integer("rope.dimension_count", c.HeadDim), Theta: m.float("rope.freq_base", 10000),
		Kind: "default", Scale: 1}
	factor := m.float("rope.scaling.factor", m.float("rope.scale_linear", 1))
	if factor == 0 { // how some files write none
		factor = 1
	}
	kind, _ := m.get("rope.scaling.type").(string)
	switch {
	case kind == "longrope", kind == "none", kind == "" && factor == 1:
	case kind == "linear", kind == "":
		r.Kind, r.Factor = "linear", factor
	case kind == "yarn":
		r.Kind, r.Factor, r.Truncate = "yarn", factor, true
		r.Fast, r.Slow = m.float("rope.scaling.yarn_beta_fast", 32), m.float("rope.scaling.yarn_beta_slow", 1)
		r.Original = m.integer("rope.scaling.original_context_length", c.MaxContext)
		r.Scale = yarnMagnitude(factor, 1) * m.float("rope.scaling.attn_factor", 1)
		// the converter writes attention_factor, the product
		if f := m.float("rope.scaling.yarn_attn_factor", 0); f != 0 {
			r.Scale = f
		}
	default:
		return fmt.Errorf("%w: RoPE scaling %q in GGUF; supported are none, linear, yarn, longrope", ErrUnsupported,
			kind)
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
