package train

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/adapters/peft"
	"weft/finetune/optim"
	"weft/runtime/model"
	"weft/runtime/weights"
)

// scratchFolder is scratchModel as a folder.
func scratchFolder(t *testing.T) (string, *model.Config) {
	t.Helper()
	src, cfg := scratchSource(t)
	tensors := map[string]weights.Tensor{}
	for _, name := range src.Names() {
		info, _ := src.Info(name)
		tensor := weights.Tensor{DType: "F32", Shape: info.Shape}
		if len(info.Shape) == 1 {
			v, err := src.Vector(name)
			if err != nil {
				t.Fatal(err)
			}
			tensor.Data = bytesOf(v)
		} else {
			m, err := src.Matrix(name)
			if err != nil {
				t.Fatal(err)
			}
			tensor.Data = m.Data
		}
		tensors[name] = tensor
	}
	dir := t.TempDir()
	put(t, filepath.Join(dir, "config.json"), scratchConfig)
	if err := weights.WriteSafetensors(filepath.Join(dir, "model.safetensors"), tensors, nil); err != nil {
		t.Fatal(err)
	}
	return dir, cfg
}

// warmJob is a run from an adapter, with the shape that it gives.
func warmJob(t *testing.T, dir, model, adapter string, change func(c *Config)) (*Job, error) {
	t.Helper()
	j := scratchJob(t, dir)
	j.Config.InitAdapter = adapter
	j.Config.Rank = Default().Rank
	if change != nil {
		change(&j.Config)
	}
	in := &Input{Config: j.Config, Files: Files{Model: model}}
	cfg := j.Model.Config
	err := in.startFrom(cfg)
	j.Config, j.start = in.Config, in.start
	return j, err
}

func idleRate(c *Config) { c.LearningRate, c.MaxSteps, c.WarmupSteps = 0, 1, 0 }

// A run starts from every kind of adapter with its values, rank, alpha and modules: at learning rate 0 it writes the
// same files.
func TestInitAdapter(t *testing.T) {
	base, _ := scratchFolder(t)
	for name, shape := range map[string]func(c *Config){
		"plain": func(*Config) {},
		"names": func(c *Config) { c.TargetModules, c.Rank, c.Alpha = []string{"q_proj", "down_proj"}, 3, 5 },
		"patterns": func(c *Config) {
			c.RankPattern, c.AlphaPattern = map[string]string{"q_proj": "2"},
				map[string]string{"layers.1.self_attn.v_proj": "7"}
		},
		"one layer, rank-stabilized": func(c *Config) {
			c.LayersToTransform, c.RsLoRA = []int{1}, true
		},
		"dora":               func(c *Config) { c.DoRA = true },
		"embedding, head":    func(c *Config) { c.TargetModules = []string{"embed_tokens", "lm_head", "v_proj"} },
		"whole head":         func(c *Config) { c.ModulesToSave = []string{"lm_head"} },
		"expression, no mlp": func(c *Config) { c.TargetModules = []string{`.*self_attn\.(q|o)_proj`} },
	} {
		t.Run(name, func(t *testing.T) {
			first := scratchJob(t, t.TempDir())
			first.Config.MaxSteps = 3
			shape(&first.Config)
			completed(t, first)
			adapter := filepath.Join(first.Dir, "adapter")
			j, err := warmJob(t, t.TempDir(), base, adapter, idleRate)
			if err != nil {
				t.Fatal(err)
			}
			completed(t, j)
			for _, file := range []string{"adapter_model.safetensors", "parity.json"} {
				want, err := os.ReadFile(filepath.Join(adapter, file))
				if err != nil {
					t.Fatal(err)
				}
				if got, err := os.ReadFile(filepath.Join(j.Dir, "adapter", file)); err != nil ||
					!slices.Equal(got, want) {
					t.Errorf("%s differs from the adapter's: %v", file, err)
				}
			}
		})
	}
}

