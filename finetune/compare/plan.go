package compare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"weft/finetune/data"
	"weft/finetune/train"
	"weft/internal/bytesize"
	"weft/runtime/device"
)

// Plan is what a comparison takes.
type Plan struct {
	Out      string             `json:"out"`
	Runs     []PlannedRun       `json:"runs"`
	Tokens   int64              `json:"tokens"`  // trained, in all runs
	Seconds  map[string]float64 `json:"seconds"` // by run, with evaluation
	Speeds   Speeds             `json:"measured"`
	Memory   int64              `json:"memory_bytes"` // of the largest run
	Limit    int64              `json:"memory_limit_bytes"`
	Disk     int64              `json:"disk_bytes"`
	Training int                `json:"training_samples"`
	Held     int                `json:"validation_samples"`
	Probe    int                `json:"general_samples"`
	Ratio    float64            `json:"replay_ratio"`

	steps map[string]int
}

// PlannedRun is a run before it is made.
type PlannedRun struct {
	Name    string  `json:"name"`
	Title   string  `json:"title"`
	Steps   int     `json:"steps"`
	Tokens  int64   `json:"tokens"`
	Memory  int64   `json:"memory_bytes"` // weights and training; 0 where nothing is trained
	Disk    int64   `json:"disk_bytes"`   // while it runs; 0 where nothing is trained
	Seconds float64 `json:"seconds"`
}

// Speeds are measured before the first run.
type Speeds struct {
	Tokens map[string]float64 `json:"tokens_per_second"`       // of training, by method
	Sample float64            `json:"seconds_per_evaluation"`  // of the validation side's answers
	Probe  float64            `json:"seconds_per_probe"`       // of the general probe
	Loss   float64            `json:"seconds_per_loss"`        // of the validation side, within training
	Start  float64            `json:"seconds_per_run_started"` // loading
}

// probeSteps are the optimizer steps that a speed is measured over, the first one not counted.
const probeSteps = 3

// measure plans the runs: their steps and memory from the samples, their time from short measurements.
func (x *comparison) measure(ctx context.Context) error {
	p := &x.plan
	p.Out, p.Limit, p.Training, p.Held, p.Probe, p.Ratio = x.Out, x.Memory, x.counts[ownSet], x.counts[validationSet],
		x.counts[probeSet], x.ratio
	p.Seconds, p.steps = map[string]float64{}, map[string]int{}
	var kept int64 // on the disk, of the runs before
	if info, err := os.Stat(x.base); err == nil && !info.IsDir() {
		kept = info.Size()
	} else if info, err := os.Stat(x.path(baseDir, "model.safetensors")); err == nil {
		kept = info.Size()
	}
	full := kept
	for i := range x.specs {
		s := &x.specs[i]
		r := PlannedRun{Name: s.name, Title: s.title}
		if s.method != "" {
			if err := x.planRun(s, &r); err != nil {
				return fmt.Errorf("run %s: %w", s.name, err)
			}
			if s.method == Full {
				kept += full
			}
		}
		p.steps[s.name] = r.Steps
		p.Tokens, p.Memory, p.Disk = p.Tokens+r.Tokens, max(p.Memory, r.Memory), max(p.Disk, kept+r.Disk)
		p.Runs = append(p.Runs, r)
	}
	if err := x.speeds(ctx); err != nil {
		return err
	}
	for i := range p.Runs {
		s, r := &x.specs[i], &p.Runs[i]
		r.Seconds = p.Speeds.Sample + p.Speeds.Probe
		if s.method != "" {
			speed := p.Speeds.Tokens[s.method]
			if s.study == Checkpointing {
				speed *= 0.75 // the forward pass is computed twice
			}
			r.Seconds += float64(r.Tokens)/speed + p.Speeds.Start + p.Speeds.Loss*float64(evaluationsOf(s))
		}
		p.Seconds[s.name] = r.Seconds
	}
	return nil
}

