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
)

// ErrUnsupported is returned for models that weft cannot run; the error names what is missing and lists what is there.
var ErrUnsupported = errors.New("unsupported model")

// ErrConfig is returned for configurations that contradict themselves or the weights.
var ErrConfig = errors.New("bad model configuration")

// Config is a decoder's shape in one spelling, whatever the file's.
type Config struct {
	Architecture string // "llama", "qwen3", …
	Hidden       int    // H
	Layers       int
	Heads        int // Hq
	KVHeads      int // Hkv
	HeadDim      int // D
	FFN          int // F
	Vocab        int // V
	MaxContext   int // positions the model was trained for
	RMSEps       float32

	Tied                    bool // the head is the embedding table
	QKVBias, OBias, MLPBias bool
	QKNorm                  bool // RMSNorm of each query and key head before RoPE
	SandwichNorm            bool // Gemma: the outputs of attention and MLP are normalized before they join the residual
	NormPlusOne             bool // stored norm weights lack the 1 of Gemma's (1+w)
	Fused                   bool // Phi-3: qkv_proj and gate_up_proj hold several matrices
	Act                     device.Activation
	EmbedScale              float32 // 1, or sqrt(H) for Gemma
	AttnScale               float32
	AttnSoftcap             float32 // 0: none
	FinalSoftcap            float32
	Windows                 []int // [Layers], 0: all positions
	Ropes                   []Rope
	RopeOf                  []int // [Layers], index into Ropes
}

// Limits that no model in use comes near; they keep a hostile file from asking for absurd memory.
const (
	maxLayers  = 1024
	maxWidth   = 1 << 20
	maxHeads   = 4096
	maxHeadDim = 1024
	maxVocab   = 1 << 24
	maxContext = 1 << 26
)

// validate refuses numbers that contradict each other, before anything is allocated.
func (c *Config) validate() error {
	for _, n := range []struct {
		name       string
		value, max int
	}{
		{"hidden size", c.Hidden, maxWidth}, {"layers", c.Layers, maxLayers}, {"attention heads", c.Heads, maxHeads},
		{"key/value heads", c.KVHeads, maxHeads}, {"head width", c.HeadDim, maxHeadDim}, {"feed-forward width", c.FFN, maxWidth},
		{"vocabulary", c.Vocab, maxVocab}, {"context", c.MaxContext, maxContext},
	} {
		if n.value < 1 || n.value > n.max {
			return fmt.Errorf("%w: %s is %d, expected 1 to %d", ErrConfig, n.name, n.value, n.max)
		}
	}
	if c.Heads%c.KVHeads != 0 {
		return fmt.Errorf("%w: %d attention heads cannot share %d key/value heads", ErrConfig, c.Heads, c.KVHeads)
	}
	if !(c.RMSEps > 0 && c.RMSEps < 1) {
		return fmt.Errorf("%w: rms_norm_eps is %v, expected a number between 0 and 1", ErrConfig, c.RMSEps)
	}
	for name, v := range map[string]float32{"attention scale": c.AttnScale, "embedding scale": c.EmbedScale} {
		if !(v > 0) || math.IsInf(float64(v), 0) {
			return fmt.Errorf("%w: %s is %v", ErrConfig, name, v)
		}
	}
	for name, v := range map[string]float32{"attention soft cap": c.AttnSoftcap, "final soft cap": c.FinalSoftcap} {
		if !(v >= 0) || math.IsInf(float64(v), 0) {
			return fmt.Errorf("%w: %s is %v", ErrConfig, name, v)
		}
	}
	if len(c.Windows) != c.Layers || len(c.RopeOf) != c.Layers {
		return fmt.Errorf("%w: %d windows and %d RoPE kinds for %d layers", ErrConfig, len(c.Windows), len(c.RopeOf), c.Layers)
	}
	for l, w := range c.Windows {
		if w < 0 || c.RopeOf[l] < 0 || c.RopeOf[l] >= len(c.Ropes) {
			return fmt.Errorf("%w: layer %d has window %d and RoPE kind %d", ErrConfig, l, w, c.RopeOf[l])
		}
	}
	for i := range c.Ropes {
		if err := c.Ropes[i].validate(c.HeadDim); err != nil {
			return err
		}
	}
	return nil
}

// architecture is one row of the explicit list: how its configurations are read.
type architecture struct {
	name      string
	hfTypes   []string // model_type of config.json
	gguf      []string // general.architecture
	configure func(*Config, *hfConfig) error
	fromGGUF  func(*Config, ggufMeta) error
}

// architectures is what weft runs.
var architectures = []architecture{llamaArch, qwen2Arch, qwen3Arch, gemma2Arch, gemma3Arch, phi3Arch}

