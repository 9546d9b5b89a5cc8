package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"weft/runtime/device"
	"weft/runtime/weights"
)

// hfConfig is config.json in both spellings, transformers 4 and 5.
type hfConfig struct {
	ModelType      string          `json:"model_type"`
	Architectures  []string        `json:"architectures"`
	Hidden         int             `json:"hidden_size"`
	Layers         int             `json:"num_hidden_layers"`
	Heads          int             `json:"num_attention_heads"`
	KVHeads        *int            `json:"num_key_value_heads"`
	HeadDim        *int            `json:"head_dim"`
	FFN            int             `json:"intermediate_size"`
	Vocab          int             `json:"vocab_size"`
	MaxPositions   int             `json:"max_position_embeddings"`
	RMSEps         *float64        `json:"rms_norm_eps"`
	Tied           *bool           `json:"tie_word_embeddings"`
	AttentionBias  *bool           `json:"attention_bias"`
	MLPBias        bool            `json:"mlp_bias"`
	Act            string          `json:"hidden_act"`
	Activation     *string         `json:"hidden_activation"`
	Window         *int            `json:"sliding_window"`
	UseWindow      *bool           `json:"use_sliding_window"`
	MaxWindow      *int            `json:"max_window_layers"`
	LayerTypes     []string        `json:"layer_types"`
	WindowPattern  *int            `json:"sliding_window_pattern"`
	WindowPattern2 *int            `json:"_sliding_window_pattern"`
	QueryScalar    *float64        `json:"query_pre_attn_scalar"`
	AttnSoftcap    *float64        `json:"attn_logit_softcapping"`
	FinalSoftcap   *float64        `json:"final_logit_softcapping"`
	Theta          *float64        `json:"rope_theta"`
	LocalTheta     *float64        `json:"rope_local_base_freq"`
	Partial        *float64        `json:"partial_rotary_factor"`
	Original       *int            `json:"original_max_position_embeddings"`
	Scaling        json.RawMessage `json:"rope_scaling"`
	Parameters     json.RawMessage `json:"rope_parameters"`
	Experts        *int            `json:"num_local_experts"`
	Experts2       *int            `json:"num_experts"`
	Bidirectional  *bool           `json:"use_bidirectional_attention"`
	Quantization   json.RawMessage `json:"quantization_config"`
	Pad            json.RawMessage `json:"pad_token_id"`

	present map[string]json.RawMessage // every member, to tell an absent one from null
}

// maxConfigBytes bounds config.json.
const maxConfigBytes = 16 << 20

// place returns the position in the text of an error of encoding/json.
func place(err error) string {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Sprintf("at byte %d: ", syntax.Offset)
	case errors.As(err, &kind):
		return fmt.Sprintf("at byte %d: ", kind.Offset)
	}
	return ""
}

// ParseConfig reads a config.json. An absent member has the default of transformers' class for the model; a member that
// weft does not implement is ErrUnsupported, an invalid one ErrConfig.
func ParseConfig(text []byte) (*Config, error) {
	var h hfConfig
	if len(text) > maxConfigBytes {
		return nil, fmt.Errorf("%w: config.json has %d bytes, more than %d", ErrConfig, len(text), maxConfigBytes)
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return nil, fmt.Errorf("%w: config.json: %s%w", ErrConfig, place(err), err)
	}
	if err := json.Unmarshal(text, &h.present); err != nil {
		return nil, fmt.Errorf("%w: config.json: %w", ErrConfig, err)
	}
	a := findArchitecture(h.ModelType, func(a *architecture) []string { return a.hfTypes })
	if a == nil {
		return nil, unsupported("model_type %q", h.ModelType)
	}
	if (h.Experts != nil && *h.Experts > 1) || (h.Experts2 != nil && *h.Experts2 > 1) {
		return nil, unsupported("model_type %q with a mixture of experts", h.ModelType)
	}
	if q := string(h.Quantization); q != "" && q != "null" {
		if _, err := weights.ParseQuantization(h.Quantization); err != nil {
			return nil, fmt.Errorf("%w: config.json: %w", ErrUnsupported, err)
		}
	}
	if len(h.Architectures) > 0 &&
		!slices.ContainsFunc(h.Architectures, func(n string) bool { return strings.HasSuffix(n, "ForCausalLM") }) {
		return nil, fmt.Errorf("%w: %q is no causal language model", ErrUnsupported, h.Architectures)
	}
	for _, t := range h.LayerTypes {
		if t != sliding && t != full {
			return nil, fmt.Errorf("%w: layer type %q; supported are %s and %s", ErrUnsupported, t, sliding, full)
		}
	}
	c := &Config{
		Architecture: a.name, Hidden: h.Hidden, Layers: h.Layers, Heads: h.Heads, KVHeads: h.Heads, FFN: h.FFN,
		Vocab:      h.Vocab,
		MaxContext: h.MaxPositions, RMSEps: 1e-6, EmbedScale: 1,
	}
	if h.KVHeads != nil {
		c.KVHeads = *h.KVHeads
	}
	if h.RMSEps != nil {
		c.RMSEps = float32(*h.RMSEps)
	}
	if c.Layers < 1 || c.Layers > maxLayers || c.Heads < 1 {
		return nil, fmt.Errorf("%w: %d layers, expected 1 to %d; %d attention heads, expected at least 1", ErrConfig,
			c.Layers, maxLayers, c.Heads)
	}
	c.HeadDim = c.Hidden / c.Heads
	if h.HeadDim != nil {
		c.HeadDim = *h.HeadDim
	} else if a.headDim > 0 {
		c.HeadDim = a.headDim
	} else if c.Hidden%c.Heads != 0 {
		return nil, fmt.Errorf("%w: hidden size %d is no multiple of %d heads and head_dim is absent", ErrConfig,
			c.Hidden, c.Heads)
	}
	c.AttnScale = float32(1 / math.Sqrt(float64(c.HeadDim)))
	c.Windows, c.RopeOf = make([]int, c.Layers), make([]int, c.Layers)
	if err := a.configure(c, &h); err != nil {
		return nil, err
	}
	h.padding(c)
	if err := c.validate(); err != nil {
		return nil, err
	}
	return c, nil
}