// planRun reads a run's samples and says what it takes.
func (x *comparison) planRun(s *spec, r *PlannedRun) error {
	c := train.Default()
	c.MaxSteps, c.BatchSize, c.MaxLength, c.Seed, c.BF16, c.Resume = 1, x.BatchSize, x.MaxLength, x.Seed, true, true
	c.EvalData, c.Rank, c.Alpha = x.sets[validationSet], x.Rank, x.Alpha
	c.Checkpointing, c.LoadIn4Bit, c.DoubleQuant = s.study == Checkpointing, s.load4, s.load4
	if s.method == Full {
		c.Method = Full
	}
	if s.name == "dropout" {
		c.Dropout = x.Dropout
	}
	in, err := train.Read(c, train.Files{Model: x.base, Ref: x.Ref, Data: []string{x.sets[s.set]},
		Out: x.path(runsDir, s.name, "train"), Memory: x.Memory}, x.Text)
	if err != nil {
		return err
	}
	probe, err := data.Load([]string{x.sets[probeSet]}, x.Text, c.Data())
	if err == nil {
		err = data.Overlap(in.Train, probe)
	}
	if err != nil {
		return fmt.Errorf("--general: %w", err)
	}
	if r.Steps, r.Tokens, err = in.StepsFor(x.Tokens); err != nil {
		return err
	}
	in.Config.MaxSteps = r.Steps
	base, training, err := in.Needs()
	if err != nil {
		return err
	}
	r.Memory = base + training + in.SampleBytes()
	if r.Memory > x.Memory {
		others := "leave it out with --methods"
		if s.study != "" {
			others = "leave it out with --studies"
		}
		return fmt.Errorf("%w: %s takes %s (weights %s, training %s), %s may be used: %s, lower "+
			"--per-device-train-batch-size or --max-length, or raise --memory", device.ErrOutOfMemory, s.title,
			bytesize.Format(r.Memory), bytesize.Format(base), bytesize.Format(training), bytesize.Format(x.Memory),
			others)
	}
	trained, err := in.TrainedParameters()
	// two checkpoints of parameters and their two states, for a moment, and the result
	r.Disk = 2*3*4*trained + 4*trained
	return err
}

// speeds measures, unless that was done.
func (x *comparison) speeds(ctx context.Context) error {
	const dir = "speed"
	return x.once(dir, &x.plan.Speeds, func() error {
		v := Speeds{Tokens: map[string]float64{}}
		for i := range x.specs {
			s := &x.specs[i]
			if s.method == "" || v.Tokens[s.method] > 0 {
				continue
			}
			fmt.Fprintf(x.Terminal, "measuring the speed of %s\n", s.title)
			args, err := x.trainArgs(s, x.path(dir, s.name), probeSteps)
			if err != nil {
				return err
			}
			start := time.Now()
			var t train.Report
			if err := x.child(ctx, x.path(dir, "log.txt"), &t, append(args, "--save-steps", "0")...); err != nil {
				return err
			}
			v.Tokens[s.method] = max(t.TokensPerSecond, 1e-3)
			in := 0.0
			for _, step := range t.Curve {
				in += step.Seconds
			}
			// what is not in steps is loading and the evaluations of probeSteps steps
			rest := max(0, time.Since(start).Seconds()-in)
			v.Loss = max(v.Loss, rest/(probeSteps+1))
			v.Start = max(v.Start, rest/(probeSteps+1))
			if err := os.RemoveAll(x.path(dir, s.name)); err != nil {
				return err
			}
		}
		fmt.Fprintln(x.Terminal, "measuring the speed of evaluation")
		const few = 16
		path, n, err := x.thin(x.sets[validationSet], "few", few)
		if err != nil {
			return err
		}
		for _, e := range []struct {
			set, metrics string
			all          int
			to           *float64
		}{{path, "loss,bleu,rougeL", x.counts[validationSet], &v.Sample},
			{path, "loss", x.counts[probeSet], &v.Probe}} {
			start := time.Now()
			var any struct{}
			if err := x.child(ctx, x.path(dir, "log.txt"), &any, x.evalArgs(&spec{}, x.base, "", e.set, e.metrics,
				x.path(dir, "answers.jsonl"))...); err != nil {
				return err
			}
			*e.to = time.Since(start).Seconds() * max(1, float64(e.all)/float64(n))
		}
		x.plan.Speeds = v
		return errors.Join(os.Remove(path), os.Remove(x.path(dir, "answers.jsonl")))
	})
}

// Write says what the comparison takes.
func (p *Plan) Write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "run\tsteps\ttokens\tmemory\ttime")
	all := 0.0
	for _, r := range p.Runs {
		memory := "-"
		if r.Memory > 0 {
			memory = bytesize.Format(r.Memory)
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\n", r.Title, r.Steps, r.Tokens, memory, roughly(r.Seconds))
		all += r.Seconds
	}
	fmt.Fprintf(w, "%d runs\t\t%d\t%s\t%s\n", len(p.Runs), p.Tokens, bytesize.Format(p.Memory), roughly(all))
	if err := w.Flush(); err != nil {
		return err
	}
	speeds, err := json.Marshal(p.Speeds.Tokens)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "measured, tokens per second: %s\nsamples: %d for training, %d for validation, %d of "+
		"the "+
		"general probe; replay ratio %.3g\nmemory: %s, %s may be used; disk: %s in %s\n", speeds, p.Training, p.Held,
		p.Probe, p.Ratio, bytesize.Format(p.Memory), bytesize.Format(p.Limit), bytesize.Format(p.Disk), p.Out)
	return err
}
