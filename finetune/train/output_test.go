package train

import (
	"math"
	"path/filepath"
	"testing"

	"weft/internal/goldens"
	"weft/runtime/model"
	"weft/runtime/weights"
)

// A model that was trained at rate 0 equals the base, also if its file has Gemma's norms with their 1, as GGUF files
// do.
func TestFullModelIsWrittenAsItsFamilyIs(t *testing.T) {
	for _, name := range []string{"tiny-llama", "tiny-gemma3"} {
		for _, inFile := range []bool{false, true} {
			j := smallJob(t, newDevice(t), t.TempDir())
			f := load(t, j.Device, name)
			cfg := *f.Config
			cfg.NormPlusOne = cfg.NormPlusOne && !inFile
			f.Config = &cfg
			source := goldens.Path(t, "train", "models", name)
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
