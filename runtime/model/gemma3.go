package model

import (
	"fmt"
	"slices"
)

// Gemma 3 (text): Gemma 2 without its soft caps (attn_logit_softcapping has no effect, the one on logits is off unless
// the file has it), with norms of query and key heads and two RoPE frequencies: sliding layers turn faster than the
// full ones (Gemma Team 2025, arXiv:2503.19786).
var gemma3Arch = architecture{
	name: "gemma3", hfTypes: []string{"gemma3_text"}, gguf: []string{"gemma3"},
	configure: func(c *Config, h *hfConfig) (err error) {
		if err := c.gemma(h); err != nil {
			return err
		}
		c.QKNorm = true
		if c.FinalSoftcap, err = softcap("final_logit_softcapping", h.FinalSoftcap); err != nil {
			return err
		}
		if h.WindowPattern < 1 {
			return fmt.Errorf("%w: sliding_window_pattern is %d", ErrConfig, h.WindowPattern)
		}
		if err := h.slidingLayers(c, func(l int) bool { return (l+1)%h.WindowPattern != 0 }); err != nil {
			return err
		}
		c.Ropes = make([]Rope, 2)
		c.slideRopes()
		for i, kind := range []string{full, sliding} {
			theta := []float64{h.Theta, h.LocalTheta}[i]
			if !slices.Contains(c.RopeOf, i) { // what the file says of layers that it lacks has no effect
				c.Ropes[i] = Rope{Kind: "default", Rot: c.HeadDim, Theta: theta, Scale: 1}
			} else if c.Ropes[i], err = h.rope(c, kind, theta); err != nil {
				return err
			}
		}
		return nil
	},
	fromGGUF: func(c *Config, m ggufMeta) error {
		c.gemmaGGUF(m)
		c.QKNorm = true
		c.FinalSoftcap = float32(m.float("final_logit_softcapping", 0))
		pattern := max(1, m.integer("attention.sliding_window_pattern", 6))
		c.slide(m.integer("attention.sliding_window", 1024), func(l int) bool { return (l+1)%pattern != 0 })
		if err := c.oneRopeGGUF(m); err != nil {
			return err
		}
		c.Ropes = append(c.Ropes,
			Rope{Rot: c.HeadDim, Theta: m.float("rope.freq_base_swa", m.float("rope.local.freq_base", 10000)),
				Kind: "default", Scale: 1})
		c.slideRopes()
		return nil
	},
}

// slideRopes gives the second RoPE to the layers with a window.
func (c *Config) slideRopes() {
	for l, w := range c.Windows {
		if w > 0 {
			c.RopeOf[l] = 1
		}
	}
}