// activation reads hidden_act (or Gemma's hidden_activation).
func (h *hfConfig) activation() (device.Activation, error) {
	name := h.Act
	if name == "" {
		name = "silu"
	}
	if h.Activation != nil {
		name = *h.Activation
	}
	acts := map[string]device.Activation{"silu": device.SiLU, "swish": device.SiLU,
		"gelu_pytorch_tanh": device.GELUTanh, "gelu_new": device.GELUTanh, "gelu": device.GELUErf}
	act, ok := acts[name]
	if !ok {
		return 0,
			fmt.Errorf("%w: activation %q; supported are %v", ErrUnsupported, name, slices.Sorted(maps.Keys(acts)))
	}
	return act, nil
}

// padding reads pad_token_id over the model's default. Serving does not use it, so no value is refused.
func (h *hfConfig) padding(c *Config) {
	if h.has("pad_token_id") {
		c.Pad = nil
		if json.Unmarshal(h.Pad, &c.Pad) != nil {
			c.Pad = nil
		}
	}
	if c.Pad != nil && *c.Pad < 0 {
		*c.Pad += c.Vocab
	}
	if c.Pad != nil && (*c.Pad < 0 || *c.Pad >= c.Vocab) {
		c.Pad = nil
	}
}

func (h *hfConfig) tied(def bool) bool {
	if h.Tied == nil {
		return def
	}
	return *h.Tied
}

// The layer_types that are supported.
const (
	sliding = "sliding_attention"
	full    = "full_attention"
)

// slidingLayers sets the window of the layers that layer_types calls sliding_attention, or of those that rule names
// where the file has no layer_types. An absent sliding_window is def, null is none.
func (h *hfConfig) slidingLayers(c *Config, def int, rule func(layer int) bool) error {
	if h.Window != nil {
		def = *h.Window
	} else if h.has("sliding_window") {
		return nil
	}
	if h.LayerTypes != nil && len(h.LayerTypes) != c.Layers {
		return fmt.Errorf("%w: %d layer_types for %d layers", ErrConfig, len(h.LayerTypes), c.Layers)
	}
	for l := range c.Windows {
		slides := rule(l)
		if h.LayerTypes != nil {
			slides = h.LayerTypes[l] == sliding
		}
		if slides {
			if def < 1 {
				return fmt.Errorf("%w: layer %d slides, but sliding_window is %d", ErrConfig, l, def)
			}
			c.Windows[l] = def
		}
	}
	return nil
}

// has reports whether the file has the member, null included.
func (h *hfConfig) has(member string) bool {
	_, ok := h.present[member]
	return ok
}

// softcap reads a soft cap: absent is def, null is none.
func (h *hfConfig) softcap(member string, v *float64, def float32) (float32, error) {
	switch {
	case v == nil && h.has(member):
		return 0, nil
	case v == nil:
		return def, nil
	case !(*v > 0):
		return 0, fmt.Errorf("%w: %s is %v, expected a positive number or null", ErrConfig, member, *v)
	}
	return float32(*v), nil
}
