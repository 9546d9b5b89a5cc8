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

// hfConfig is config.json in both spellings, transformers 4 and 5. Before a file is read into it, it holds the defaults
// of transformers' class for the model type (hfDefaults); in a pointer, nil is the file's null, or absent without a
// default.
type hfConfig struct {
	ModelType     string           `json:"model_type"`
	Architectures []string         `json:"architectures"`
	Hidden        int              `json:"hidden_size"`
	Layers        int              `json:"num_hidden_layers"`
	Heads         int              `json:"num_attention_heads"`
	KVHeads       *int             `json:"num_key_value_heads"` // null: as many as heads
	HeadDim       *int             `json:"head_dim"`            // null: hidden size over heads
	FFN           int              `json:"intermediate_size"`
	Vocab         int              `json:"vocab_size"`
	MaxPositions  int              `json:"max_position_embeddings"`
	RMSEps        float64          `json:"rms_norm_eps"`
	Tied          bool             `json:"tie_word_embeddings"`
	AttentionBias bool             `json:"attention_bias"`
	MLPBias       bool             `json:"mlp_bias"`
	Act           string           `json:"hidden_act"`        // of all but Gemma
	Activation    string           `json:"hidden_activation"` // of Gemma, which never reads hidden_act
	Window        *int             `json:"sliding_window"`
	UseWindow     bool             `json:"use_sliding_window"`
	MaxWindow     int              `json:"max_window_layers"`
	LayerTypes    []string         `json:"layer_types"`
	WindowPattern int              `json:"sliding_window_pattern"`
	QueryScalar   float64          `json:"query_pre_attn_scalar"`
	AttnSoftcap   *float64         `json:"attn_logit_softcapping"`
	FinalSoftcap  *float64         `json:"final_logit_softcapping"`
	Theta         float64          `json:"rope_theta"`
	LocalTheta    float64          `json:"rope_local_base_freq"`
	Partial       *float64         `json:"partial_rotary_factor"`
	Original      *int             `json:"original_max_position_embeddings"`
	Scaling       json.RawMessage  `json:"rope_scaling"`
	Parameters    json.RawMessage  `json:"rope_parameters"`
	Experts       *int             `json:"num_local_experts"`
	Experts2      *int             `json:"num_experts"`
	Bidirectional *bool            `json:"use_bidirectional_attention"`
	Quantization  json.RawMessage  `json:"quantization_config"`
	Pad           *json.RawMessage `json:"pad_token_id"`
}

