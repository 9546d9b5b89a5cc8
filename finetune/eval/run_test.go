package eval

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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
	if s := e.Stats(); s.TokensIn+s.TokensOut != 0 || s.Background.Tokens == 0 || len(s.Background.Jobs) != 0 {
		t.Errorf("%+v: the sequences are not in the background", s)
	}
	training, err := e.Background(t.Context(), "training")
	if err != nil {
		t.Fatal(err)
	}
	late, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := Run(late, c); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "training") {
		t.Errorf("%v while a training job has the engine's place", err)
	}
	training.Close()
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

// The metrics of plain text count every token once: the first is predicted from the token that begins texts, and those
// of a window from one before it and from each other. Words are counted as Python does; other samples are refused.
func TestRolling(t *testing.T) {
	e, tok := stories(t)
	text := " One day, Lily saw a big red ball.\nShe was happy. "
	file := filepath.Join(t.TempDir(), "texts.jsonl")
	line, _ := json.Marshal(map[string]string{"text": text})
	if err := os.WriteFile(file, append(line, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	m := data.Model{Tokenizer: tok}
	questions, err := Load([]string{file}, m, data.Options{MaxTokens: math.MaxInt, Loss: data.OnAll})
	if err != nil || questions[0].Plain != text {
		t.Fatalf("%+v, %v", questions, err)
	}
	bos, _ := tok.BOS()
	ids := append([]int32{bos}, tok.Encode(text, tokenizer.EncodeOptions{})...)
	score := OnEngine(e, nil)
	sum := func(from, at, end int) (nll float64) {
		values, err := score(t.Context(), ids[from:end])
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range values[at-from-1:] {
			nll -= v
		}
		return nll
	}
	n := len(ids)
	if n < 16 || n >= 28 {
		t.Fatalf("%d tokens", n)
	}
	c := Config{Engine: e, Model: m, Parallel: 4, Systems: []System{{}}, Questions: questions, Resamples: 10,
		Metrics: []string{WordPerplexityMetric, BytePerplexityMetric, BitsPerByteMetric}}
	for context, want := range map[int]float64{
		256:   sum(0, 1, n),
		n + 1: sum(0, 1, n),
		16:    sum(0, 1, 15) + sum(n-15, 15, n), // windows of 14 tokens, of which the last is less
	} {
		c.Context = context
		r, err := Run(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]float64{WordPerplexityMetric: math.Exp(want / 13),
			BytePerplexityMetric: math.Exp(want / float64(len(text))),
			BitsPerByteMetric:    want / math.Ln2 / float64(len(text))} {
			if got := r.Results[0].Metrics[name].Value; math.Abs(got-want) > 1e-9*want {
				t.Errorf("context %d: %s %v, want %v", context, name, got, want)
			}
		}
	}
	for text, want := range map[string]int{"": 1, "a": 1, " a b\t\n c ": 5, "a\x1cb\u3000c": 3, "你好 世界": 2} {
		if got := words(text); got != want {
			t.Errorf("%q has %d words, want %d", text, got, want)
		}
	}
	if !OnlyRolling(c.Metrics) || OnlyRolling(nil) || OnlyRolling([]string{BitsPerByteMetric, LossMetric}) {
		t.Error("OnlyRolling")
	}
	c.Questions = []data.Question{{Path: "x.jsonl", Line: 7}}
	if _, err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "x.jsonl:7: word_perplexity") {
		t.Errorf("no plain text: %v", err)
	}
}

// Every system gets every item, one system after the other.
func TestSystemsFollowEachOther(t *testing.T) {
	var order []string
	r := &run{Config: &Config{Parallel: 1, Systems: make([]System, 2)}}
	if err := r.each(t.Context(), 3, func(_ context.Context, system, item int) error {
		order = append(order, fmt.Sprint(system, item))
		return nil
	}); err != nil || !slices.Equal(order, []string{"0 0", "0 1", "0 2", "1 0", "1 1", "1 2"}) {
		t.Errorf("%q, %v", order, err)
	}
}

// A stop ends an answer, which is the text before it.
func TestStops(t *testing.T) {
	e, tok := stories(t)
	c := Config{Engine: e, Model: data.Model{Tokenizer: tok}, Context: 256, Parallel: 1, Systems: []System{{}},
		Sampling: sample.Params{TopP: 1, RepetitionPenalty: 1, Logprobs: -1}}
	prompt := tok.Encode("Once upon a time", tokenizer.EncodeOptions{AddSpecial: true})
	answer := func(stops ...string) Answer {
		c.Stops = stops
		a, err := (&run{Config: &c, place: e}).answer(t.Context(), 0, prompt, 20)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	full := answer("no such text")
	before, _, ok := strings.Cut(full.Text, " was")
	if !ok || full.Stopped || full.Tokens != 20 {
		t.Fatalf("%+v", full)
	}
	if a := answer("never", "as a", " was"); a.Text != before || !a.Stopped || a.Tokens >= 20 {
		t.Errorf("%+v, want %q", a, before)
	}
}