// A run from an adapter learns from where that ended, with a new optimizer, resumes to the same bits wherever the
// adapter lies, and not from another one.
func TestInitAdapterResumes(t *testing.T) {
	base, _ := scratchFolder(t)
	first := scratchJob(t, t.TempDir())
	res := completed(t, first)
	adapter := filepath.Join(first.Dir, "adapter")
	whole, err := warmJob(t, t.TempDir(), base, adapter, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := completed(t, whole); !(got.Steps[0].Loss < res.Steps[0].Loss) {
		t.Errorf("the first loss is %v, without the adapter %v", got.Steps[0].Loss, res.Steps[0].Loss)
	}
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.CopyFS(moved, os.DirFS(adapter)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, from := range []string{adapter, moved} {
		j, err := warmJob(t, dir, base, from, func(c *Config) { c.Resume = true })
		if err != nil {
			t.Fatal(err)
		}
		if from == adapter {
			j.Config.MaxSteps = 5
		}
		completed(t, j)
	}
	other := scratchJob(t, t.TempDir())
	other.Config.Seed = 7
	completed(t, other)
	j, err := warmJob(t, dir, base, filepath.Join(other.Dir, "adapter"), func(c *Config) { c.Resume = true })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Run(t.Context()); !errors.Is(err, ErrCheckpoint) ||
		!strings.Contains(err.Error(), "init_adapter was") {
		t.Errorf("resumed from another adapter: %v", err)
	}
}

func TestInitAdapterRefuses(t *testing.T) {
	base, cfg := scratchFolder(t)
	first := scratchJob(t, t.TempDir())
	first.Config.MaxSteps = 1
	completed(t, first)
	adapter := filepath.Join(first.Dir, "adapter")
	for name, c := range map[string]struct {
		change func(c *Config)
		text   string
	}{
		"another rank":    {func(c *Config) { c.Rank = 8 }, "leave out r"},
		"other modules":   {func(c *Config) { c.TargetModules = []string{"q_proj"} }, "leave out target_modules"},
		"dora":            {func(c *Config) { c.DoRA = true }, "leave out use_dora"},
		"absent":          {func(c *Config) { c.InitAdapter = "/does/not/exist" }, "no such file"},
		"an empty folder": {func(c *Config) { c.InitAdapter = t.TempDir() }, "adapter_config.json is missing"},
	} {
		if _, err := warmJob(t, t.TempDir(), base, adapter, c.change); !errors.Is(err, ErrConfig) ||
			!strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %q", name, err, c.text)
		}
	}
	if _, err := warmJob(t, t.TempDir(), base, adapter, func(c *Config) { c.Rank, c.Alpha = 4, 32 }); err != nil {
		t.Errorf("the same settings again: %v", err)
	}
	narrow := *cfg
	narrow.Layers = 1
	var a peft.Config
	a.Rank, a.Alpha, a.LoRABias = 4, 8, true
	c := Default()
	if _, err := c.shapeOf(&a, &narrow); err == nil || !strings.Contains(err.Error(), "lora_bias") {
		t.Errorf("lora_bias: %v", err)
	}
	full := Default()
	full.Method, full.InitAdapter = "full", adapter
	if err := full.Validate(); err == nil || !strings.Contains(err.Error(), "init_adapter is of method lora") {
		t.Errorf("method full: %v", err)
	}
	// every tensor is used, and every parameter has one
	j, err := warmJob(t, t.TempDir(), base, adapter, nil)
	if err != nil {
		t.Fatal(err)
	}
	values := maps.Clone(j.start.values)
	j.start.values["model.layers.0.self_attn.q_proj.bias"] = make([]float32, 16)
	if _, err := j.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "would not be trained") {
		t.Errorf("a tensor too many: %v", err)
	}
	delete(values, "model.layers.0.self_attn.q_proj.lora_B.weight")
	j.start.values = values
	if _, err := j.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "0 values of") {
		t.Errorf("a tensor too few: %v", err)
	}
}

// A finished run is extended: the learning rate is that of the schedule of all steps, and with a constant one the
// weights are those of a run that was planned so from the start. Files that have moved change nothing.
func TestExtendedRun(t *testing.T) {
	job := func(dir, schedule string, epochs float64, data string) *Job {
		j := scratchJob(t, dir)
		c := &j.Config
		c.Scheduler, c.WarmupSteps, c.Epochs, c.EvalSteps, c.EvalData, c.Resume = schedule, 0, epochs, 2, data, true
		return j
	}
	dir, whole := t.TempDir(), t.TempDir()
	completed(t, job(dir, "constant", 2, "held-out"))
	completed(t, job(dir, "constant", 4, "./elsewhere/held-out"))
	completed(t, job(whole, "constant", 4, "held-out"))
	if digestOf(t, dir) != digestOf(t, whole) {
		t.Error("an extended run ends with other weights")
	}
	if _, err := job(dir, "constant", 1, "held-out").Run(t.Context()); !errors.Is(err, ErrCheckpoint) ||
		!strings.Contains(err.Error(), "it has 16 steps, more than the 4") {
		t.Errorf("shortened: %v", err)
	}
	linear := t.TempDir()
	completed(t, job(linear, "linear", 1, "held-out"))
	res := completed(t, job(linear, "linear", 3, "held-out"))
	for i, s := range res.Steps {
		total := 4
		if i >= 4 {
			total = 12
		}
		schedule := optim.Schedule{Kind: "linear", Total: total}
		if want := schedule.LR(1e-2, i); s.LR != want {
			t.Errorf("step %d: learning rate %v, want %v", i+1, s.LR, want)
		}
	}
}
