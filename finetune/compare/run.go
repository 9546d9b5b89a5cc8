package compare

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"weft/finetune/eval"
	"weft/finetune/eval/metrics"
	"weft/finetune/train"
)

// Result is what a run took and reached, besides its answers.
type Result struct {
	Name         string           `json:"name"`
	Title        string           `json:"title"`
	Method       string           `json:"method,omitempty"` // "": nothing was trained
	LearningRate float64          `json:"learning_rate,omitempty"`
	Steps        int              `json:"steps,omitempty"`
	BestStep     int              `json:"best_step,omitempty"` // whose parameters are kept
	Stopped      string           `json:"stopped,omitempty"`   // why it ended early
	Tokens       int64            `json:"tokens,omitempty"`
	Seconds      float64          `json:"seconds,omitempty"` // in steps, without loading, evaluating and saving
	PeakBytes    int64            `json:"peak_bytes,omitempty"`
	Trainable    int64            `json:"trainable_params,omitempty"`
	FileBytes    int64            `json:"file_bytes,omitempty"` // of the weights that it wrote
	File         string           `json:"file,omitempty"`       // within the output folder
	Curve        []train.StepInfo `json:"curve,omitempty"`
	Evaluations  []train.EvalInfo `json:"evaluations,omitempty"`
}

// Run compares. When ctx ends, the error is ctx's and what is done is kept: the same call continues.
func (c *Config) Run(ctx context.Context) (report *Report, err error) {
	x, unlock, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := x.prepare(); err != nil {
		return nil, err
	}
	if err := x.measure(ctx); err != nil {
		return nil, err
	}
	if err := x.plan.Write(x.Terminal); err != nil {
		return nil, err
	}
	for i := range x.specs {
		if err := x.run(ctx, i); err != nil {
			return nil, fmt.Errorf("run %s: %w", x.specs[i].name, err)
		}
	}
	return x.report()
}

