package model

// Qwen3 (dense): an RMSNorm on each query and key head before RoPE, no biases, a head width of its own (Yang et al.
// 2025, arXiv:2505.09388).
var qwen3Arch = architecture{
	name: "qwen3", hfTypes: []string{"qwen3"}, gguf: []string{"qwen3"}, headDim: 128,
	configure: func(c *Config, h *hfConfig) (err error) {
		c.Tied, c.QKNorm = h.tied(false), true
		if h.AttentionBias != nil {
			c.QKVBias, c.OBias = *h.AttentionBias, *h.AttentionBias
		}
		if c.Act, err = h.activation(); err != nil {
			return err
		}
		if err := h.qwenWindows(c); err != nil {
			return err
		}
		return c.oneRope(h)
	},
	fromGGUF: func(c *Config, m ggufMeta) error {
		c.QKNorm = true
		return m.noWindow(c.oneRopeGGUF(m))
	},
}
