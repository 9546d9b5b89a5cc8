package model

// Qwen2 and Qwen2.5: Llama with biases on q, k and v (Yang et al. 2024, arXiv:2407.10671). Its sliding window is off
// unless use_sliding_window says so.
var qwen2Arch = architecture{
	name: "qwen2", hfTypes: []string{"qwen2"}, gguf: []string{"qwen2"},
	configure: func(c *Config, h *hfConfig) error {
		c.QKVBias = true
		if err := h.qwenWindows(c); err != nil {
			return err
		}
		return c.oneRope(h)
	},
	fromGGUF: func(c *Config, m ggufMeta) error {
		c.QKVBias = true
		return m.noWindow(c.oneRopeGGUF(m))
	},
}

// qwenWindows slides the layers from max_window_layers on, if sliding is on at all.
func (h *hfConfig) qwenWindows(c *Config) error {
	if !h.UseWindow {
		h.Window = nil
	}
	return h.slidingLayers(c, func(l int) bool { return l >= h.MaxWindow })
}
