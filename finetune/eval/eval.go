// Package eval measures a model on texts: negative log-likelihood and perplexity.
package eval

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"weft/runtime/engine"
	"weft/runtime/sample"
)

// ErrTooShort says that a text has fewer than two tokens, so that nothing is predicted.
var ErrTooShort = errors.New("the text has fewer than two tokens: nothing to score")

// Scorer returns the natural log-probability of each token of ids but the first, given those before it: len(ids)-1
// values. ids holds at least two tokens, and belongs to the caller.
type Scorer func(ctx context.Context, ids []int32) ([]float64, error)

// Options are how a text is divided into windows. Windows do not overlap: the first token of each is only context.
type Options struct {
	Window     int // tokens in a window, at least 2
	MaxWindows int // 0: all
}

// Result is the result of a measurement.
type Result struct {
	MeanNLL    float64 `json:"mean_nll"`   // per scored token, in nats
	Perplexity float64 `json:"perplexity"` // e to the MeanNLL
	Tokens     int     `json:"tokens"`     // scored: all but the first of each window
	Windows    int     `json:"windows"`
	Seconds    float64 `json:"seconds"`
}

// Perplexity scores a text's tokens window by window. A last window of one token is left out. ErrTooShort, or what
// score returns.
func Perplexity(ctx context.Context, score Scorer, ids []int32, o Options) (*Result, error) {
	if o.Window < 2 || o.MaxWindows < 0 {
		return nil, fmt.Errorf("%d windows of %d tokens: at least 2 tokens, and 0 windows for all", o.MaxWindows,
			o.Window)
	}
	start := time.Now()
	r, nll := &Result{}, 0.0
	for window := range slices.Chunk(ids, o.Window) {
		if len(window) < 2 || o.MaxWindows > 0 && r.Windows == o.MaxWindows {
			break
		}
		logprobs, err := score(ctx, window)
		if err != nil {
			return nil, err
		}
		if len(logprobs) != len(window)-1 {
			return nil, fmt.Errorf("scored %d of %d tokens", len(logprobs), len(window)-1)
		}
		sum := 0.0
		for _, v := range logprobs {
			sum -= v
		}
		nll += sum
		r.Tokens += len(logprobs)
		r.Windows++
	}
	if r.Tokens == 0 {
		return nil, ErrTooShort
	}
	r.MeanNLL = nll / float64(r.Tokens)
	r.Perplexity, r.Seconds = math.Exp(r.MeanNLL), time.Since(start).Seconds()
	return r, nil
}

// Submitter is an engine, or its place for background work.
type Submitter interface {
	Submit(ctx context.Context, reqs ...engine.Request) ([]*engine.Stream, error)
}

// OnEngine scores with an engine's model. with sets the adapter of each request; nil is the base model.
func OnEngine(e Submitter, with func(reqs ...engine.Request) []engine.Request) Scorer {
	return func(ctx context.Context, ids []int32) ([]float64, error) {
		if err := ctx.Err(); err != nil { // a short text may be scored before the engine sees it
			return nil, err
		}
		reqs := []engine.Request{{
			ID: "score", Prompt: slices.Clone(ids), PromptLogprobs: 0,
			Sampling: sample.Params{TopP: 1, RepetitionPenalty: 1, Logprobs: -1},
		}}
		if with != nil {
			reqs = with(reqs...)
		}
		streams, err := e.Submit(ctx, reqs...)
		if err != nil {
			return nil, err
		}
		var out []float64
		for ev := range streams[0].Events() {
			for _, lp := range ev.PromptLogprobs[min(1, len(ev.PromptLogprobs)):] {
				out = append(out, lp.Logprob)
			}
			switch ev.Finish {
			case engine.Failed:
				return nil, ev.Err
			case engine.Cancelled:
				return nil, errors.New("interrupted")
			}
		}
		return out, nil
	}
}
