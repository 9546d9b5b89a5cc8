// Package model turns configurations and weight files into decoders over device operations: the configuration in both
// spellings, an explicit list of architectures, one readable file each.
package model

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"weft/runtime/device"
)

// ErrUnsupported is returned for models that weft cannot run; the error names what is missing and lists what is
// supported.
var ErrUnsupported = errors.New("unsupported model")

// ErrConfig is returned for configurations that are inconsistent or do not match the weights.
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
	// the token whose row of the embedding has no gradient in PyTorch (padding_idx), or nil
	Pad *int
}

// Limits far above those of existing models; they bound the memory that a hostile file can request.
const (
	maxLayers  = 1024
	maxWidth   = 1 << 20
	maxHeads   = 4096
	maxHeadDim = 1024
	maxVocab   = 1 << 24
	maxContext = 1 << 24
)

// validate refuses inconsistent values, before anything is allocated.
func (c *Config) validate() error {
	for _, n := range []struct {
		name       string
		value, max int
	}{
		{"hidden size", c.Hidden, maxWidth}, {"layers", c.Layers, maxLayers}, {"attention heads", c.Heads, maxHeads},
		{"key/value heads", c.KVHeads, maxHeads}, {"head width", c.HeadDim, maxHeadDim},
		{"feed-forward width", c.FFN, maxWidth},
		{"vocabulary", c.Vocab, maxVocab}, {"context", c.MaxContext, maxContext},
	} {
		if n.value < 1 || n.value > n.max {
			return fmt.Errorf("%w: %s is %d, expected 1 to %d", ErrConfig, n.name, n.value, n.max)
		}
	}
	if c.Heads%c.KVHeads != 0 {
		return fmt.Errorf("%w: %d attention heads are no multiple of %d key/value heads", ErrConfig, c.Heads, c.KVHeads)
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
		return fmt.Errorf("%w: %d windows and %d RoPE kinds for %d layers", ErrConfig, len(c.Windows), len(c.RopeOf),
			c.Layers)
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
	return fmt.Errorf("%w: %s; supported are %s", ErrUnsupported, fmt.Sprintf(format, args...),
		strings.Join(Supported(), ", "))
}

func findArchitecture(name string, names func(*architecture) []string) *architecture {
	for i := range architectures {
		if slices.Contains(names(&architectures[i]), name) {
			return &architectures[i]
		}
	}
	return nil
}
