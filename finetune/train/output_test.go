package train

import (
	"math"
	"path/filepath"
	"testing"

	"weft/adapters/peft"
	"weft/internal/testdata"
	"weft/runtime/lora"
	"weft/runtime/model"
	"weft/runtime/weights"
)

// An adapter that leaves a run fits its base again, with the ranks and scales of the run.
func TestAdapterFitsItsBase(t *testing.T) {
	path := testdata.Goldens(t, "train", "models", "tiny-llama")
	base, err := peft.OpenModel(path, "tiny-llama")
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	for name, change := range map[string]func(c *Config){
		"rank 1":     func(c *Config) { c.Rank = 1 },
		"dora":       func(c *Config) { c.DoRA = true },
		"blocks":     func(c *Config) { c.LayersToTransform = []int{1} },
		"expression": func(c *Config) { c.TargetModules = []string{`.*\.[02]\.self_attn\.(q|v)_proj`} },
		"patterns": func(c *Config) {
			c.RankPattern, c.AlphaPattern = map[string]string{"q_proj": "3"}, map[string]string{"layers.0.mlp.up_proj": "5"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			j := smallJob(t, newDevice(t), t.TempDir())
			change(&j.Config)
			plan, err := j.Config.plan(j.Model.Config)
			if err != nil {
				t.Fatal(err)
			}
			res, err := j.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			a, err := peft.Load(res.AdapterPath, base)
			if err != nil {
				t.Fatal(err)
			}
			adapted := 0
			for l := range a.Layers {
				for target := range lora.NumTargets {
					if a.Layers[l][target].Rank() > 0 {
						adapted++
					}
				}
			}
			if adapted != len(plan) {
				t.Errorf("%d layers are adapted, %d were trained", adapted, len(plan))
			}
			for i := range plan {
				p := &plan[i]
				if m := &a.Layers[p.layer][p.target]; m.Rank() != p.rank || m.Scale != p.scale(j.Config.RsLoRA) {
					t.Errorf("%s: rank %d scale %v, trained at %d and %v", p.path, m.Rank(), m.Scale, p.rank, p.scale(j.Config.RsLoRA))
				}
			}
		})
	}
}

// A model that was trained at rate 0 is the base again, also where its file held Gemma's norms with their 1, as GGUF files do.
func TestFullModelIsWrittenAsItsFamilyIs(t *testing.T) {
	for _, name := range []string{"tiny-llama", "tiny-gemma3"} {
		for _, inFile := range []bool{false, true} {
			j := smallJob(t, newDevice(t), t.TempDir())
			f := load(t, j.Device, name)
			cfg := *f.Config
			cfg.NormPlusOne = cfg.NormPlusOne && !inFile
			f.Config = &cfg
			source := testdata.Goldens(t, "train", "models", name)
			j.Model, j.Beside = f, []string{filepath.Join(source, "config.json")}
			c := &j.Config
			c.Method, c.Dropout, c.LearningRate, c.MaxSteps = "full", 0, 0, 1
			res, err := j.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			want, err := weights.Open(source)
			if err != nil {
				t.Fatal(err)
			}
			got := values(t, filepath.Join(res.AdapterPath, "model.safetensors"))
			for _, tensor := range want.Names() {
				info, _ := want.Info(tensor)
				if len(info.Shape) != 1 {
					continue
				}
				w, err := want.Vector(tensor)
				if err != nil {
					t.Fatal(err)
				}
				for i := range w {
					if i >= len(got[tensor]) || math.Abs(float64(got[tensor][i]-w[i])) > 1e-6 {
						t.Fatalf("%s: %s differs at %d", name, tensor, i)
					}
				}
			}
			want.Close()
			again, err := model.Open(res.AdapterPath, j.Device, model.Options{MaxBatchTokens: 1, MaxLogitRows: 1})
			if err != nil {
				t.Fatalf("%s: the written folder does not open: %v", name, err)
			}
			again.Close()
		}
	}
}
