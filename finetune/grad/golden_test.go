package grad

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/runtime/device"
	"weft/runtime/lora"
	"weft/runtime/model"
	"weft/runtime/weights"
)

func openModel(t *testing.T, dev device.Device, path string) *model.Frozen {
	t.Helper()
	m, err := model.Open(path, dev, model.Options{MaxBatchTokens: 16, MaxLogitRows: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m.Frozen()
}

func modelPath(t *testing.T, name string) string {
	if name == "stories260K" {
		return goldens.Shared(t, "data", "weights", "stories260K", "hf")
	}
	return goldens.Path(t, "train", "models", name)
}

func openTensors(t *testing.T, path string) *weights.Safetensors {
	t.Helper()
	s, err := weights.OpenSafetensors(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func readBatch(t *testing.T, s *weights.Safetensors) *Batch {
	t.Helper()
	b := &Batch{}
	for name, to := range map[string]*[]int32{"ids": &b.IDs, "labels": &b.Labels, "seq_offsets": &b.Indptr} {
		v, _, err := s.Ints(name)
		if err != nil {
			t.Fatal(err)
		}
		*to = v
	}
	return b
}

type summary struct {
	Model   string
	Loss    float64
	Targets int
	F32     struct {
		L2 float64 `json:"l2_rel"`
	} `json:"f32_vs_f64"` // the same library in float32
}

func readSummary(t *testing.T, path string) map[string]summary {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]summary
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// check compares loss and every gradient with the golden.
func check(t *testing.T, m *Model, s *weights.Safetensors, want summary, l2 float64) {
	t.Helper()
	b := readBatch(t, s)
	if n := b.Targets(); n != want.Targets {
		t.Fatalf("%d trained tokens, want %d", n, want.Targets)
	}
	m.ZeroGrad()
	sum, err := m.Step(b, 1/float32(want.Targets), 1)
	if err != nil {
		t.Fatal(err)
	}
	if got := sum / float64(want.Targets); math.Abs(got-want.Loss) > 1e-5*max(1, want.Loss/4) {
		t.Errorf("loss %.8f, want %.8f", got, want.Loss)
	}
	plain, err := m.Loss(b)
	if err != nil || math.Abs(plain-sum) > 1e-6*sum {
		t.Errorf("loss without gradients %v, with %v: %v", plain, sum, err)
	}
	params := map[string]*Param{}
	for _, p := range m.Params() {
		params[p.Name] = p
	}
	for _, name := range s.Names() {
		key, ok := strings.CutPrefix(name, "grad.")
		if !ok {
			continue
		}
		p := params[key]
		if p == nil {
			t.Errorf("%s is not trained", key)
			continue
		}
		delete(params, key)
		wantGrad, _, err := s.Floats(name)
		if err != nil {
			t.Fatal(err)
		}
		if d := distance(p.Grads(), wantGrad); !(d <= l2) {
			t.Errorf("%s: the gradient differs by %.2e (relative l2), at most %.0e", key, d, l2)
		}
	}
	for name := range params {
		t.Errorf("%s is trained and the golden has no gradient of it", name)
	}
}

func distance(got, want []float32) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	var d, n float64
	for i := range want {
		d += (float64(got[i]) - float64(want[i])) * (float64(got[i]) - float64(want[i]))
		n += float64(want[i]) * float64(want[i])
	}
	return math.Sqrt(d / max(n, 1e-30))
}

func TestFullGradients(t *testing.T) { goldens.Each(t, testFullGradients) }

func testFullGradients(t *testing.T) {
	root := goldens.Path(t, "train")
	sums := readSummary(t, filepath.Join(root, "A_grad", "summary.json"))
	files, _ := filepath.Glob(filepath.Join(root, "A_grad", "full", "*.safetensors"))
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".safetensors")
		if strings.HasSuffix(name, ".logits") {
			continue
		}
		forDevices(t, name, func(t *testing.T, dev device.Device) {
			f := openModel(t, dev, modelPath(t, name))
			for _, checkpoint := range []bool{false, true} {
				m := newModel(t, dev, f, checkpoint)
				if err := m.AttachAll(); err != nil {
					t.Fatal(err)
				}
				ready(t, m)
				check(t, m, openTensors(t, path), sums["full/"+name], 2e-5)
				m.Close()
			}
		})
	}
}

func newModel(t *testing.T, dev device.Device, f *model.Frozen, checkpoint bool) *Model {
	t.Helper()
	m, err := New(dev, f, Config{MaxTokens: 128, MaxSample: 64, Checkpoint: checkpoint})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func ready(t *testing.T, m *Model) {
	t.Helper()
	if err := m.Prepare(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		for _, p := range m.Params() {
			p.Free()
		}
	})
}

// attachGolden puts an adapter file's LoRA matrices on a model.
func attachGolden(t *testing.T, dev device.Device, m *Model, dir string) {
	t.Helper()
	var c struct {
		R            int                `json:"r"`
		Alpha        float64            `json:"lora_alpha"`
		RankPattern  map[string]int     `json:"rank_pattern"`
		AlphaPattern map[string]float64 `json:"alpha_pattern"`
		RsLoRA       bool               `json:"use_rslora"`
		Bias         string             `json:"bias"`
	}
	text, err := os.ReadFile(filepath.Join(dir, "adapter_config.json"))
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := openTensors(t, filepath.Join(dir, "adapter_model.safetensors"))
	param := func(name string) *Param {
		v, shape, err := s.Floats(name)
		if err != nil {
			return nil
		}
		p, err := NewParam(dev, name, shape[0], len(v)/shape[0])
		if err != nil {
			t.Fatal(err)
		}
		copy(p.Values(), v)
		return p
	}
	for l := range m.blocks {
		for target, proj := range Projections {
			path := "model.layers." + itoa(l) + "." + proj
			key := "base_model.model." + path
			A := param(key + ".lora_A.weight")
			if A == nil {
				continue
			}
			alpha := c.Alpha
			for k, v := range c.AlphaPattern {
				if regexp.MustCompile(`^(.*\.)?(` + k + `)$`).MatchString(path) {
					alpha = v
				}
			}
			scale := alpha / float64(A.Rows)
			if c.RsLoRA {
				scale = alpha / math.Sqrt(float64(A.Rows))
			}
			a := &LoRA{A: A, B: param(key + ".lora_B.weight"), Scale: float32(scale),
				Magnitude: param(key + ".lora_magnitude_vector")}
			m.AttachLoRA(l, []lora.Target{lora.Target(target)}, a)
			if bias := param(key + ".base_layer.bias"); bias != nil {
				p, err := m.AttachBias(l, lora.Target(target), bias.Name)
				if err != nil {
					t.Fatal(err)
				}
				copy(p.Values(), bias.Values())
				bias.Free()
			}
		}
	}
}

func TestAdapterGradients(t *testing.T) { goldens.Each(t, testAdapterGradients) }

func testAdapterGradients(t *testing.T) {
	root := goldens.Path(t, "train")
	sums := readSummary(t, filepath.Join(root, "A_grad", "summary.json"))
	dirs, _ := filepath.Glob(filepath.Join(root, "A_grad", "lora", "*"))
	for _, dir := range dirs {
		name := filepath.Base(dir)
		want := sums["lora/"+name]
		forDevices(t, name, func(t *testing.T, dev device.Device) {
			f := openModel(t, dev, modelPath(t, want.Model))
			tolerance := 3e-5
			if want.Model == "stories260K" {
				tolerance = 1e-4
			}
			tolerance = max(tolerance, 8*want.F32.L2)
			for _, checkpoint := range []bool{false, true} {
				m := newModel(t, dev, f, checkpoint)
				attachGolden(t, dev, m, dir)
				ready(t, m)
				check(t, m, openTensors(t, filepath.Join(dir, "grads.safetensors")), want, tolerance)
				m.Close()
			}
		})
	}
}