// hfDefaults returns what transformers' class for a model type has for members that a config.json lacks.
func hfDefaults(modelType string) hfConfig {
	h := hfConfig{
		ModelType: modelType, Hidden: 4096, Layers: 32, Heads: 32, RMSEps: 1e-6, Act: "silu",
		Activation: "gelu_pytorch_tanh", Theta: 10000, LocalTheta: 10000, QueryScalar: 256, MaxWindow: 28,
		WindowPattern: 6,
	}
	switch modelType {
	case "llama":
		h.Vocab, h.FFN, h.MaxPositions = 32000, 11008, 2048
	case "mistral":
		h.Vocab, h.FFN, h.MaxPositions, h.KVHeads, h.Window = 32000, 14336, 131072, new(8), new(4096)
	case "qwen2", "qwen3":
		h.Vocab, h.FFN, h.MaxPositions, h.KVHeads, h.Window = 151936, 22016, 32768, new(32), new(4096)
		if modelType == "qwen3" {
			h.HeadDim = new(128)
		}
	case "gemma2", "gemma3_text":
		h.Hidden, h.FFN, h.Layers, h.Heads, h.KVHeads, h.HeadDim = 2304, 9216, 26, 8, new(4), new(256)
		h.Tied, h.Window, h.Pad = true, new(4096), new(json.RawMessage("0"))
		if modelType == "gemma2" {
			h.Vocab, h.MaxPositions, h.AttnSoftcap, h.FinalSoftcap = 256000, 8192, new(50.0), new(30.0)
		} else {
			h.Vocab, h.MaxPositions, h.Theta = 262208, 131072, 1e6
		}
	case "phi3":
		h.Vocab, h.Hidden, h.FFN, h.MaxPositions, h.Original = 32064, 3072, 8192, 4096, new(4096)
		h.RMSEps, h.Pad = 1e-5, new(json.RawMessage("32000"))
	}
	return h
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

// ParseConfig reads a config.json. An absent member has the default of transformers' class for the model, and so has a
// null where that class takes none; a member that weft does not implement is ErrUnsupported, an invalid one ErrConfig.
func ParseConfig(text []byte) (*Config, error) {
	if len(text) > maxConfigBytes {
		return nil, fmt.Errorf("%w: config.json has %d bytes, more than %d", ErrConfig, len(text), maxConfigBytes)
	}
	var kind struct {
		ModelType string `json:"model_type"`
	}
	if err := json.Unmarshal(text, &kind); err != nil {
		return nil, fmt.Errorf("%w: config.json: %s%w", ErrConfig, place(err), err)
	}
	a := findArchitecture(kind.ModelType, func(a *architecture) []string { return a.hfTypes })
	if a == nil {
		return nil, unsupported("model_type %q", kind.ModelType)
	}
	h := hfDefaults(kind.ModelType)
	if err := json.Unmarshal(text, &h); err != nil {
		return nil, fmt.Errorf("%w: config.json: %s%w", ErrConfig, place(err), err)
	}
	if (h.Experts != nil && *h.Experts > 1) || (h.Experts2 != nil && *h.Experts2 > 1) {
		return nil, unsupported("model_type %q with a mixture of experts", h.ModelType)
	}
	if q := string(h.Quantization); q != "" && q != "null" {
		if _, err := weights.ParseQuantization(h.Quantization); err != nil {
			return nil, fmt.Errorf("%w: config.json: %w", ErrUnsupported, err)
		}
	}
	// "LlamaModel" is the bare decoder, whose head is its embedding or beside it
	causal := func(n string) bool {
		return strings.HasSuffix(n, "Model") || strings.HasSuffix(n, "ForCausalLM") ||
			strings.HasSuffix(n, "ForCausalLMWithValueHead")
	}
	if len(h.Architectures) > 0 && !slices.ContainsFunc(h.Architectures, causal) {
		return nil, fmt.Errorf("%w: %q is no causal language model", ErrUnsupported, h.Architectures)
	}
	for i, t := range h.LayerTypes {
		if t == "attention" { // as older files call it
			h.LayerTypes[i] = full
		} else if t != sliding && t != full {
			return nil, fmt.Errorf("%w: layer type %q; supported are %s and %s", ErrUnsupported, t, sliding, full)
		}
	}
	c := &Config{
		Architecture: a.name, Hidden: h.Hidden, Layers: h.Layers, Heads: h.Heads, KVHeads: or(h.KVHeads, h.Heads),
		FFN: h.FFN, Vocab: h.Vocab, MaxContext: h.MaxPositions, RMSEps: float32(h.RMSEps), EmbedScale: 1, Tied: h.Tied,
	}
	if c.Layers < 1 || c.Layers > maxLayers || c.Heads < 1 {
		return nil, fmt.Errorf("%w: %d layers, expected 1 to %d; %d attention heads, expected at least 1", ErrConfig,
			c.Layers, maxLayers, c.Heads)
	}
	c.HeadDim = or(h.HeadDim, c.Hidden/c.Heads)
	if h.HeadDim == nil && c.Hidden%c.Heads != 0 {
		return nil, fmt.Errorf("%w: hidden size %d is no multiple of %d heads and head_dim is absent", ErrConfig,
			c.Hidden, c.Heads)
	}
	c.AttnScale = float32(1 / math.Sqrt(float64(c.HeadDim)))
	c.Windows, c.RopeOf = make([]int, c.Layers), make([]int, c.Layers)
	var err error
	if c.Act, err = activation(h.Act); a.name == "gemma2" || a.name == "gemma3" {
		c.Act, err = activation(h.Activation)
	}
	if err != nil {
		return nil, err
	}
	if err := a.configure(c, &h); err != nil {
		return nil, err
	}
	h.padding(c)
	if err := c.validate(); err != nil {
		return nil, err
	}
	return c, nil
}

// activations are those of transformers that compute one of the device's.
var activations = map[string]device.Activation{
	"silu": device.SiLU, "swish": device.SiLU, "gelu": device.GELUErf, "gelu_python": device.GELUErf,
	"gelu_pytorch_tanh": device.GELUTanh, "gelu_python_tanh": device.GELUTanh, "gelu_new": device.GELUTanh,
	"gelu_fast": device.GELUTanh, "gelu_accurate": device.GELUTanh,
}

func activation(name string) (device.Activation, error) {
	act, ok := activations[name]
	if !ok {
		return 0, fmt.Errorf("%w: activation %q; supported are %v", ErrUnsupported, name,
			slices.Sorted(maps.Keys(activations)))
	}
	return act, nil
}

// padding reads pad_token_id. Serving does not use it, so no value is refused.
func (h *hfConfig) padding(c *Config) {
	if h.Pad == nil || json.Unmarshal(*h.Pad, &c.Pad) != nil || c.Pad == nil {
		c.Pad = nil
		return
	}
	if *c.Pad < 0 {
		*c.Pad += c.Vocab
	}
	if *c.Pad < 0 || *c.Pad >= c.Vocab {
		c.Pad = nil
	}
}

// The layer_types that are supported.
const (
	sliding = "sliding_attention"
	full    = "full_attention"
)

// slidingLayers sets the window of the layers that layer_types calls sliding_attention, or of those that rule names
// where the file has no layer_types. A sliding_window of null is none.
func (h *hfConfig) slidingLayers(c *Config, rule func(layer int) bool) error {
	if h.LayerTypes != nil && len(h.LayerTypes) != c.Layers {
		return fmt.Errorf("%w: %d layer_types for %d layers", ErrConfig, len(h.LayerTypes), c.Layers)
	}
	for l := range c.Windows {
		slides := rule(l)
		if h.LayerTypes != nil {
			slides = h.LayerTypes[l] == sliding
		}
		if slides && h.Window != nil {
			if *h.Window < 1 {
				return fmt.Errorf("%w: layer %d slides, but sliding_window is %d", ErrConfig, l, *h.Window)
			}
			c.Windows[l] = *h.Window
		}
	}
	return nil
}

// everyLayer slides all layers where sliding_window is set, whatever layer_types says: transformers' class for Phi-3
// has one mask for the whole model.
func (h *hfConfig) everyLayer(c *Config) error {
	h.LayerTypes = nil
	return h.slidingLayers(c, func(int) bool { return true })
}

// softcap reads a soft cap; null is none.
func softcap(member string, v *float64) (float32, error) {
	if v != nil && !(*v > 0) {
		return 0, fmt.Errorf("%w: %s is %v, expected a positive number or null", ErrConfig, member, *v)
	}
	return float32(or(v, 0)), nil
}
