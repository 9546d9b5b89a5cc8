package eval

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"weft/finetune/data"
	"weft/finetune/eval/checks"
	"weft/finetune/eval/metrics"
	"weft/runtime/engine"
	"weft/runtime/sample"
)

// Metrics of a run that are not of texts.
const (
	LossMetric       = "loss"        // mean negative log-likelihood of the tokens with a label, in nats
	PerplexityMetric = "perplexity"  // e to the loss
	EndOfTurnMetric  = "end_of_turn" // answers that end by themselves, of 100
)

var ownMetrics = []string{LossMetric, PerplexityMetric, EndOfTurnMetric, WordPerplexityMetric, BytePerplexityMetric,
	BitsPerByteMetric}

// Names are the metrics of a run; defaults are those that are computed where none is named.
func Names() (all, defaults []string) {
	texts, _ := metrics.Names()
	return append(slices.Clone(ownMetrics), texts...), []string{LossMetric, PerplexityMetric,
		"exact_match", "f1", "bleu", "chrf", "rougeL", EndOfTurnMetric, "length_ratio", "repetition"}
}

// Check says what is wrong with names of metrics or a tokenizer.
func Check(names []string, o metrics.Options) error {
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("metric %q is named twice", name)
		}
	}
	texts := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(ownMetrics, n) })
	if len(texts) == 0 && len(names) > 0 {
		texts = []string{"bleu"}
	}
	if err := metrics.Check(texts, o); err != nil {
		return fmt.Errorf("%w; also %s", err, strings.Join(ownMetrics, ", "))
	}
	return nil
}

// System is the base model or one with an adapter.
type System struct {
	Name  string // of the adapter; "" is the base model
	Model string // of a model that is compared with the first; "" is the first
	// With sets the adapter of requests; nil: the base model
	With func(reqs ...engine.Request) []engine.Request
}

// Config is what Run measures.
type Config struct {
	Engine    *engine.Engine
	Model     data.Model
	Context   int // longest sequence
	Parallel  int // sequences under way
	Systems   []System
	Questions []data.Question // may be none where Checks has tests
	Metrics   []string
	Texts     metrics.Options
	MaxTokens int      // of an answer
	Stops     []string // texts that end an answer, and are no part of it
	Sampling  sample.Params
	Resamples int // of bootstrap intervals
	Seed      uint64
	Checks    *checks.Suite // or nil
	// Progress is called after each sequence, from several goroutines.
	Progress func(done, all int)
}

// Answer is a generated answer.
type Answer struct {
	Text    string `json:"text"`
	Tokens  int    `json:"tokens"`
	Stopped bool   `json:"stopped"` // by itself, not by length
}

// SystemResult is what a system reached. The field names are those of the command's JSON.
type SystemResult struct {
	Adapter string                      `json:"adapter"`         // "" is the base model
	Model   string                      `json:"model,omitempty"` // "" is the first
	N       int                         `json:"n"`
	Metrics map[string]metrics.Interval `json:"metrics"`
	scores  map[string]*metrics.Scores
}

// Comparison is a difference between two systems over the same samples.
type Comparison struct {
	A string `json:"a"`
	B string `json:"b"`
	metrics.Comparison
}

// CheckResult is a rule's verdict on a test, or on all answers to the data set.
type CheckResult struct {
	Adapter string `json:"adapter"`
	Model   string `json:"model,omitempty"`
	Test    string `json:"test,omitempty"` // "": every answer to the data set
	Type    string `json:"type"`
	Value   any    `json:"value,omitempty"`
	Pass    bool   `json:"pass"`
	N       int    `json:"n"`      // answers
	Failed  int    `json:"failed"` // of them
	Reason  string `json:"reason,omitempty"`
	Answer  string `json:"answer,omitempty"` // the first that failed
	Line    int    `json:"line,omitempty"`   // of its sample
}

// Report is the result of a run.
type Report struct {
	Results     []SystemResult `json:"results"`
	Comparisons []Comparison   `json:"comparisons"`
	Checks      []CheckResult  `json:"checks"`

	questions []data.Question
	answers   [][]Answer     // per system, per question
	losses    [][][2]float64 // as answers: sum and number of tokens
	resamples int
	seed      uint64
	metrics   []string
}

// Passed says whether every check holds.
func (r *Report) Passed() bool {
	return !slices.ContainsFunc(r.Checks, func(c CheckResult) bool { return !c.Pass })
}

// run is a measurement under way.
type run struct {
	*Config
	place     Submitter
	done, all atomic.Int64
}

