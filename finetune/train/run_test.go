package train

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"weft/finetune/data"
	"weft/finetune/grad"
	"weft/finetune/optim"
	"weft/internal/rng"
	"weft/runtime/device"
)

var discard = slog.New(slog.DiscardHandler)

// settings are the defaults.
func settings(t *testing.T) Config {
	t.Helper()
	c := Default()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return c
}

// samples are made-up samples of the first tokens of a vocabulary.
func samples(n int) []data.Sample {
	random := rng.New(5)
	out := make([]data.Sample, n)
	for i := range out {
		for range 6 + below(random, 20) {
			id := int32(3 + below(random, 200))
			out[i].IDs = append(out[i].IDs, id)
			out[i].Labels = append(out[i].Labels, id)
		}
		for k := range 3 {
			out[i].Labels[k] = -100
		}
	}
	return out
}

func smallJob(t *testing.T, dev device.Device, dir string) *Job {
	t.Helper()
	j := &Job{Dir: dir, Config: settings(t), Device: dev, Model: load(t, dev, "tiny-llama"), Train: samples(23),
		Eval: samples(5), Base: "base", Data: "data"}
	c := &j.Config
	c.Rank, c.BatchSize, c.Accumulation, c.Epochs, c.LearningRate, c.WarmupSteps = 4, 3, 2, 2, 1e-2, 2
	c.Dropout, c.EvalSteps, c.SaveSteps, c.SaveLimit, c.EvalData = 0.1, 3, 2, 2, "held-out"
	return j
}

// digestOf is that of what a run left.
func digestOf(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "adapter", "adapter_model.safetensors"))
	if errors.Is(err, fs.ErrNotExist) {
		text, err = os.ReadFile(filepath.Join(dir, "model", "model.safetensors"))
	}
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.Sum256(text)
	return hex.EncodeToString(h[:])
}

// kinds of runs that are killed, continued and repeated.
var kinds = map[string]func(c *Config){
	"lora":          func(*Config) {},
	"whole modules": all(targets("q_proj", "embed_tokens"), save("lm_head"), biasAll),
	"head, fp16":    all(targets("v_proj", "lm_head"), dora, halfPrecision),
	"full, bf16":    all(full, bfloat),
	"full, fp16":    all(full, halfPrecision),
}

func runOfKind(t *testing.T, dev device.Device, dir, kind string) *run {
	t.Helper()
	j := smallJob(t, dev, dir)
	kinds[kind](&j.Config)
	r := newRun(j)
	if j.Config.FP16 { // so that scales change and steps are skipped in the few steps there are
		r.at.Scaler = &optim.Scaler{Scale: 1 << 24, Window: 2}
	}
	return r
}

// startFrom gives the run's parameters other initial values than training does.
func (r *run) startFrom(t *testing.T, first func(p *grad.Param)) {
	t.Helper()
	if err := r.attach(); err != nil {
		t.Fatal(err)
	}
	for _, p := range r.grad.Params() {
		first(p)
	}
}

// The run of a child process that is killed after some step, and resumes in another one, ends with the same bits as an
// undisturbed run.
func TestKilledRunGoesOn(t *testing.T) {
	if dir := os.Getenv("TRAIN_TEST_DIR"); dir != "" {
		killAt, _ := strconv.Atoi(os.Getenv("TRAIN_TEST_KILL"))
		r := runOfKind(t, newDevice(t), dir, os.Getenv("TRAIN_TEST_KIND"))
		r.Config.Resume = true
		r.OnStep = func(s StepInfo) {
			if s.Step == killAt {
				p, _ := os.FindProcess(os.Getpid())
				_ = p.Kill()
				select {}
			}
		}
		if _, err := r.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		return
	}
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			want := t.TempDir()
			res, err := runOfKind(t, newDevice(t), want, kind).run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(res.Steps) != 8 {
				t.Fatalf("%d steps, want 8", len(res.Steps))
			}
			got, kills := t.TempDir(), []int{3, 6, 0}
			if kind == "lora" {
				kills = []int{1, 2, 3, 5, 8, 0}
			}
			begun := filepath.Join(got, ".checkpoint-123")
			for i, kill := range kills {
				if i == 1 {
					if err := os.Mkdir(begun, 0o700); err != nil {
						t.Fatal(err)
					}
				}
				cmd := exec.Command(os.Args[0], "-test.run=^TestKilledRunGoesOn$")
				cmd.Env = append(os.Environ(), "TRAIN_TEST_DIR="+got, "TRAIN_TEST_KIND="+kind,
					"TRAIN_TEST_KILL="+strconv.Itoa(kill))
				out, err := cmd.CombinedOutput()
				if (err == nil) != (kill == 0) {
					t.Fatalf("child killed at step %d: %v\n%s", kill, err, out)
				}
			}
			if digestOf(t, got) != digestOf(t, want) {
				t.Error("the killed run ended with other weights")
			}
			if _, err := os.Stat(begun); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("what a killed run had begun is left: %v", err)
			}
			left, err := checkpoints(got)
			if err != nil || len(left) > 2 {
				t.Errorf("checkpoints %v are left: %v", left, err)
			}
		})
	}
}

