package eval

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"testing"

	"weft/finetune/data"
	"weft/finetune/eval/metrics"
	"weft/internal/goldens"
	"weft/runtime/chat"
	"weft/runtime/device/ref"
	"weft/runtime/engine"
	"weft/runtime/model"
	"weft/runtime/sample"
	"weft/runtime/tensor"
	"weft/runtime/tokenizer"
)

// stories is a small model on an engine, with its tokenizer.
func stories(t *testing.T) (*engine.Engine, *tokenizer.Tokenizer) {
	t.Helper()
	path := goldens.Shared(t, "data", "weights", "stories260K", "hf")
	dev := ref.New(ref.Options{Activations: ref.Float})
	t.Cleanup(func() { dev.Close() })
	m, err := model.Open(path, dev, model.Options{MaxBatchTokens: 32, MaxLogitRows: 32})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	tok, err := tokenizer.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	e, err := engine.New(engine.Config{Model: m, Device: dev, PageLen: 16, NumPages: 64, KVDType: tensor.F32,
		MaxSeqs: 4, MaxQueued: 8, MaxBatchTokens: 32, MaxContext: 256})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e, tok
}

// Run's loss is the mean over the tokens with a label, as scored one sample at a time, and its answers are those that
// the engine gives to the prompt alone; an error names the sample.
func TestRun(t *testing.T) {
	e, tok := stories(t)
	tmpl, err := chat.Parse("{% for m in messages %}{{ m.content }} {% endfor %}")
	if err != nil {
		t.Fatal(err)
	}
	m := data.Model{Tokenizer: tok, Template: tmpl}
	file := filepath.Join(goldens.Root(), "finetune", "eval", "testdata", "held.jsonl")
	questions, err := Load([]string{file}, m, data.Options{MaxTokens: 256})
	if err != nil || len(questions) != 3 || questions[0].Answer != "Tom had a red ball." {
		t.Fatalf("%+v, %v", questions, err)
	}
	c := Config{Engine: e, Model: m, Context: 256, Parallel: 4, Systems: []System{{}}, Questions: questions,
		Metrics: []string{LossMetric, "length_ratio", EndOfTurnMetric}, MaxTokens: 5, Resamples: 50,
		Sampling: sample.Params{TopP: 1, RepetitionPenalty: 1, Logprobs: -1}}
	r, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	nll, targets, all := 0.0, 0, 0
	score := OnEngine(e, nil)
	for _, q := range questions {
		logprobs, err := score(t.Context(), q.Sample.IDs)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range logprobs {
			if all++; q.Sample.Labels[i+1] != data.Ignore {
				nll -= v
				targets++
			}
		}
	}
	if got := r.Results[0].Metrics[LossMetric].Value; targets == all || math.Abs(got-nll/float64(targets)) > 1e-9 {
		t.Errorf("loss %v, want %v over %d of %d tokens", got, nll/float64(targets), targets, all)
	}
	for i, a := range r.answers[0] {
		if a.Tokens == 0 || a.Tokens > 5 || a.Text == "" {
			t.Errorf("answer %d: %+v", i, a)
		}
	}
	c.Context = 3
	if _, err := Run(t.Context(), c); err == nil {
		t.Error("a context of 3 tokens")
	}
	c.Context, c.Questions = 256, nil
	if _, err := Run(t.Context(), c); !errors.Is(err, metrics.ErrEmpty) {
		t.Errorf("no sample: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.Questions = questions
	if _, err := Run(ctx, c); err == nil {
		t.Error("a run that was ended")
	}
}
