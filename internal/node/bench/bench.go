// Package bench measures prefill and decode of a model, and the time of each operation of a step compared with the
// machine's limit.
package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"weft/internal/limits"
	"weft/internal/node"
	"weft/runtime/device"
	"weft/runtime/engine"
	"weft/runtime/sample"
)

// ErrShape says that the measurement needs more tokens than the model's context.
var ErrShape = errors.New("bench")

// bandwidthTime is how long the memory bandwidth is measured.
const bandwidthTime = 300 * time.Millisecond

// Spread is the median of several runs, with the extremes beside it.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func spreadOf(xs []float64) Spread {
	s := slices.Sorted(slices.Values(xs))
	return Spread{Median: s[len(s)/2], Min: s[0], Max: s[len(s)-1]}
}

// Result is the result of Run. Rates are tokens per second over all streams.
type Result struct {
	Model              string           `json:"model"`
	Device             string           `json:"device"`
	Prompt             int              `json:"prompt"`
	Gen                int              `json:"gen"`
	Depth              int              `json:"depth"` // tokens in the cache before the first generated one
	Streams            int              `json:"streams"`
	Runs               int              `json:"runs"`
	Prefill            float64          `json:"prefill_tokens_per_second"`
	Decode             float64          `json:"decode_tokens_per_second"`
	PrefillSpread      Spread           `json:"prefill_spread"`
	DecodeSpread       Spread           `json:"decode_spread"`
	WeightBytes        int64            `json:"weight_bytes"`
	LayoutBytes        map[string]int64 `json:"weight_bytes_by_layout"`
	BytesPerToken      int64            `json:"bytes_per_token"` // weights read by one decode step of one stream
	ReadBandwidth      float64          `json:"read_bandwidth_bytes_per_second"`
	BandwidthFraction  float64          `json:"decode_share_of_bandwidth"` // decode steps/s * bytes / bandwidth
	FirstTokenSeconds  float64          `json:"start_to_first_token_seconds"`
	LoadSeconds        float64          `json:"load_seconds"`
	KVBytesPerPosition int64            `json:"kv_bytes_per_position"`
}

// Shape says what Run measures: prefill of Prompt tokens and, separately, decoding of Gen tokens after Depth, Runs
// times, in Streams sequences at once. All are at least 1, Gen at least 2.
type Shape struct{ Prompt, Gen, Depth, Runs, Streams int }

// Run measures m, which must have no prefix cache; start is when loading it began, threads are those of the device.
func Run(ctx context.Context, m *node.Model, start time.Time, b Shape, threads int) (*Result, error) {
	r := &Result{
		Model: m.Name, Device: m.Device.Describe(), Prompt: b.Prompt, Gen: b.Gen, Depth: b.Depth, Streams: b.Streams,
		Runs:        b.Runs,
		LoadSeconds: time.Since(start).Seconds(), WeightBytes: m.Device.InUse(device.Weights),
		LayoutBytes: m.Model.Bytes(),
	}
	if n := max(b.Prompt+1, b.Depth+b.Gen); n > m.Context {
		return nil, fmt.Errorf("%w: %d tokens exceed the context of %d", ErrShape, n, m.Context)
	}
	if _, _, err := generate(ctx, m, 1, 2, 1); err != nil {
		return nil, err
	}
	r.FirstTokenSeconds = time.Since(start).Seconds()
	var prefill, decode []float64
	for i := range b.Runs + 1 {
		p, _, err := generate(ctx, m, b.Prompt, 1, b.Streams)
		if err != nil {
			return nil, err
		}
		_, d, err := generate(ctx, m, b.Depth, b.Gen, b.Streams)
		if err != nil {
			return nil, err
		}
		if i > 0 { // the first run warms up
			prefill, decode = append(prefill, p), append(decode, d)
		}
	}
	r.PrefillSpread, r.DecodeSpread = spreadOf(prefill), spreadOf(decode)
	r.Prefill, r.Decode = r.PrefillSpread.Median, r.DecodeSpread.Median
	r.KVBytesPerPosition = m.KV.PageBytes() / int64(m.KV.PageLen)
	r.BytesPerToken = r.WeightBytes - m.Model.GatheredBytes()
	if bw := ReadBandwidth(threads, limits.Own()); bw > 0 {
		r.ReadBandwidth = bw
		r.BandwidthFraction = r.Decode / float64(b.Streams) * float64(r.BytesPerToken) / bw
	}
	return r, nil
}

// generate returns prefill and decode tokens per second over all streams.
func generate(ctx context.Context, m *node.Model, prompt, gen, streams int) (prefill, decode float64, err error) {
	reqs := make([]engine.Request, streams)
	vocab := int32(min(m.Tokenizer.VocabSize(), m.Model.Config().Vocab))
	for i := range reqs {
		ids := make([]int32, prompt)
		for j := range ids {
			ids[j] = int32(1000+(j*7919+i*104729)%20000) % vocab
		}
		reqs[i] = engine.Request{ID: fmt.Sprint("bench-", i), Prompt: ids, MaxTokens: gen, PromptLogprobs: -1,
			Sampling: sample.Params{TopP: 1, RepetitionPenalty: 1, Logprobs: -1}}
	}
	start := time.Now()
	out, err := m.Engine.Submit(ctx, reqs...)
	if err != nil {
		return 0, 0, err
	}
	var last, first time.Time
	for _, st := range out {
		for ev := range st.Events() {
			switch ev.Finish {
			case engine.Failed:
				return 0, 0, ev.Err
			case engine.Cancelled:
				return 0, 0, errors.New("interrupted")
			case engine.Length, engine.Stop:
				if ev.Times.FirstToken.After(first) {
					first = ev.Times.FirstToken
				}
				if ev.Times.Ended.After(last) {
					last = ev.Times.Ended
				}
			}
		}
	}
	prefill = float64(prompt*streams) / first.Sub(start).Seconds()
	decode = float64((gen-1)*streams) / last.Sub(first).Seconds()
	return prefill, decode, nil
}