func TestThreadsAndRepetition(t *testing.T) {
	for kind := range kinds {
		digests := map[string]bool{}
		for _, threads := range []int{1, 2, 2, 3} {
			dir := t.TempDir()
			if _, err := runOfKind(t, deviceOf(t, threads), dir, kind).run(t.Context()); err != nil {
				t.Fatal(err)
			}
			digests[digestOf(t, dir)] = true
		}
		if len(digests) != 1 {
			t.Errorf("%s: %d different results of one run", kind, len(digests))
		}
	}
}

func TestRefusals(t *testing.T) {
	dev := newDevice(t)
	for name, c := range map[string]struct {
		change func(j *Job)
		want   error
		text   string
	}{
		"rank 0": {func(j *Job) { j.Config.Rank = 0 }, ErrConfig, "r 0"},
		"no target module": {func(j *Job) { j.Config.TargetModules = []string{"nothing"} }, ErrConfig,
			"matches no layer"},
		"no sample":        {func(j *Job) { j.Train = nil }, ErrConfig, "no sample"},
		"absurd rate":      {func(j *Job) { j.Config.LearningRate = 1e6 }, ErrConfig, "learning_rate"},
		"unknown schedule": {func(j *Job) { j.Config.Scheduler = "x" }, ErrConfig, "lr_scheduler_type"},
		"block beyond": {func(j *Job) { j.Config.LayersToTransform = []int{99} }, ErrConfig,
			"block 99"},
		"dora on embeddings": {func(j *Job) { all(dora, targets("embed_tokens"))(&j.Config) }, ErrConfig,
			"DoRA on the embedding"},
		"saved projection": {func(j *Job) { j.Config.ModulesToSave = []string{"q_proj"} }, ErrConfig,
			"lm_head, embed_tokens"},
		"saved and adapted": {func(j *Job) { all(targets("lm_head"), save("lm_head"))(&j.Config) },
			ErrConfig, "that modules_to_save and exclude_modules leave"},
		"excluded nothing": {func(j *Job) { j.Config.ExcludeModules = []string{"up_proj", "no_proj"} }, ErrConfig, `exclude_modules: "no_proj"`},
		"excluded by a bad expression": {func(j *Job) { j.Config.ExcludeModules = []string{"(up_proj"} }, ErrConfig,
			"(up_proj"},
		"two precisions": {func(j *Job) { all(bfloat, halfPrecision)(&j.Config) }, ErrConfig,
			"bf16 and fp16"},
		"adapter in bf16": {func(j *Job) { j.Config.SaveDType = "bfloat16" }, ErrConfig, "save_dtype"},
		"fused name": {func(j *Job) { j.Config.TargetModules = []string{"qkv_proj"} }, ErrConfig,
			"the model has embed_tokens, q_proj"},
		"pattern": {func(j *Job) { j.Config.RankPattern = map[string]string{"q_proj": "1.5"} },
			ErrConfig, "rank_pattern"},
		"idle rank pattern": {func(j *Job) { j.Config.RankPattern = map[string]string{"layers.7.self_attn.q_proj": "2"} }, ErrConfig, `"layers.7.self_attn.q_proj" matches no adapted layer`},
		"idle alpha pattern": {func(j *Job) {
			j.Config.AlphaPattern, j.Config.TargetModules = map[string]string{"up_proj": "2"}, []string{"q_proj"}
		}, ErrConfig, `"up_proj" matches no adapted layer`},
		"folder is a file": {func(j *Job) {
			j.Dir = filepath.Join(j.Dir, "file")
			if err := os.WriteFile(j.Dir, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, ErrConfig, "is a file"},
	} {
		t.Run(name, func(t *testing.T) {
			j := smallJob(t, dev, t.TempDir())
			c.change(j)
			_, err := j.Run(t.Context())
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v, want %v with %q", err, c.want, c.text)
			}
		})
	}
}

func TestDivergedRunEnds(t *testing.T) {
	r := newRun(smallJob(t, newDevice(t), t.TempDir()))
	r.startFrom(t, func(p *grad.Param) { p.Values()[0] = float32(math.NaN()) })
	if _, err := r.run(t.Context()); !errors.Is(err, ErrDiverged) ||
		!strings.Contains(err.Error(), "last good checkpoint") {
		t.Errorf("%v, want %v", err, ErrDiverged)
	}
}

func TestOtherRunsAreKeptOut(t *testing.T) {
	dev, dir := newDevice(t), t.TempDir()
	j := smallJob(t, dev, dir)
	j.OnStep = func(s StepInfo) {
		if s.Step == 1 {
			if _, err := smallJob(t, dev, dir).Run(t.Context()); !errors.Is(err, ErrBusy) {
				t.Errorf("a second run in the folder: %v", err)
			}
		}
	}
	if _, err := j.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	whole := digestOf(t, dir)
	other := smallJob(t, dev, dir)
	other.Config.Resume, other.Base = true, "another"
	if _, err := other.Run(t.Context()); !errors.Is(err, ErrCheckpoint) ||
		!strings.Contains(err.Error(), "base model") {
		t.Errorf("another base: %v", err)
	}
	elsewhere := smallJob(t, dev, dir)
	elsewhere.Config.Resume, elsewhere.Data = true, "another"
	if _, err := elsewhere.Run(t.Context()); !errors.Is(err, ErrCheckpoint) ||
		!strings.Contains(err.Error(), "with other data (data, now another);") {
		t.Errorf("other data: %v", err)
	}
	changed := smallJob(t, dev, dir)
	changed.Config.Resume, changed.Config.Rank, changed.Config.SaveSteps = true, 3, 1
	if _, err := changed.Run(t.Context()); !errors.Is(err, ErrCheckpoint) ||
		!strings.Contains(err.Error(), "other settings (r was 4, now 3);") {
		t.Errorf("other settings: %v", err)
	}
	again := smallJob(t, dev, dir)
	if _, err := again.Run(t.Context()); !errors.Is(err, ErrConfig) {
		t.Errorf("a run over the checkpoints of another: %v", err)
	}
	newest, err := newestCheckpoint(dir)
	if err != nil {
		t.Fatal(err)
	}
	torn := smallJob(t, dev, dir)
	torn.Config.Resume = true
	for _, name := range []string{parametersFile, optimizerFile} {
		path := filepath.Join(newest, name)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text[len(text)-9] ^= 4
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := torn.Run(t.Context()); !errors.Is(err, ErrCheckpoint) ||
			!strings.Contains(err.Error(), "not those that were written") {
			t.Errorf("a flipped bit in %s: %v", name, err)
		}
		text[len(text)-9] ^= 4
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(filepath.Join(newest, parametersFile), 100); err != nil {
		t.Fatal(err)
	}
	if _, err := torn.Run(t.Context()); !errors.Is(err, ErrCheckpoint) ||
		!strings.Contains(err.Error(), "remove "+newest+" to resume from checkpoint-6") {
		t.Errorf("a truncated checkpoint: %v", err)
	}
	if err := os.RemoveAll(newest); err != nil {
		t.Fatal(err)
	}
	if _, err := torn.Run(t.Context()); err != nil {
		t.Errorf("from the older checkpoint: %v", err)
	}
	if got := digestOf(t, dir); got != whole {
		t.Error("from the older checkpoint the run ends with other weights")
	}
}

// TestPatience: a loss that never improves after the first evaluation ends the run after exactly as many more as the
// patience; without patience it continues.
func TestPatience(t *testing.T) {
	dev := newDevice(t)
	for patience, want := range map[int]int{0: 6, 1: 2, 2: 3, 4: 5} {
		j := smallJob(t, dev, t.TempDir())
		c := &j.Config
		c.LearningRate, c.Dropout, c.WarmupSteps, c.MaxSteps, c.EvalSteps, c.SaveSteps, c.Patience = 0, 0, 0, 6, 1, 0,
			patience
		res, err := j.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Evals) != want || len(res.Steps) != want || (res.Stopped != "") != (patience > 0) ||
			res.BestStep != 1 {
			t.Errorf("patience %d: %d evaluations in %d steps, want %d; best step %d, stopped %q", patience,
				len(res.Evals), len(res.Steps), want, res.BestStep, res.Stopped)
		}
	}
}

func TestEndOfContextSaves(t *testing.T) {
	dev, dir := newDevice(t), t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	j := smallJob(t, dev, dir)
	j.OnStep = func(s StepInfo) {
		if s.Step == 3 {
			cancel()
		}
	}
	if _, err := j.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if p, err := newestCheckpoint(dir); err != nil || filepath.Base(p) != "checkpoint-3" {
		t.Errorf("newest checkpoint %s: %v", p, err)
	}
}

func below(r *rng.Source, n int) int { return int(r.Uint64() % uint64(n)) }
