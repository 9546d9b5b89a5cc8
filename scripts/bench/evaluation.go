package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"weft/finetune/data"
	"weft/finetune/eval"
	"weft/internal/load"
	"weft/internal/node"
	"weft/runtime/engine"
	"weft/runtime/sample"
)

// evaluation measures requests beside an evaluation in the same process, and how fast evaluations are.
func (s *suite) evaluation(ctx context.Context) error {
	var errs []error
	if s.wants("evaluation beside at half") || s.wants("evaluation beside at a tenth") {
		errs = append(errs, s.besideEvaluation(ctx))
	}
	if s.wants("evaluation speed") {
		errs = append(errs, s.evaluationSpeed(ctx))
	}
	return errors.Join(errs...)
}

// questions are prompts of random tokens.
func questions(m *node.Model, n, prompt int, seed uint64) []data.Question {
	rng := rand.New(rand.NewPCG(seed, 1))
	out := make([]data.Question, n)
	for i := range out {
		ids := make([]int32, prompt)
		for j := range ids {
			ids[j] = int32(1000 + rng.IntN(20000))
		}
		out[i] = data.Question{Path: "random", Line: i + 1, Prompt: ids, Answer: "an answer to compare with"}
	}
	return out
}

// evaluate is an evaluation of m with the systems over n prompts of 64 tokens, with answers of up to 64.
func evaluate(m *node.Model, systems []eval.System, n int, seed uint64) eval.Config {
	return eval.Config{Engine: m.Engine, Model: data.Model{Tokenizer: m.Tokenizer, Template: m.Template},
		Context: m.Context, Parallel: 16, Systems: systems, Questions: questions(m, n, 64, seed),
		Metrics: []string{"rougeL", "chrf"}, MaxTokens: 64, Resamples: 1000, Seed: seed,
		Sampling: sample.Params{TopP: 1, RepetitionPenalty: 1, Logprobs: -1}}
}

// besideEvaluation sends requests to a server at two rates, alone and while an evaluation runs in its process.
func (s *suite) besideEvaluation(ctx context.Context) (err error) {
	c := node.Config{Model: node.DefaultModelConfig()}
	c.Model.Ref, c.Model.Threads, c.Listen, c.MaxBody = s.model(small+"Q4_1"), s.threads, "127.0.0.1:0", 4<<20
	n, err := node.Open(ctx, c)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- n.Serve(serving) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended, n.Close())
	}()
	v := &served{url: n.URL()}
	full := load.Config{Requests: 64, Concurrency: 16, Prompt: 64, Gen: 64, Seed: 1}
	most, err := s.fireSelf(ctx, v, full)
	if err != nil {
		return err
	}
	for _, rate := range []struct {
		name     string
		of       float64
		requests int
	}{{"half", 0.5, 80}, {"a tenth", 0.1, 30}} {
		if !s.wants("evaluation beside at %s", rate.name) {
			continue
		}
		c := load.Config{Requests: rate.requests, Rate: rate.of * most.RequestsPerSecond, Prompt: 64, Gen: 64}
		note := "baseline: without the evaluation"
		perToken := row{what: "p99 time per token beside an evaluation, at " + rate.name + " of the load",
			unit: "ms", less: true, goal: 1.15, note: note}
		first := row{what: "p99 time to the first token, added by the evaluation, at " + rate.name + " of the load",
			unit: "ms", less: true, limit: 30}
		mean := row{what: "mean time to the first token, added by the evaluation, at " + rate.name + " of the load",
			unit: "ms", less: true, limit: 30}
		speed := row{what: "the evaluation meanwhile, at " + rate.name + " of the load", unit: "tokens/s"}
		for round := range s.rounds {
			c.Seed = uint64(round+1) * 1000 // both have the same arrivals
			alone, err := s.fireSelf(ctx, v, c)
			if err != nil {
				return err
			}
			with, speedNow, err := s.whileEvaluating(ctx, n.Model, v, c)
			if err != nil {
				return err
			}
			perToken.weft = append(perToken.weft, with.TPOT.P99)
			perToken.baseline = append(perToken.baseline, alone.TPOT.P99)
			first.weft = append(first.weft, with.TTFT.P99-alone.TTFT.P99)
			mean.weft = append(mean.weft, with.TTFT.Mean-alone.TTFT.Mean)
			speed.weft = append(speed.weft, speedNow)
		}
		for _, r := range []row{perToken, first, mean, speed} {
			s.add(r)
		}
	}
	return nil
}

