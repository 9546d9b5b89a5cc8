package train

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"weft/internal/goldens"
	"weft/runtime/model"
	"weft/runtime/weights"
)

// The files of a model that are copied beside trained weights, those of folders in it too.
func TestBesideWeights(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"config.json", "tokenizer.json", "chat_template.jinja", "additional_chat_templates/tool_use.jinja"}
	for _, name := range append(want, "model.safetensors", "README.md", "additional_chat_templates/notes.txt") {
		write(name, "{}")
	}
	if got := besideWeights(dir); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}

	j := smallJob(t, newDevice(t), t.TempDir())
	source := goldens.Path(t, "train", "models", "tiny-llama")
	config, err := os.ReadFile(filepath.Join(source, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	write("config.json", string(config))
	j.Model, j.BaseDir, j.Beside = load(t, j.Device, "tiny-llama"), dir, besideWeights(dir)
	j.Config.Method, j.Config.Dropout, j.Config.MaxSteps = "full", 0, 1
	res, err := j.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range want {
		if _, err := os.Stat(filepath.Join(res.AdapterPath, name)); err != nil {
			t.Error(err)
		}
	}
}

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
			j.Model, j.BaseDir, j.Beside = f, source, []string{"config.json"}
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
