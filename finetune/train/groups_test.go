package train

import (
	"path/filepath"
	"testing"

	"weft/finetune/data"
)

// Full finetuning of a Gemma, whose norms are 1 + w, moves every weight as transformers and torch do
// (scripts/python/optim_cases.py): with the decay that Trainer applies, with plain AdamW's on everything, and with
// bitsandbytes' 8-bit states, which the embedding does not get.
func TestGemmaCurves(t *testing.T) {
	const dir = "testdata/gemma3"
	var rows [][]int32
	readJSON(t, filepath.Join(dir, "samples.json"), &rows)
	for name, l2 := range map[string]float64{"weights": 1e-4, "all": 1e-4, "8bit": 2e-3} {
		t.Run(name, func(t *testing.T) {
			var c curve
			readJSON(t, filepath.Join(dir, "curve_"+name+".json"), &c)
			dev := newDevice(t)
			j := &Job{Dir: t.TempDir(), Config: settings(t), Log: discard, Device: dev,
				Model: openModel(t, dev, filepath.Join(dir, "model")).Frozen()}
			all := make([]int, len(rows))
			for i, ids := range rows {
				all[i] = i
				j.Train = append(j.Train, data.Sample{IDs: ids, Labels: ids})
			}
			c.settings(&j.Config, len(rows))
			j.Config.Method, j.Config.DecayOn = "full", "weights"
			switch name {
			case "all":
				j.Config.DecayOn = "all"
			case "8bit":
				j.Config.Optimizer = "adamw_8bit"
			}
			res, err := goldenRun(t, j, [][]int{all}, nil).run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			compareCurve(t, res, c, 2e-5)
			compareFinal(t, values(t, filepath.Join(j.Dir, "model/model.safetensors")),
				values(t, filepath.Join(dir, "final_"+name+".safetensors")), l2)
		})
	}
}

// The names that decay, and those whose state is never in 8 bits.
func TestParameterGroups(t *testing.T) {
	c := settings(t)
	for name, want := range map[string]bool{
		"model.embed_tokens.weight": true, "lm_head.weight": true, "model.norm.weight": false,
		"model.layers.0.self_attn.q_proj.weight": true, "model.layers.0.self_attn.q_proj.bias": false,
		"model.layers.0.input_layernorm.weight": false, "model.layers.0.post_feedforward_layernorm.weight": false,
		"model.layers.0.self_attn.k_norm.weight":                                 false,
		"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight":         true,
		"base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": true,
		"base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias":       false,
		"base_model.model.model.embed_tokens.lora_embedding_A":                   true,
		"base_model.model.model.layers.0.self_attn.normal_proj.lora_B.weight":    true,
		"base_model.model.model.layers.0.post_attention_layernorm.weight":        false,
		"base_model.model.model.layers.10.mlp.RMSNorm.weight":                    false,
	} {
		if got := c.decays(name); got != want {
			t.Errorf("%s decays: %v", name, got)
		}
	}
	c.DecayOn = "all"
	if !c.decays("model.norm.weight") {
		t.Error("all does not mean all")
	}
	for name, want := range map[string]bool{"model.embed_tokens.weight": true, "lm_head.weight": false,
		"base_model.model.model.embed_tokens.weight":           true,
		"base_model.model.model.embed_tokens.lora_embedding_A": false,
	} {
		if got := isEmbedding(name); got != want {
			t.Errorf("%s is the embedding: %v", name, got)
		}
	}
}
