package model

// Qwen3 (dense): an RMSNorm on each query and key head before RoPE, no biases, a head width of its own (Yang et al.
// 2025, arXiv:2505.09388).
var qwen3Arch = architecture{
	name: "qwen3", hfTypes: []string{"qwen3"}, gguf: []string{"qwen3"},
	configure: func(c *Config, h *hfConfig) error {
		c.QKNorm, c.QKVBias, c.OBias = true, h.AttentionBias, h.AttentionBias
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
