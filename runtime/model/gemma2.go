package model

import (
	"fmt"
	"math"

	"weft/runtime/device"
)

// Gemma 2: embeddings scaled by sqrt(H), norms of (1+w) around attention and MLP, GeGLU, soft caps on scores and
// logits, every second layer slides (Gemma Team 2024, arXiv:2408.00118).
var gemma2Arch = architecture{
	name: "gemma2", hfTypes: []string{"gemma2"}, gguf: []string{"gemma2"},
	configure: func(c *Config, h *hfConfig) error {
		if err := c.gemma(h); err != nil {
			return err
		}
		if err := c.softcaps(h); err != nil {
			return err
		}
		if err := h.slidingLayers(c, everyOther); err != nil {
			return err
		}
		return c.oneRope(h)
	},
	fromGGUF: func(c *Config, m ggufMeta) error {
		c.gemmaGGUF(m)
		c.AttnSoftcap, c.FinalSoftcap = float32(m.float("attn_logit_softcapping", 50)),
			float32(m.float("final_logit_softcapping", 30))
		c.slide(m.integer("attention.sliding_window", 4096), everyOther)
		return c.oneRopeGGUF(m)
	},
}

func everyOther(layer int) bool { return layer%2 == 0 }

// softcaps reads both soft caps.
func (c *Config) softcaps(h *hfConfig) (err error) {
	if c.AttnSoftcap, err = softcap("attn_logit_softcapping", h.AttnSoftcap); err != nil {
		return err
	}
	c.FinalSoftcap, err = softcap("final_logit_softcapping", h.FinalSoftcap)
	return err
}

// gemma reads the settings that all Gemma models have.
func (c *Config) gemma(h *hfConfig) error {
	c.SandwichNorm, c.NormPlusOne = true, true
	c.EmbedScale = float32(math.Sqrt(float64(c.Hidden)))
	c.QKVBias, c.OBias = h.AttentionBias, h.AttentionBias
	if h.Bidirectional != nil && *h.Bidirectional {
		return fmt.Errorf("%w: bidirectional attention", ErrUnsupported)
	}
	c.AttnScale = float32(1 / math.Sqrt(h.QueryScalar))
	return nil
}

// gemmaGGUF is gemma for GGUF, whose files store 1+w and no query scale, which depends on the size of the model: only
// the 27B ones use H/Hq instead of the head width.
func (c *Config) gemmaGGUF(m ggufMeta) {
	c.SandwichNorm = true
	c.EmbedScale = float32(math.Sqrt(float64(c.Hidden)))
	c.Act = device.GELUTanh
	if c.Layers == 46 && c.Architecture == "gemma2" || c.Layers == 62 && c.Architecture == "gemma3" {
		c.AttnScale = float32(1 / math.Sqrt(float64(c.Hidden)/float64(c.Heads)))
	}
}