// Run measures all systems in one batch: their sequences are computed together, as background sequences of the engine.
// It waits for the engine's place for them while a training job or another evaluation has it.
func Run(ctx context.Context, c Config) (*Report, error) {
	r := &run{Config: &c}
	out := &Report{Results: []SystemResult{}, Comparisons: []Comparison{}, Checks: []CheckResult{},
		questions: c.Questions, metrics: c.Metrics, resamples: c.Resamples, seed: c.Seed}
	if len(c.Questions) == 0 && (c.Checks == nil || len(c.Checks.Tests) == 0) {
		return nil, metrics.ErrEmpty
	}
	place, err := c.Engine.Background(ctx, "evaluation")
	if err != nil {
		return nil, err
	}
	defer place.Close()
	r.place = place
	if len(c.Questions) > 0 {
		if err := r.measure(ctx, out); err != nil {
			return nil, err
		}
	}
	if c.Checks != nil {
		if err := r.check(ctx, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// each calls work for every system and item, as many at once as Parallel says, those of one system together: steps then
// have few adapters, and prompts of one system share prefixes.
func (r *run) each(ctx context.Context, items int, work func(ctx context.Context, system, item int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	total := items * len(r.Systems)
	r.all.Add(int64(total))
	var next atomic.Int64
	var wait sync.WaitGroup
	for range min(r.Parallel, total) {
		wait.Go(func() {
			for ctx.Err() == nil {
				k := int(next.Add(1)) - 1
				if k >= total {
					return
				}
				if err := work(ctx, k/items, k%items); err != nil {
					cancel(err)
					return
				}
				if done := r.done.Add(1); r.Progress != nil {
					r.Progress(int(done), int(r.all.Load()))
				}
			}
		})
	}
	wait.Wait()
	return context.Cause(ctx)
}

func (r *run) with(system int, req engine.Request) []engine.Request {
	if with := r.Systems[system].With; with != nil {
		return with(req)
	}
	return []engine.Request{req}
}

func (r *run) wants(names ...string) bool {
	return slices.ContainsFunc(r.Metrics, func(n string) bool { return slices.Contains(names, n) })
}

func (r *run) measure(ctx context.Context, out *Report) error {
	n := len(r.Questions)
	losses := make([][][2]float64, len(r.Systems))
	out.answers = make([][]Answer, len(r.Systems))
	for s := range r.Systems {
		losses[s], out.answers[s] = make([][2]float64, n), make([]Answer, n)
	}
	out.losses = losses
	if r.wants(LossMetric, PerplexityMetric) {
		if err := r.each(ctx, n, func(ctx context.Context, s, i int) (err error) {
			losses[s][i], err = r.loss(ctx, s, &r.Questions[i].Sample)
			return r.named(i, err)
		}); err != nil {
			return err
		}
	}
	rolling := make([][]float64, len(r.Systems))
	if slices.ContainsFunc(r.Metrics, isRolling) {
		for s := range rolling {
			rolling[s] = make([]float64, n)
		}
		if err := r.each(ctx, n, func(ctx context.Context, s, i int) (err error) {
			rolling[s][i], err = r.rolling(ctx, s, &r.Questions[i])
			return r.named(i, err)
		}); err != nil {
			return err
		}
	}
	ofAnswers := func(n string) bool { return n != LossMetric && n != PerplexityMetric && !isRolling(n) }
	if slices.ContainsFunc(r.Metrics, ofAnswers) || r.Checks != nil && len(r.Checks.Every) > 0 {
		if err := r.each(ctx, n, func(ctx context.Context, s, i int) (err error) {
			out.answers[s][i], err = r.answer(ctx, s, r.Questions[i].Prompt, r.MaxTokens)
			return r.named(i, err)
		}); err != nil {
			return err
		}
	} else {
		out.answers = nil
	}
	resamples := metrics.Draw(r.Resamples, n, r.Seed)
	for s := range r.Systems {
		result := SystemResult{Adapter: r.Systems[s].Name, Model: r.Systems[s].Model, N: n,
			Metrics: map[string]metrics.Interval{}, scores: map[string]*metrics.Scores{}}
		for _, name := range r.Metrics {
			scores, err := r.scores(name, losses[s], rolling[s], out, s)
			if err != nil {
				return err
			}
			result.scores[name], result.Metrics[name] = scores, scores.Interval(resamples)
		}
		out.Results = append(out.Results, result)
	}
	return out.compare(0, resamples)
}

// compare compares each two systems of which the second is among those from first on.
func (r *Report) compare(first int, resamples [][]int32) error {
	for b := first; b < len(r.Results); b++ {
		for a := range b {
			for _, name := range r.metrics {
				c, err := metrics.Compare(r.Results[b].scores[name], r.Results[a].scores[name], resamples, r.seed)
				if err != nil {
					return err
				}
				r.Comparisons = append(r.Comparisons, Comparison{r.Results[b].name(), r.Results[a].name(), *c})
			}
		}
	}
	return nil
}

// name is how comparisons call a system.
func (s *SystemResult) name() string { return cmp.Or(s.Adapter, s.Model) }

// Add adds the report of another model over the same samples, and compares its systems with those of r.
func (r *Report) Add(other *Report) error {
	same := func(a, b data.Question) bool { return a.Path == b.Path && a.Line == b.Line }
	if !slices.EqualFunc(r.questions, other.questions, same) || !slices.Equal(r.metrics, other.metrics) {
		return metrics.ErrUnpaired
	}
	first := len(r.Results)
	r.Results = append(r.Results, other.Results...)
	r.Checks = append(r.Checks, other.Checks...)
	r.answers = append(r.answers, other.answers...)
	r.losses = append(r.losses, other.losses...)
	return r.compare(first, metrics.Draw(r.resamples, len(r.questions), r.seed))
}

// named adds the sample to an error.
func (r *run) named(i int, err error) error {
	if err == nil {
		return nil
	}
	q := &r.Questions[i]
	return fmt.Errorf("%s:%d: %w", q.Path, q.Line, err)
}

func (r *run) scores(name string, losses [][2]float64, rolling []float64, out *Report,
	s int) (*metrics.Scores, error) {
	if m, ok := rollingMetrics[name]; ok {
		sums := make([][2]float64, len(rolling))
		for i, nll := range rolling {
			sums[i] = [2]float64{nll, float64(m.units(r.Questions[i].Plain))}
		}
		return metrics.Ratios(name, sums, m.value)
	}
	switch name {
	case LossMetric:
		return metrics.Ratios(name, losses, func(x float64) float64 { return x })
	case PerplexityMetric:
		return metrics.Ratios(name, losses, math.Exp)
	case EndOfTurnMetric:
		values := make([]float64, len(r.Questions))
		for i, a := range out.answers[s] {
			if a.Stopped {
				values[i] = 100
			}
		}
		return metrics.Means(name, values)
	}
	samples := make([]metrics.Sample, len(r.Questions))
	for i := range samples {
		samples[i] = metrics.Sample{Prediction: out.answers[s][i].Text, References: []string{r.Questions[i].Answer}}
	}
	return metrics.Compute(name, samples, r.Texts)
}

func (r *run) scorer(system int) Scorer {
	return OnEngine(r.place, func(reqs ...engine.Request) []engine.Request { return r.with(system, reqs[0]) })
}

// loss returns the negative log-likelihood of a sample's labels, and how many there are.
func (r *run) loss(ctx context.Context, system int, s *data.Sample) (sum [2]float64, err error) {
	logprobs, err := r.scorer(system)(ctx, s.IDs)
	if err != nil {
		return sum, err
	}
	if len(logprobs) != len(s.IDs)-1 {
		return sum, fmt.Errorf("scored %d of %d tokens", len(logprobs), len(s.IDs)-1)
	}
	for i, v := range logprobs {
		if s.Labels[i+1] != data.Ignore {
			sum[0] -= v
			sum[1]++
		}
	}
	return sum, nil
}

// ErrLong says that a prompt leaves no room for an answer.
var ErrLong = errors.New("the prompt leaves no room for an answer: raise --max-context, or leave the sample out")

// answer generates one.
func (r *run) answer(ctx context.Context, system int, prompt []int32, most int) (a Answer, err error) {
	if len(prompt) == 0 {
		return a, errors.New("the sample is plain text, without a prompt: only loss and perplexity can be computed")
	}
	if len(prompt) >= r.Context {
		return a, fmt.Errorf("%w (%d tokens of %d)", ErrLong, len(prompt), r.Context)
	}
	tok := r.Model.Tokenizer
	streams, err := r.place.Submit(ctx, r.with(system, engine.Request{
		ID: "eval", Prompt: slices.Clone(prompt), MaxTokens: min(most, r.Context-len(prompt)), StopIDs: tok.StopIDs(),
		PromptLogprobs: -1, Sampling: r.Sampling,
	})...)
	if err != nil {
		return a, err
	}
	defer streams[0].Cancel()
	var text strings.Builder
	detok := tok.NewStream(prompt, true)
	for ev := range streams[0].Events() {
		if ev.Token >= 0 {
			a.Tokens++
			if ev.Finish != engine.Stop {
				text.WriteString(detok.Push(ev.Token))
			}
			if answer, ok := stopped(text.String(), r.Stops); ok {
				a.Text, a.Stopped = answer, true
				return a, nil
			}
		}
		switch ev.Finish {
		case engine.Stop:
			a.Stopped = true
		case engine.Cancelled:
			return a, cmp.Or(context.Cause(ctx), errors.New("interrupted"))
		case engine.Failed:
			return a, ev.Err
		}
	}
	text.WriteString(detok.Flush())
	answer, ok := stopped(text.String(), r.Stops)
	a.Text, a.Stopped = answer, a.Stopped || ok
	return a, nil
}

// stopped returns the text before the first of the stops, and whether there is one.
func stopped(text string, stops []string) (before string, found bool) {
	end := len(text)
	for _, stop := range stops {
		if i := strings.Index(text[:end], stop); i >= 0 {
			end, found = i, true
		}
	}
	return text[:end], found
}

// check applies the rules.
func (r *run) check(ctx context.Context, out *Report) error {
	tests := r.Checks.Tests
	answers := make([][]Answer, len(r.Systems))
	for s := range answers {
		answers[s] = make([]Answer, len(tests))
	}
	prompts := make([][]int32, len(tests))
	for i, t := range tests {
		turns := make([][2]string, len(t.Messages))
		for k, m := range t.Messages {
			turns[k] = [2]string{m.Role, m.Content}
		}
		var err error
		if prompts[i], _, err = r.Model.Ask(turns, t.Tools); err != nil {
			return fmt.Errorf("the test of line %d: %w", t.Line, err)
		}
	}
	if err := r.each(ctx, len(tests), func(ctx context.Context, s, i int) (err error) {
		if answers[s][i], err = r.answer(ctx, s, prompts[i], cmp.Or(tests[i].MaxTokens, r.MaxTokens)); err != nil {
			return fmt.Errorf("the test of line %d: %w", tests[i].Line, err)
		}
		return nil
	}); err != nil {
		return err
	}
	for s, system := range r.Systems {
		for i, t := range tests {
			for k := range t.Rules {
				c := CheckResult{Adapter: system.Name, Model: system.Model, Test: t.Name}
				c.judge(&t.Rules[k], &answers[s][i], 0, t.Tools)
				out.Checks = append(out.Checks, c)
			}
		}
		for k := range r.Checks.Every {
			if len(r.Questions) == 0 {
				return fmt.Errorf("the rule of line %d is for every answer to a data set: give --data, or put it "+
					"under a test", r.Checks.Every[k].Line)
			}
			c := CheckResult{Adapter: system.Name, Model: system.Model}
			for i := range r.Questions {
				q := &r.Questions[i]
				c.judge(&r.Checks.Every[k], &out.answers[s][i], q.Line, plain(q.Tools))
			}
			out.Checks = append(out.Checks, c)
		}
	}
	return nil
}

// judge adds the rule's verdict on an answer.
func (c *CheckResult) judge(rule *checks.Rule, a *Answer, line int, tools []any) {
	finish := "length"
	if a.Stopped {
		finish = "stop"
	}
	ok, why := rule.Check(checks.Answer{Text: a.Text, Finish: finish, Tools: tools})
	c.Type, c.Value = rule.Type, rule.Value
	if c.N++; !ok {
		if c.Failed++; c.Failed == 1 {
			c.Reason, c.Answer, c.Line = why, a.Text, line
		}
	}
	c.Pass = c.Failed == 0
}

// plain turns a template's values into those of encoding/json.
func plain(tools []any) (out []any) {
	if text, err := json.Marshal(tools); err == nil && json.Unmarshal(text, &out) == nil {
		return out
	}
	return nil
}

// Load reads the samples to measure: files as data.Questions does, and of a dataset folder the test side, or without
// one the validation side.
func Load(paths []string, m data.Model, o data.Options) ([]data.Question, error) {
	paths = slices.Clone(paths)
	for i, path := range paths {
		sides, err := data.SidesOf(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if paths[i] = cmp.Or(sides["test"], sides["validation"]); paths[i] == "" {
			return nil, fmt.Errorf("%s: the dataset has no test and no validation side to measure on", path)
		}
	}
	questions, _, err := data.Questions(paths, m, o)
	return questions, err
}

// CheckOverlap returns an error that wraps data.ErrOverlap if samples are in a list of those that were trained on, as
// data.Dataset.WriteSamples writes it.
func CheckOverlap(questions []data.Question, list string) (err error) {
	f, err := os.Open(list)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var held data.HeldOut
	for i := range questions {
		q := &questions[i]
		held.Add(&q.Sample, data.Place{Path: q.Path, Line: q.Line})
	}
	if err := held.CompareSamples(f); err != nil {
		return fmt.Errorf("%s: %w", list, err)
	}
	return held.Err()
}
