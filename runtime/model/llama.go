package model

// Llama 1, 2, 3.x, Mistral and SmolLM2: pre-norm, grouped queries, SwiGLU, no norms of heads; biases and a sliding
// window where the configuration says so (Touvron et al. 2023, arXiv:2302.13971; Jiang et al. 2023, arXiv:2310.06825).
var llamaArch = architecture{
	name: "llama", hfTypes: []string{"llama", "mistral"}, gguf: []string{"llama"},
	configure: func(c *Config, h *hfConfig) error {
		if h.ModelType == "mistral" { // whose class has no biases, whatever the file says
			// layers differ where the file has layer_types, as in transformers' class Ministral, which such files get
			if err := h.slidingLayers(c, func(int) bool { return true }); err != nil {
				return err
			}
			return c.oneRope(h)
		}
		c.QKVBias, c.OBias, c.MLPBias = h.AttentionBias, h.AttentionBias, h.MLPBias
		return c.oneRope(h)
	},
	fromGGUF: func(c *Config, m ggufMeta) error {
		c.QKVBias, c.OBias = m.has("model.layers.0.self_attn.q_proj.bias"),
			m.has("model.layers.0.self_attn.o_proj.bias")
		c.MLPBias = m.has("model.layers.0.mlp.gate_proj.bias")
		c.slide(m.integer("attention.sliding_window", 0), func(int) bool { return true })
		return c.oneRopeGGUF(m)
	},
}

// oneRope reads the RoPE of a model with one RoPE for all layers.
func (c *Config) oneRope(h *hfConfig) error {
	r, err := h.rope(c, "", h.Theta)
	c.Ropes = []Rope{r}
	return err
}