// fireSelf is fire of the server in this process.
func (s *suite) fireSelf(ctx context.Context, v *served, c load.Config) (load.Report, error) {
	c.URL = v.url
	out, took, err := load.Run(ctx, c)
	if err != nil {
		return load.Report{}, err
	}
	r := load.Summarize(out, took, load.Goal{})
	if r.Failed > 0 {
		err = fmt.Errorf("%d requests failed: %s", r.Failed, r.FirstError)
	}
	return r, err
}

// whileEvaluating is fireSelf while evaluations follow each other; it returns their tokens per second too.
func (s *suite) whileEvaluating(ctx context.Context, m *node.Model, v *served, c load.Config) (r load.Report,
	rate float64, err error) {
	evaluating, stop := context.WithCancel(ctx)
	over := make(chan error, 1)
	go func() {
		for seed := c.Seed; ; seed++ {
			if _, err := eval.Run(evaluating, evaluate(m, []eval.System{{}}, 64, seed)); err != nil {
				if evaluating.Err() != nil {
					err = nil
				}
				over <- err
				return
			}
		}
	}()
	time.Sleep(2 * time.Second)
	before, began := m.Engine.Stats().Background.Tokens, time.Now()
	r, err = s.fireSelf(ctx, v, c)
	rate = float64(m.Engine.Stats().Background.Tokens-before) / time.Since(began).Seconds()
	stop()
	return r, rate, errors.Join(err, <-over)
}

// evaluationSpeed measures an evaluation with 16 adapters beside one with a single adapter and as many sequences, and
// one of the base model beside the same sequences given to the engine.
func (s *suite) evaluationSpeed(ctx context.Context) (err error) {
	folders, err := s.large(small+"Q4_1", 16)
	if err != nil {
		return err
	}
	var tokens atomic.Int64
	c := node.DefaultModelConfig()
	c.Ref, c.Threads, c.Adapters, c.PrefixCache = s.model(small+"Q4_1"), s.threads, folders, false
	c.OnStep = func(i engine.StepInfo) { tokens.Add(int64(i.Tokens)) }
	m, err := node.OpenModel(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	systems := make([]eval.System, len(folders))
	for i := range systems {
		systems[i] = eval.System{Name: folders[i], With: func(r ...engine.Request) []engine.Request {
			return m.With(i, r...)
		}}
	}
	rate := func(work func() error) (float64, error) {
		before, began := tokens.Load(), time.Now()
		err := work()
		return float64(tokens.Load()-before) / time.Since(began).Seconds(), err
	}
	many := row{what: "an evaluation with 16 adapters, 16 streams", unit: "tokens/s", goal: 0.55,
		note: "baseline: with one adapter"}
	plain := row{what: "an evaluation of the base model, 16 streams", unit: "tokens/s", goal: 0.95,
		note: "baseline: the engine, the same sequences"}
	for round := range s.rounds {
		seed := uint64(round + 1)
		for _, pair := range []struct {
			of             *row
			weft, baseline func() error
		}{
			{&many, func() error { _, err := eval.Run(ctx, evaluate(m, systems, 4, seed)); return err },
				func() error { _, err := eval.Run(ctx, evaluate(m, systems[:1], 64, seed)); return err }},
			{&plain, func() error { _, err := eval.Run(ctx, evaluate(m, []eval.System{{}}, 64, seed)); return err },
				func() error { return generateAll(ctx, m, questions(m, 64, 64, seed)) }},
		} {
			a, err := rate(pair.weft)
			if err != nil {
				return err
			}
			b, err := rate(pair.baseline)
			if err != nil {
				return err
			}
			pair.of.weft, pair.of.baseline = append(pair.of.weft, a), append(pair.of.baseline, b)
		}
	}
	s.add(many)
	s.add(plain)
	return nil
}

// generateAll submits the prompts to the engine, 16 at a time, and reads the answers as tokens.
func generateAll(ctx context.Context, m *node.Model, list []data.Question) error {
	var next atomic.Int64
	errs := make(chan error, 16)
	for range 16 {
		go func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(list) {
					errs <- nil
					return
				}
				streams, err := m.Engine.Submit(ctx, engine.Request{ID: "bench", Prompt: list[i].Prompt, MaxTokens: 64,
					StopIDs: m.Tokenizer.StopIDs(), PromptLogprobs: -1,
					Sampling: sample.Params{TopP: 1, RepetitionPenalty: 1, Logprobs: -1}})
				if err != nil {
					errs <- err
					return
				}
				for ev := range streams[0].Events() {
					if ev.Finish == engine.Failed {
						errs <- ev.Err
						return
					}
				}
			}
		}()
	}
	var all error
	for range 16 {
		all = errors.Join(all, <-errs)
	}
	return all
}
