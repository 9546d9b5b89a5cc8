package train

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/finetune/data"
	"weft/finetune/grad"
	"weft/internal/goldens"
	"weft/runtime/device"
	"weft/runtime/model"
	"weft/runtime/weights"
)

type curve struct {
	Schedule     string
	LR           float64
	Warmup       int
	Steps        int
	Accumulation int
	WeightDecay  float64 `json:"weight_decay"`
	Clip         float64
	F64          []struct {
		Loss     float64
		GradNorm float64 `json:"grad_norm"`
		LR       float64
		Targets  int
	} `json:"f64"`
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func ints(t *testing.T, s *weights.Safetensors, name string) []int32 {
	t.Helper()
	v, _, err := s.Ints(name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// goldenJob reads the micro-batches of a curve, the same ones in every epoch.
func goldenJob(t *testing.T, dir string, c curve) (j *Job, batches [][]int) {
	t.Helper()
	s, err := weights.OpenSafetensors(filepath.Join(dir, "microbatches.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ids, labels, seq, mb := ints(t, s, "ids"), ints(t, s, "labels"), ints(t, s, "seq_offsets"), ints(t, s, "mb_offsets")
	j = &Job{Dir: t.TempDir(), Config: settings(t), Log: discard}
	for i := range len(seq) - 1 {
		j.Train = append(j.Train, data.Sample{IDs: ids[seq[i]:seq[i+1]], Labels: labels[seq[i]:seq[i+1]]})
	}
	most := 0
	for i := range len(mb) - 1 {
		var one []int
		for q := mb[i]; q < mb[i+1]; q++ {
			one = append(one, int(q))
		}
		batches = append(batches, one)
		most = max(most, len(one))
	}
	c.settings(&j.Config, most)
	return j, batches
}

// settings are those of the curve, with all parameters decaying.
func (c *curve) settings(cfg *Config, batch int) {
	cfg.BatchSize, cfg.Accumulation, cfg.MaxSteps = batch, c.Accumulation, c.Steps
	cfg.LearningRate, cfg.Scheduler, cfg.WarmupSteps = c.LR, c.Schedule, c.Warmup
	if c.Schedule == "constant" && c.Warmup > 0 {
		cfg.Scheduler = "constant_with_warmup"
	}
	cfg.DecayOn, cfg.WeightDecay, cfg.MaxGradNorm, cfg.SaveSteps = "all", c.WeightDecay, c.Clip, 0
}

// goldenRun is a run over the micro-batches of a curve, from first values by name; nil: the base's own.
func goldenRun(t *testing.T, j *Job, batches [][]int, first map[string][]float32) *run {
	t.Helper()
	r := newRun(j)
	r.order = fixedOrder(batches)
	r.startFrom(t, func(p *grad.Param) {
		if v, ok := first[p.Name]; ok {
			copy(p.Values(), v)
		} else if first != nil {
			t.Errorf("%s has no first values", p.Name)
		}
	})
	return r
}

// values reads a file of tensors by name.
func values(t *testing.T, path string) map[string][]float32 {
	t.Helper()
	s, err := weights.OpenSafetensors(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out := map[string][]float32{}
	for _, n := range s.Names() {
		v, _, err := s.Floats(n)
		if err != nil {
			t.Fatal(err)
		}
		out[n] = v
	}
	return out
}

func compareCurve(t *testing.T, res *Result, c curve, lossTolerance float64) {
	t.Helper()
	if len(res.Steps) != len(c.F64) {
		t.Fatalf("%d steps, want %d", len(res.Steps), len(c.F64))
	}
	for i, got := range res.Steps {
		want := c.F64[i]
		if got.Targets != want.Targets || math.Abs(got.LR-want.LR) > 1e-12 {
			t.Errorf("step %d: %d trained tokens at %v, want %d at %v", i+1, got.Targets, got.LR, want.Targets, want.LR)
		}
		if math.Abs(got.Loss-want.Loss) > lossTolerance || math.Abs(got.GradNorm-want.GradNorm) > 1e-4*want.GradNorm {
			t.Errorf("step %d: loss %.7f norm %.6f, want %.7f and %.6f", i+1, got.Loss, got.GradNorm, want.Loss,
				want.GradNorm)
		}
	}
}

func compareFinal(t *testing.T, got, want map[string][]float32, l2 float64) {
	t.Helper()
	for name, w := range want {
		g := got[name]
		var d, n float64
		for i := range w {
			if i < len(g) {
				d += math.Pow(float64(g[i])-float64(w[i]), 2)
			}
			n += math.Pow(float64(w[i]), 2)
		}
		if r := math.Sqrt(d / max(n, 1e-30)); len(g) != len(w) || r > l2 {
			t.Errorf("%s: %d values, relative l2 distance %.2e, at most %.0e", name, len(g), r, l2)
		}
	}
}

func TestCurves(t *testing.T) { goldens.Each(t, testCurves) }

func testCurves(t *testing.T) {
	root := goldens.Path(t, "train", "B_curves")
	dirs, _ := filepath.Glob(filepath.Join(root, "*", "microbatches.safetensors"))
	for _, path := range dirs {
		dir := filepath.Dir(path)
		name := filepath.Base(dir)
		files, _ := filepath.Glob(filepath.Join(dir, "curve_*.json"))
		for _, file := range files {
			var c curve
			readJSON(t, file, &c)
			t.Run(name+"/"+c.Schedule, func(t *testing.T) {
				dev := newDevice(t)
				j, batches := goldenJob(t, dir, c)
				kind, base, _ := strings.Cut(name, "_")
				lossTolerance, l2 := 1e-5, 1e-3
				var first map[string][]float32
				if kind == "full" {
					j.Config.Method, lossTolerance, l2 = "full", 2e-5, 1e-4
				} else {
					first = useGoldenAdapter(t, j, filepath.Join(dir, "init"))
				}
				j.Device, j.Model = dev, load(t, dev, base)
				res, err := goldenRun(t, j, batches, first).run(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				compareCurve(t, res, c, lossTolerance)
				final := filepath.Join(dir, "final_"+c.Schedule+".safetensors")
				if _, err := os.Stat(final); err == nil {
					out := "adapter/adapter_model.safetensors"
					if kind == "full" {
						out = "model/model.safetensors"
					}
					compareFinal(t, values(t, filepath.Join(j.Dir, out)), values(t, final), l2)
				}
			})
		}
	}
}

// useGoldenAdapter takes settings from a PEFT folder and returns its LoRA matrices by name.
func useGoldenAdapter(t *testing.T, j *Job, dir string) map[string][]float32 {
	t.Helper()
	var c struct {
		R       int      `json:"r"`
		Alpha   float64  `json:"lora_alpha"`
		Targets []string `json:"target_modules"`
	}
	readJSON(t, filepath.Join(dir, "adapter_config.json"), &c)
	j.Config.Rank, j.Config.Alpha, j.Config.TargetModules = c.R, c.Alpha, c.Targets
	return values(t, filepath.Join(dir, "adapter_model.safetensors"))
}

func load(t *testing.T, dev device.Device, name string) *model.Frozen {
	t.Helper()
	path := ""
	if name == "stories260K" {
		path = goldens.Shared(t, "data", "weights", "stories260K", "hf")
	} else {
		path = goldens.Path(t, "train", "models", name)
	}
	m, err := model.Open(path, dev, model.Options{MaxBatchTokens: 16, MaxLogitRows: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m.Frozen()
}
