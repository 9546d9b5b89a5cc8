package model

// Gemma 3 (text): Gemma 2 without soft caps, with norms of query and key heads and two RoPE frequencies: sliding layers turn faster than the full ones
// (Gemma Team 2025, arXiv:2503.19786).
var gemma3Arch = architecture{
	name: "gemma3", hfTypes: []string{"gemma3_text"}, gguf: []string{"gemma3"},
	configure: func(c *Config, h *hfConfig) error {
		if err := c.gemma(h); err != nil {
			return err
		}
		c.QKNorm = true
		c.AttnSoftcap, c.FinalSoftcap = number(h.AttnSoftcap), number(h.FinalSoftcap)
		pattern := 6
		if h.WindowPattern != nil {
			pattern = max(*h.WindowPattern, 1)
		}
		if err := h.slidingLayers(c, func(l int) bool { return (l+1)%pattern != 0 }); err != nil {
			return err
		}
		full, err := h.rope(c, "full_attention", h.Theta, true)
		if err != nil {
			return err
		}
		local := h.LocalTheta
		if local == nil {
			local = new(float64)
			*local = 10000
		}
		sliding, err := h.rope(c, "sliding_attention", local, false)
		c.Ropes = []Rope{full, sliding}
		c.slideRopes()
		return err
	},
	fromGGUF: func(c *Config, m ggufMeta) error {
		c.gemmaGGUF(m)
		c.QKNorm = true
		for l := range c.Windows {
			if (l+1)%6 != 0 {
				c.Windows[l] = m.integer("attention.sliding_window", 1024)
			}
		}
		if err := c.oneRopeGGUF(m); err != nil {
			return err
		}
		c.Ropes = append(c.Ropes, Rope{Rot: c.HeadDim, Theta: m.float("rope.local.freq_base", 10000), Kind: "default", Scale: 1})
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
