package train

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/finetune/grad"
	"weft/finetune/optim"
	"weft/internal/goldens"
	"weft/runtime/model"
	"weft/runtime/weights"
)

func halfPrecision(c *Config) { c.FP16 = true }
func bfloat(c *Config)        { c.BF16 = true }
func full(c *Config)          { c.Method, c.Dropout = "full", 0 }
func float32Output(c *Config) { c.SaveDType = "float32" }

// The curves of half precision stay within what bf16 autocast may differ by from float64, and are not those of float32
// where weights are rounded on any machine.
func TestHalfPrecisionCurves(t *testing.T) { goldens.Each(t, testHalfPrecisionCurves) }

func testHalfPrecisionCurves(t *testing.T) {
	root := goldens.Path(t, "train", "B_curves")
	dirs, _ := filepath.Glob(filepath.Join(root, "*", "curve_cosine.json"))
	if len(dirs) == 0 {
		t.Fatal("no curve")
	}
	const steps = 12 // the pure Go device is slow
	for _, file := range dirs {
		dir := filepath.Dir(file)
		kind, base, _ := strings.Cut(filepath.Base(dir), "_")
		var c curve
		readJSON(t, file, &c)
		for name, change := range map[string]func(c *Config){"fp16": halfPrecision, "bf16": bfloat} {
			t.Run(filepath.Base(dir)+"/"+name, func(t *testing.T) {
				j, batches := goldenJob(t, dir, c)
				var first map[string][]float32
				if kind == "full" {
					j.Config.Method = "full"
				} else {
					first = useGoldenAdapter(t, j, filepath.Join(dir, "init"))
				}
				change(&j.Config)
				j.Device = newDevice(t)
				j.Model = load(t, j.Device, base)
				ctx, cancel := context.WithCancel(t.Context())
				worst := 0.0
				j.OnStep = func(s StepInfo) {
					worst = max(worst, math.Abs(s.Loss-c.F64[s.Step-1].Loss))
					if s.Skipped {
						t.Errorf("step %d was skipped at loss scale %v", s.Step, s.LossScale)
					}
					if s.Step == steps {
						cancel()
					}
				}
				if _, err := goldenRun(t, j, batches, first).run(ctx); !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
				if !(worst <= 0.03) {
					t.Errorf("the curve differs by up to %.1e, at most 0.03", worst)
				}
				if round, _ := j.Config.masters(); round != nil && worst < 1e-5 {
					t.Errorf("the curve differs by %.1e: nothing was rounded", worst)
				}
			})
		}
	}
}