// Supported lists the model types of config.json that weft runs.
func Supported() []string {
	var out []string
	for _, a := range architectures {
		out = append(out, a.hfTypes...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s; supported are %s", ErrUnsupported, fmt.Sprintf(format, args...), strings.Join(Supported(), ", "))
}

// hfConfig is config.json in both spellings, transformers 4 and 5.
type hfConfig struct {
	ModelType     string          `json:"model_type"`
	Architectures []string        `json:"architectures"`
	Hidden        int             `json:"hidden_size"`
	Layers        int             `json:"num_hidden_layers"`
	Heads         int             `json:"num_attention_heads"`
	KVHeads       *int            `json:"num_key_value_heads"`
	HeadDim       *int            `json:"head_dim"`
	FFN           int             `json:"intermediate_size"`
	Vocab         int             `json:"vocab_size"`
	MaxPositions  int             `json:"max_position_embeddings"`
	RMSEps        *float64        `json:"rms_norm_eps"`
	Tied          *bool           `json:"tie_word_embeddings"`
	AttentionBias *bool           `json:"attention_bias"`
	MLPBias       bool            `json:"mlp_bias"`
	Act           string          `json:"hidden_act"`
	Activation    *string         `json:"hidden_activation"`
	Window        *int            `json:"sliding_window"`
	UseWindow     *bool           `json:"use_sliding_window"`
	MaxWindow     *int            `json:"max_window_layers"`
	LayerTypes    []string        `json:"layer_types"`
	WindowPattern *int            `json:"sliding_window_pattern"`
	QueryScalar   *float64        `json:"query_pre_attn_scalar"`
	AttnSoftcap   *float64        `json:"attn_logit_softcapping"`
	FinalSoftcap  *float64        `json:"final_logit_softcapping"`
	Theta         *float64        `json:"rope_theta"`
	LocalTheta    *float64        `json:"rope_local_base_freq"`
	Partial       *float64        `json:"partial_rotary_factor"`
	Original      *int            `json:"original_max_position_embeddings"`
	Scaling       json.RawMessage `json:"rope_scaling"`
	Parameters    json.RawMessage `json:"rope_parameters"`
	Experts       *int            `json:"num_local_experts"`
	Experts2      *int            `json:"num_experts"`
	Bidirectional *bool           `json:"use_bidirectional_attention"`
	Quantization  json.RawMessage `json:"quantization_config"`
}

// ParseConfig reads a config.json.
func ParseConfig(text []byte) (*Config, error) {
	var h hfConfig
	if err := json.Unmarshal(text, &h); err != nil {
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
		return nil, unsupported("a checkpoint with quantization_config")
	}
	c := &Config{
		Architecture: a.name, Hidden: h.Hidden, Layers: h.Layers, Heads: h.Heads, KVHeads: h.Heads, FFN: h.FFN, Vocab: h.Vocab,
		MaxContext: h.MaxPositions, RMSEps: 1e-6, EmbedScale: 1,
	}
	if h.KVHeads != nil {
		c.KVHeads = *h.KVHeads
	}
	if h.RMSEps != nil {
		c.RMSEps = float32(*h.RMSEps)
	}
	if c.Layers < 1 || c.Layers > maxLayers || c.Heads < 1 {
		return nil, fmt.Errorf("%w: %d layers, %d attention heads", ErrConfig, c.Layers, c.Heads)
	}
	c.HeadDim = c.Hidden / c.Heads
	if h.HeadDim != nil {
		c.HeadDim = *h.HeadDim
	} else if c.Hidden%c.Heads != 0 {
		return nil, fmt.Errorf("%w: hidden size %d is no multiple of %d heads and head_dim is absent", ErrConfig, c.Hidden, c.Heads)
	}
	c.AttnScale = float32(1 / math.Sqrt(float64(c.HeadDim)))
	c.Windows, c.RopeOf = make([]int, c.Layers), make([]int, c.Layers)
	if err := a.configure(c, &h); err != nil {
		return nil, err
	}
	return c, c.validate()
}

func findArchitecture(name string, names func(*architecture) []string) *architecture {
	for i := range architectures {
		if slices.Contains(names(&architectures[i]), name) {
			return &architectures[i]
		}
	}
	return nil
}

// activation reads hidden_act (or Gemma's hidden_activation).
func (h *hfConfig) activation() (device.Activation, error) {
	name := h.Act
	if h.Activation != nil {
		name = *h.Activation
	}
	acts := map[string]device.Activation{"silu": device.SiLU, "swish": device.SiLU, "gelu_pytorch_tanh": device.GELUTanh, "gelu_new": device.GELUTanh, "gelu": device.GELUErf}
	act, ok := acts[name]
	if !ok {
		return 0, fmt.Errorf("%w: activation %q; supported are %v", ErrUnsupported, name, slices.Sorted(maps.Keys(acts)))
	}
	return act, nil
}

func (h *hfConfig) tied(def bool) bool {
	if h.Tied == nil {
		return def
	}
	return *h.Tied
}

// slidingLayers sets the window of the layers that layer_types calls sliding_attention, or of those that alternate says.
func (h *hfConfig) slidingLayers(c *Config, alternate func(layer int) bool) error {
	window := 0
	if h.Window != nil {
		window = *h.Window
	}
	if h.LayerTypes != nil && len(h.LayerTypes) != c.Layers {
		return fmt.Errorf("%w: %d layer_types for %d layers", ErrConfig, len(h.LayerTypes), c.Layers)
	}
	for l := range c.Windows {
		sliding := alternate(l)
		if h.LayerTypes != nil {
			switch h.LayerTypes[l] {
			case "sliding_attention":
				sliding = true
			case "full_attention":
				sliding = false
			default:
				return fmt.Errorf("%w: layer type %q; supported are sliding_attention and full_attention", ErrUnsupported, h.LayerTypes[l])
			}
		}
		if sliding {
			if window < 1 {
				return fmt.Errorf("%w: layer %d slides, but sliding_window is %d", ErrConfig, l, window)
			}
			c.Windows[l] = window
		}
	}
	return nil
}

func number(p *float64) float32 {
	if p == nil {
		return 0
	}
	return float32(*p)
}
