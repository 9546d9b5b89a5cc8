package train

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/runtime/model"
	"weft/runtime/weights"
)

// The tensors of a model from scratch are those of its family's files, by name and shape, with transformers' first
// values; it loads and learns.
func TestScratch(t *testing.T) { goldens.Each(t, testScratch) }

func testScratch(t *testing.T) {
	files, _ := filepath.Glob(filepath.Join(goldens.Path(t, "serve", "models"), "*", "config.json"))
	families := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := model.ParseConfig(text)
		if errors.Is(err, model.ErrUnsupported) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		families[cfg.Architecture] = true
		cfg.Pad = new(int)
		*cfg.Pad = 7
		t.Run(filepath.Base(filepath.Dir(file)), func(t *testing.T) {
			s, err := NewScratch([]byte(`{"initializer_range": 0.125}`), cfg, 3)
			if err != nil {
				t.Fatal(err)
			}
			trained, err := weights.Open(filepath.Dir(file))
			if err != nil {
				t.Fatal(err)
			}
			defer trained.Close()
			if !slices.Equal(s.Names(), trained.Names()) {
				t.Fatalf("tensors %v, the family's files have %v", s.Names(), trained.Names())
			}
			for _, name := range s.Names() {
				have, _ := s.Info(name)
				want, _ := trained.Info(name)
				if !slices.Equal(have.Shape, want.Shape) {
					t.Errorf("%s has shape %v, in the family's files %v", name, have.Shape, want.Shape)
				}
				checkFirst(t, s, cfg, name, have.Shape)
			}
			dev := newDevice(t)
			m, err := model.Load(s, cfg, dev, model.Options{MaxBatchTokens: 1, MaxLogitRows: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			j := smallJob(t, dev, t.TempDir())
			j.Model, j.BaseDir, j.Beside = m.Frozen(), filepath.Dir(file), []string{filepath.Base(file)}
			all(full, bfloat)(&j.Config)
			j.Config.Init = "random"
			res, err := j.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			uniform, last := math.Log(float64(cfg.Vocab)), res.Evals[len(res.Evals)-1].Loss
			if first := res.Steps[0].Loss; math.Abs(first-uniform) > 0.5*uniform || !(last < first) {
				t.Errorf("the loss goes from %v, guessing is %v, to %v", first, uniform, last)
			}
			again, err := model.Open(res.AdapterPath, dev, model.Options{MaxBatchTokens: 1, MaxLogitRows: 1})
			if err != nil {
				t.Fatal(err)
			}
			again.Close()
		})
	}
	if len(families) < 2 {
		t.Errorf("families %v", families)
	}
}

// checkFirst checks a tensor's first values.
func checkFirst(t *testing.T, s *Scratch, cfg *model.Config, name string, shape []int) {
	t.Helper()
	if len(shape) == 1 {
		v, err := s.Vector(name)
		if err != nil {
			t.Fatal(err)
		}
		want := float32(1)
		if cfg.NormPlusOne || strings.HasSuffix(name, ".bias") {
			want = 0
		}
		if len(v) != shape[0] || slices.Min(v) != want || slices.Max(v) != want {
			t.Errorf("%s is %v, want %v", name, v[0], want)
		}
		return
	}
	m, err := s.Matrix(name)
	if err != nil {
		t.Fatal(err)
	}
	n, sum, square := 0, 0.0, 0.0
	row := make([]float32, m.Cols)
	for r := range m.Rows {
		m.Row(r, row)
		padding := r == 7 && name == "model.embed_tokens.weight"
		for _, v := range row {
			if padding && v != 0 {
				t.Fatalf("%s: the row of the padding token is not zero", name)
			}
			if !padding {
				n, sum, square = n+1, sum+float64(v), square+float64(v)*float64(v)
			}
		}
	}
	mean, std := sum/float64(n), math.Sqrt(square/float64(n))
	if math.Abs(mean) > 5*0.125/math.Sqrt(float64(n)) || math.Abs(std/0.125-1) > 5/math.Sqrt(2*float64(n)) {
		t.Errorf("%s: mean %v, deviation %v of %d values, want 0 and 0.125", name, mean, std, n)
	}
}

func TestScratchRefusals(t *testing.T) {
	cfg := &model.Config{Hidden: 2, Vocab: 8}
	for text, want := range map[string]string{
		`{"initializer_range": -1}`: "initializer_range", `{"initializer_range": "x"}`: "config.json", `[`: "config.json",
	} {
		if _, err := NewScratch([]byte(text), cfg, 1); !errors.Is(err, ErrConfig) ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	s, err := NewScratch([]byte(`{}`), cfg, 1)
	if err != nil || s.std != 0.02 || s.pad != -1 {
		t.Errorf("%+v: %v", s, err)
	}
	if _, err := s.Matrix("nothing"); err == nil {
		t.Error("a tensor that does not exist")
	}
	if _, err := s.Vector("lm_head.weight"); err == nil {
		t.Error("a matrix as a vector")
	}
}

// A configuration is untrusted: any content is accepted or refused with an error.
func FuzzScratch(f *testing.F) {
	for _, text := range []string{`{"initializer_range": 0.02}`, `{"initializer_range": 1e300}`, `null`, `{"dtype": "float32", "quantization_config": {}}`, `[`} {
		f.Add([]byte(text))
	}
	cfg := &model.Config{Hidden: 2, Vocab: 8}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := NewScratch(text, cfg, 1)
		if err != nil {
			if !errors.Is(err, ErrConfig) {
				t.Fatal(err)
			}
		} else if m, err := s.Matrix("model.embed_tokens.weight"); err != nil || len(m.Data) != 4*2*8 {
			t.Fatalf("%v: %v", m, err)
		}
		written, err := modelConfig(text, "bfloat16")
		if err != nil {
			return
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(written, &members); err != nil {
			t.Fatalf("%q became %q: %v", text, written, err)
		}
		if _, ok := members["quantization_config"]; ok {
			t.Fatalf("%q became %q", text, written)
		}
	})
}
