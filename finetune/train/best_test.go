package train

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"os"
	"strings"
	"testing"
)

// On random curves the run stops where transformers' callback stops Trainer, with the same best evaluation. The curves
// and outcomes are those of scripts/golden/early_stopping.py.
func TestEarlyStoppingIsTransformers(t *testing.T) {
	text, err := os.ReadFile("testdata/early_stopping.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Losses      []float64
		Patience    int
		Threshold   float64
		Evaluations int
		Best        int
	}
	if err := json.Unmarshal(text, &cases); err != nil || len(cases) < 100 {
		t.Fatalf("%d cases: %v", len(cases), err)
	}
	for _, c := range cases {
		var s standing
		made, best := 0, -1
		for i, loss := range c.Losses {
			made++
			if s.judge(i, loss, c.Threshold) {
				best = i
			}
			if s.exhausted(c.Patience) {
				break
			}
		}
		if made != c.Evaluations || best != c.Best || best >= 0 && (s.BestStep != best || *s.Best != c.Losses[best]) {
			t.Errorf("%+v: %d evaluations, the best is %d", c, made, best)
		}
	}
}

// Losses that are no numbers are never the best.
func TestJudgeNaN(t *testing.T) {
	var s standing
	for i, loss := range []float64{math.NaN(), math.Inf(1), 3, math.NaN(), 2} {
		if lowest := s.judge(i, loss, 0); lowest != (loss < 4) {
			t.Errorf("evaluation %d, %v: lowest %v", i, loss, lowest)
		}
	}
	if *s.Best != 2 || s.BestStep != 4 || s.Waited != 0 {
		t.Errorf("%+v", s)
	}
}

// A threshold does not decide which parameters are kept: a loss that falls by less than the threshold ends the run, and
// the lowest one is kept. Resumed, the run makes no more steps, says so and ends with the same result; with more
// patience it goes on, to the bits of a run that had it from the start.
func TestThresholdAndResumedStop(t *testing.T) {
	job := func(dir string, patience int) *Job {
		j := scratchJob(t, dir)
		c := &j.Config
		c.LearningRate, c.Scheduler, c.WarmupSteps, c.EvalSteps, c.Epochs = 1e-3, "constant", 0, 1, 3
		c.Patience, c.Threshold, c.Resume = patience, 1, true
		if patience == 0 {
			c.Threshold = 0
		}
		return j
	}
	dir, whole := t.TempDir(), t.TempDir()
	res := completed(t, job(dir, 3))
	if len(res.Steps) != 4 || res.BestStep != 4 || !strings.Contains(res.Stopped, "the lowest is") ||
		!strings.Contains(res.Stopped, "3 evaluations in a row did not lower the evaluation loss by more than 1") {
		t.Fatalf("%d steps, best %d, stopped: %s", len(res.Steps), res.BestStep, res.Stopped)
	}
	digest := digestOf(t, dir)
	again := job(dir, 3)
	var logged strings.Builder
	again.Log = textLog(&logged)
	if res = completed(t, again); len(res.Steps) != 4 || res.Stopped == "" || digestOf(t, dir) != digest ||
		!strings.Contains(logged.String(), "does not go on") {
		t.Errorf("resumed: %d steps, stopped: %q; %s", len(res.Steps), res.Stopped, logged.String())
	}
	if res = completed(t, job(dir, 0)); len(res.Steps) != 12 || res.Stopped != "" {
		t.Errorf("without patience: %d steps, stopped: %s", len(res.Steps), res.Stopped)
	}
	completed(t, job(whole, 0))
	if digestOf(t, dir) != digestOf(t, whole) {
		t.Error("a run that got more patience ends with other weights")
	}
}

// countdown is a context that has ended when it has been asked so many times.
type countdown struct {
	context.Context
	left, asked int
}

func (c *countdown) Err() error {
	if c.asked++; c.asked > c.left {
		return context.Canceled
	}
	return nil
}

// A run that is interrupted before any micro-batch of a step or of an evaluation writes a checkpoint at once and ends,
// resumed, with the bits of an undisturbed run.
func TestInterruptedWithinAStep(t *testing.T) {
	job := func(dir string) *Job {
		j := scratchJob(t, dir)
		j.Config.Accumulation, j.Config.MaxSteps, j.Config.BatchSize = 4, 4, 3
		return j
	}
	whole, ctx := job(t.TempDir()), &countdown{t.Context(), math.MaxInt, 0}
	want, err := whole.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if batches := 2*8 + 2*2; ctx.asked < batches { // two epochs of 23 samples, two evaluations of 5
		t.Fatalf("whether to end was asked %d times in %d micro-batches", ctx.asked, batches)
	}
	for at := range ctx.asked {
		dir := t.TempDir()
		ended := &countdown{t.Context(), at, 0}
		if _, err := job(dir).Run(ended); !errors.Is(err, context.Canceled) {
			t.Fatalf("interrupted at %d: %v", at, err)
		}
		path, err := newestCheckpoint(dir)
		if err != nil || path == "" {
			t.Fatalf("interrupted at %d: no checkpoint: %v", at, err)
		}
		second := job(dir)
		second.Config.Resume = true
		got, err := second.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Evals) != len(want.Evals) || len(got.Steps) != len(want.Steps) {
			t.Errorf("interrupted at %d: %d evaluations in %d steps, want %d in %d", at, len(got.Evals),
				len(got.Steps), len(want.Evals), len(want.Steps))
		}
		if digestOf(t, dir) != digestOf(t, whole.Dir) {
			t.Errorf("interrupted at %d, the run ends with other weights", at)
		}
	}
}

func textLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