// DryRun says what Run would take, from short measurements in a folder that it removes.
func (c *Config) DryRun(ctx context.Context) (plan *Plan, err error) {
	near := filepath.Dir(filepath.Clean(c.Out))
	if err := os.MkdirAll(near, 0o777); err != nil {
		return nil, err
	}
	own := *c
	if own.Out, err = os.MkdirTemp(near, ".compare-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(own.Out)) }()
	x, unlock, err := own.open(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := x.prepare(); err != nil {
		return nil, err
	}
	err = x.measure(ctx)
	x.plan.Out = c.Out
	return &x.plan, err
}

// run makes the i-th run, unless its result is there.
func (x *comparison) run(ctx context.Context, i int) error {
	s := &x.specs[i]
	result := x.path(runsDir, s.name, resultName)
	if _, err := os.Stat(result); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	left := 0.0
	for _, other := range x.specs[i:] {
		left += x.plan.Seconds[other.name]
	}
	fmt.Fprintf(x.Terminal, "run %d of %d: %s; about %s left\n", i+1, len(x.specs), s.title, roughly(left))
	r := &Result{Name: s.name, Title: s.title, Method: s.method}
	model, adapter := x.base, ""
	if s.method != "" {
		trained, err := x.train(ctx, s)
		if err != nil {
			return err
		}
		if err := x.take(r, s, trained); err != nil {
			return err
		}
		if adapter = filepath.Join(x.Out, filepath.Dir(r.File)); s.method == Full {
			model, adapter = adapter, ""
			if strings.HasSuffix(r.File, ".gguf") {
				model = filepath.Join(x.Out, r.File)
			}
		}
	}
	if err := x.evaluate(ctx, s, model, adapter); err != nil {
		return err
	}
	if err := x.tidy(s); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(result, append(text, '\n'))
}

// train trains or continues to, unless the run's report is there.
func (x *comparison) train(ctx context.Context, s *spec) (*train.Report, error) {
	out := x.path(runsDir, s.name, "train")
	done := &train.Report{}
	if text, err := os.ReadFile(filepath.Join(out, "run.json")); err == nil {
		return done, json.Unmarshal(text, done)
	}
	args, err := x.trainArgs(s, out, x.plan.steps[s.name])
	if err != nil {
		return nil, err
	}
	return done, x.child(ctx, x.path(runsDir, s.name, "log.txt"), done, args...)
}

// evaluationsOf is how often a run is evaluated on the validation side.
func evaluationsOf(s *spec) int {
	if s.study == Overfitting {
		return 12
	}
	return 4
}

// checkpointsOf is how often a run writes a checkpoint.
const checkpointsOf = 4

// trainArgs are the arguments of the child that trains.
func (x *comparison) trainArgs(s *spec, out string, steps int) ([]string, error) {
	every := func(times int) string { return fmt.Sprint(max(1, (steps+times-1)/times)) }
	args := []string{"train", "--model", x.base, "--data", x.sets[s.set], "--out", out, "--json", "--resume",
		"--bf16", "--max-steps", fmt.Sprint(steps), "--learning-rate", fmt.Sprint(x.Rates[s.method]),
		"--warmup-ratio", "0.1", "--per-device-train-batch-size", fmt.Sprint(x.BatchSize), "--max-length",
		fmt.Sprint(x.MaxLength), "--seed", fmt.Sprint(x.Seed), "--eval-data", x.sets[validationSet], "--eval-steps",
		every(evaluationsOf(s)), "--save-steps", every(checkpointsOf), "--save-total-limit", "1",
		fmt.Sprintf("--load-best-model-at-end=%v", s.best), "--memory", fmt.Sprint(x.Memory)}
	return append(args, s.args...), nil
}

// take fills r with what training reports, and puts a whole model trained from a GGUF file into one.
func (x *comparison) take(r *Result, s *spec, t *train.Report) error {
	r.LearningRate, r.Steps, r.BestStep, r.Stopped = x.Rates[s.method], t.Steps, t.BestStep, t.Stopped
	r.Tokens, r.PeakBytes, r.Trainable = t.Tokens, t.PeakRSS, t.Trainable
	r.Curve, r.Evaluations = t.Curve, t.Evaluations
	for _, step := range t.Curve {
		r.Seconds += step.Seconds
	}
	file := filepath.Join(runsDir, s.name, "train", "adapter", "adapter_model.safetensors")
	if s.method == Full {
		file = filepath.Join(runsDir, s.name, "train", "model", "model.safetensors")
		if strings.HasSuffix(x.base, ".gguf") {
			written := filepath.Join(runsDir, s.name, "model.gguf")
			if _, err := os.Stat(x.path(written)); errors.Is(err, fs.ErrNotExist) {
				if err := train.RewriteGGUF(x.base, x.path(filepath.Dir(file)), x.path(written)); err != nil {
					return err
				}
			}
			file = written
		}
	}
	info, err := os.Stat(x.path(file))
	if err != nil {
		return err
	}
	r.File, r.FileBytes = filepath.ToSlash(file), info.Size()
	return nil
}

// tidy removes a finished run's checkpoints, and what is in its GGUF file too.
func (x *comparison) tidy(s *spec) error {
	remove, err := filepath.Glob(x.path(runsDir, s.name, "train", "checkpoint-*"))
	if s.method == Full && strings.HasSuffix(x.base, ".gguf") {
		remove = append(remove, x.path(runsDir, s.name, "train", "model"))
	}
	for _, path := range remove {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

// Files of a run's answers.
const (
	answersName = "validation.jsonl"
	probeName   = "general.jsonl"
)

// evaluate measures a model on the validation side and on the general probe.
func (x *comparison) evaluate(ctx context.Context, s *spec, model, adapter string) error {
	for _, e := range []struct{ set, metrics, file string }{
		{validationSet, "loss,bleu,rougeL", answersName}, {probeSet, "loss", probeName},
	} {
		file := x.path(runsDir, s.name, e.file)
		if _, err := os.Stat(file); err == nil {
			continue
		}
		var any struct{}
		if err := x.child(ctx, x.path(runsDir, s.name, "log.txt"), &any,
			x.evalArgs(s, model, adapter, x.sets[e.set], e.metrics, file)...); err != nil {
			return err
		}
	}
	return nil
}

func (x *comparison) evalArgs(s *spec, model, adapter, set, names, file string) []string {
	args := []string{"eval", "--model", model, "--data", set, "--metrics", names, "--tokenize", x.Tokenize,
		"--max-tokens", fmt.Sprint(x.AnswerTokens), "--activations", "float", "--max-seqs", "16", "--resamples", "1",
		"--json", "--answers", file, "--memory", fmt.Sprint(x.Memory)}
	if adapter != "" {
		args = append(args, "--adapter", adapter)
	}
	if s.load4 {
		args = append(args, "--load-in-4bit", "--bnb-4bit-use-double-quant")
	}
	return args
}

// scores reads what a run's model made of the samples: loss and, of the validation side, the metrics of its answers.
func (x *comparison) scores(name string) (map[string]*metrics.Scores, error) {
	out := map[string]*metrics.Scores{}
	for file, prefix := range map[string]string{answersName: "", probeName: "general_"} {
		lines, err := readLines(x.path(runsDir, name, file))
		if err != nil {
			return nil, err
		}
		losses, texts := make([][2]float64, len(lines)), make([]metrics.Sample, len(lines))
		for i, l := range lines {
			losses[i] = [2]float64{l.LossSum, l.Labels}
			if l.Answer != nil {
				texts[i] = metrics.Sample{Prediction: l.Answer.Text, References: []string{l.Expected}}
			}
		}
		mean := func(v float64) float64 { return v }
		if out[prefix+"loss"], err = metrics.Ratios(prefix+"loss", losses, mean); err != nil {
			return nil, err
		}
		if prefix != "" {
			continue
		}
		for _, metric := range []string{"bleu", "rougeL"} {
			if out[metric], err = metrics.Compute(metric, texts, metrics.Options{Tokenize: x.Tokenize}); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func readLines(path string) (lines []eval.Line, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 64<<20)
	for in.Scan() {
		var l eval.Line
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		lines = append(lines, l)
	}
	return lines, in.Err()
}

// roughly is a time for people.
func roughly(seconds float64) string {
	switch {
	case seconds < 10:
		return fmt.Sprintf("%.1f s", seconds)
	case seconds < 120:
		return fmt.Sprintf("%.0f s", seconds)
	case seconds < 600:
		return fmt.Sprintf("%.1f min", seconds/60)
	}
	return fmt.Sprintf("%.0f min", seconds/60)
}