// A bfloat16 model is trained on float32 masters: they keep what a step is too small to show in bfloat16, and what is
// written is what the model computed with.
func TestMasters(t *testing.T) {
	for _, name := range []string{"tiny-llama", "tiny-gemma3"} {
		dev := newDevice(t)
		j := smallJob(t, dev, t.TempDir())
		j.Model = load(t, dev, name)
		source := goldens.Path(t, "train", "models", name)
		j.BaseDir, j.Beside = source, []string{"config.json"}
		all(full, bfloat)(&j.Config)
		// far below a unit in the last place of bfloat16
		j.Config.LearningRate, j.Config.Scheduler = 1e-6, "constant_with_warmup"
		res, err := j.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		f := filepath.Join(res.AdapterPath, "model.safetensors")
		src, err := weights.OpenSafetensors(f)
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		begin, err := weights.Open(source)
		if err != nil {
			t.Fatal(err)
		}
		defer begin.Close()
		for _, tensor := range src.Names() {
			if info, _ := src.Info(tensor); info.Format != "BF16" {
				t.Fatalf("%s is %s", tensor, info.Format)
			}
		}
		newest, err := newestCheckpoint(j.Dir)
		if err != nil {
			t.Fatal(err)
		}
		moved, hidden := 0, 0
		for tensor, v := range values(t, filepath.Join(newest, parametersFile)) {
			info, _ := begin.Info(tensor)
			if len(info.Shape) != 2 {
				continue
			}
			m, err := begin.Matrix(tensor)
			if err != nil {
				t.Fatal(err)
			}
			first := make([]float32, m.Rows*m.Cols)
			for i := range m.Rows {
				m.Row(i, first[i*m.Cols:][:m.Cols])
			}
			rounded, then := slices.Clone(v), slices.Clone(first)
			grad.ToBF16(rounded)
			grad.ToBF16(then)
			for i := range v {
				if v[i] != first[i] && v[i] != rounded[i] {
					moved++
					if rounded[i] == then[i] {
						hidden++
					}
				}
			}
		}
		if moved == 0 || hidden < moved/2 {
			t.Errorf("%s: %d masters moved, %d of them by less than bfloat16 shows", name, moved, hidden)
		}
		// the written model, loaded as any other, has the loss that training ended with
		again, err := model.Open(res.AdapterPath, dev, model.Options{MaxBatchTokens: 1, MaxLogitRows: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		k := smallJob(t, dev, t.TempDir())
		k.Model, k.Log = again.Frozen(), discard
		all(full, bfloat)(&k.Config)
		r := newRun(k)
		defer r.close()
		if err := r.attach(); err != nil {
			t.Fatal(err)
		}
		if err := r.prepare(); err != nil {
			t.Fatal(err)
		}
		sum, trained := 0.0, 0
		for which := range r.evalBatches() {
			b := join(r.Eval, which)
			loss, err := r.grad.Loss(b)
			if err != nil {
				t.Fatal(err)
			}
			sum += loss
			trained += b.Targets()
		}
		if got, want := sum/float64(trained), res.Evals[slices.IndexFunc(res.Evals,
			func(e EvalInfo) bool { return e.Step == res.BestStep })].Loss; math.Abs(got-want) > 1e-6 {
			t.Errorf("%s: the written model has loss %v, trained was %v", name, got, want)
		}
		text, err := os.ReadFile(filepath.Join(res.AdapterPath, "config.json"))
		if err != nil || !strings.Contains(string(text), `"bfloat16"`) || strings.Contains(string(text), `"float32"`) {
			t.Errorf("%s: config.json has %s: %v", name, text, err)
		}
	}
}

func TestSaveDType(t *testing.T) {
	j := smallJob(t, newDevice(t), t.TempDir())
	all(full, bfloat, float32Output)(&j.Config)
	res, err := j.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rounded := 0
	for _, v := range values(t, filepath.Join(res.AdapterPath, "model.safetensors")) {
		for _, x := range v {
			if y := []float32{x}; y[0] == x {
				if grad.ToBF16(y); y[0] == x {
					rounded++
				}
			}
		}
	}
	if int64(rounded) > res.All/2 {
		t.Errorf("%d of %d values of a float32 output are bfloat16 values", rounded, res.All)
	}
}

// The loss scale follows its rule from a start value that is too large, skipped steps change nothing, and the run
// learns.
func TestLossScaling(t *testing.T) {
	for name, change := range map[string]func(c *Config){"lora": func(*Config) {}, "full": full} {
		t.Run(name, func(t *testing.T) {
			j := smallJob(t, newDevice(t), t.TempDir())
			all(change, halfPrecision)(&j.Config)
			j.Config.Epochs, j.Config.SaveSteps, j.Config.WarmupSteps = 4, 0, 0
			r := newRun(j)
			r.at.Scaler = &optim.Scaler{Scale: 1 << 24, Window: 3}
			res, err := r.run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			scale, clean, skipped := float64(1<<24), 0, 0
			for i, s := range res.Steps {
				if s.LossScale != scale {
					t.Fatalf("step %d: loss scale %v, want %v", s.Step, s.LossScale, scale)
				}
				if s.Skipped {
					scale, clean = scale/2, 0
					skipped++
				} else if clean++; clean == 3 {
					scale, clean = min(scale*2, 1<<24), 0
				}
				if i > 0 && res.Steps[i-1].Skipped && s.LR != res.Steps[i-1].LR {
					t.Errorf("step %d: the schedule went on from %v to %v over a skipped step", s.Step,
						res.Steps[i-1].LR, s.LR)
				}
			}
			if first := res.Steps[0]; !first.Skipped || skipped == 0 || skipped > len(res.Steps)/2 {
				t.Errorf("%d of %d steps were skipped, the first: %v", skipped, len(res.Steps), first.Skipped)
			}
			if first, last := res.Evals[0].Loss, res.Evals[len(res.Evals)-1].Loss; !(last < first) {
				t.Errorf("the held-out loss went from %v to %v", first, last)
			}
		})
	}
}

// A scale of 1 that still overflows ends the run, with what to do.
func TestOverflowEnds(t *testing.T) {
	j := smallJob(t, newDevice(t), t.TempDir())
	j.Config.FP16 = true
	r := newRun(j)
	r.at.Scaler, r.Log = &optim.Scaler{Scale: 1, Window: 3}, discard
	if err := r.scaled(&StepInfo{Step: 3, Loss: 2, GradNorm: math.Inf(1)}); err == nil ||
		!strings.Contains(err.Error(), "bf16") {
		t.Errorf("%v", err)
	}
	if err := r.scaled(&StepInfo{Step: 3, Loss: 2, GradNorm: 1}); err != nil {
		t.Error(err)
	}
}

// A checkpoint that lost the state of loss scaling is refused.
func TestScalerIsMissed(t *testing.T) {
	dev, dir := newDevice(t), t.TempDir()
	j := smallJob(t, dev, dir)
	j.Config.FP16 = true
	if _, err := j.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	newest, err := newestCheckpoint(dir)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(newest, progressFile)
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), `"scaler":{`) {
		t.Fatalf("%s: %v", text, err)
	}
	for _, other := range []string{`"nothing":{`, `"scaler":{"Scale":0,"Window":5},"nothing":{`} {
		if err := os.WriteFile(file, []byte(strings.Replace(string(text), `"scaler":{`, other, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		again := smallJob(t, dev, dir)
		again.Config.FP16, again.Config.Resume = true, true
		if _, err := again.Run(t.Context()); !errors.Is(err, ErrCheckpoint) ||
			!strings.Contains(err.Error(), "scaled") {
			t.Errorf("%s: %v", other, err)
		}
	}
}
