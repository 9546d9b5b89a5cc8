package model

import "fmt"

// Phi-3 and Phi-3.5: q, k, v in one matrix and gate, up in another, only a part of each head rotated, longrope: other
// frequencies once a sequence is longer than the original context (Abdin et al. 2024, arXiv:2404.14219; Ding et al.
// 2024, arXiv:2402.13753).
var phi3Arch = architecture{
	name: "phi3", hfTypes: []string{"phi3"}, gguf: []string{"phi3"},
	configure: func(c *Config, h *hfConfig) error {
		c.Fused = true
		if err := h.everyLayer(c); err != nil {
			return err
		}
		return c.oneRope(h)
	},
	fromGGUF: func(c *Config, m ggufMeta) error {
		c.Fused = true
		c.slide(m.integer("attention.sliding_window", 0), func(int) bool { return true })
		if err := c.oneRopeGGUF(m); err != nil {
			return err
		}
		if m.vector == nil || !m.has("rope_factors_short.weight") && !m.has("rope_factors_long.weight") {
			return nil // a Phi-3 without longrope
		}
		short, err := m.vector("rope_factors_short.weight")
		if err != nil {
			return err
		}
		long, err := m.vector("rope_factors_long.weight")
		if err != nil {
			return err
		}
		r := &c.Ropes[0]
		r.Kind, r.Short, r.Long = "longrope", short, long
		r.Original = m.integer("rope.scaling.original_context_length", 4096)
		r.Scale = longropeScale(float64(c.MaxContext)/float64(r.Original), r.Original)
		if f := m.float("rope.scaling.attn_factor", 0); f != 0 {
			if !(f > 0) {
				return fmt.Errorf("%w: rope.scaling.attn_factor is %v", ErrConfig, f)
			}
			r.Scale = f
		}
		return nil
	},
}
