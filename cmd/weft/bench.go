package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"weft/runtime/device"
	"weft/runtime/engine"
	"weft/runtime/sample"
)

// spread is the median of several runs, with the extremes beside it.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func spreadOf(xs []float64) spread {
	s := slices.Sorted(slices.Values(xs))
	return spread{Median: s[len(s)/2], Min: s[0], Max: s[len(s)-1]}
}

type benchResult struct {
	Model              string           `json:"model"`
	Device             string           `json:"device"`
	Prompt             int              `json:"prompt"`
	Gen                int              `json:"gen"`
	Depth              int              `json:"depth"` // tokens in the cache before the first generated one
	Streams            int              `json:"streams"`
	Runs               int              `json:"runs"`
	Prefill            float64          `json:"prefill_tokens_per_second"`
	Decode             float64          `json:"decode_tokens_per_second"`
	PrefillSpread      spread           `json:"prefill_spread"`
	DecodeSpread       spread           `json:"decode_spread"`
	WeightBytes        int64            `json:"weight_bytes"`
	LayoutBytes        map[string]int64 `json:"weight_bytes_by_layout"`
	BytesPerToken      int64            `json:"bytes_per_token"` // weights read by one decode step of one stream
	ReadBandwidth      float64          `json:"read_bandwidth_bytes_per_second"`
	BandwidthShare     float64          `json:"decode_share_of_bandwidth"` // decode steps/s * bytes / bandwidth
	FirstTokenSeconds  float64          `json:"start_to_first_token_seconds"`
	LoadSeconds        float64          `json:"load_seconds"`
	KVBytesPerPosition int64            `json:"kv_bytes_per_position"`
}

func benchCommand() *cobra.Command {
	var f stackFlags
	var b benchShape
	var asJSON bool
	cmd := &cobra.Command{
		Use: "bench",
		Short: "Measure prefill and decode of a model; bench ops: each operation; bench serve: any " +
			"OpenAI-compatible server",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if b.prompt < 1 || b.gen < 2 || b.runs < 1 || b.streams < 1 || b.depth < 1 {
				return usagef("--prompt, --depth, --runs and --streams are at least 1, --gen at least 2")
			}
			f.PrefixCache = false
			start := time.Now()
			s, err := openStack(&f, nil)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			r, err := s.bench(ctx, start, b, numThreads(&f))
			if err = errors.Join(err, s.Close()); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "%s on %s, %d stream(s), median of %d runs (min to max)\n", r.Model, r.Device, r.Streams,
				r.Runs)
			fmt.Fprintf(w, "prefill of %4d tokens  %9.1f tokens/s  (%.1f to %.1f)\n", b.prompt, r.Prefill,
				r.PrefillSpread.Min, r.PrefillSpread.Max)
			fmt.Fprintf(w, "decode of  %4d tokens  %9.1f tokens/s  (%.1f to %.1f)\n", b.gen, r.Decode,
				r.DecodeSpread.Min, r.DecodeSpread.Max)
			fmt.Fprintf(w,
				"a decode step reads %s of weights; at %.1f GB/s measured that is %.0f %% of the bandwidth\n",
				formatBytes(r.BytesPerToken), r.ReadBandwidth/1e9, 100*r.BandwidthShare)
			fmt.Fprintf(w, "load %.2f s, start to first token %.2f s\n", r.LoadSeconds, r.FirstTokenSeconds)
			return nil
		},
	}
	f.register(cmd.Flags())
	cmd.Flags().IntVar(&b.prompt, "prompt", 512, "tokens of the prompt whose prefill is measured")
	cmd.Flags().IntVar(&b.gen, "gen", 128, "tokens of the answer whose decoding is measured")
	cmd.Flags().IntVar(&b.depth, "depth", 1, "tokens in front of the answer: decoding starts at this context")
	cmd.Flags().IntVar(&b.runs, "runs", 3, "measured runs after one warm-up")
	cmd.Flags().IntVar(&b.streams, "streams", 1, "sequences at once")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	cmd.AddCommand(benchOpsCommand(), benchServeCommand())
	return cmd
}

// benchShape is what a bench measures: prefill of a prompt, and decoding of an answer after depth tokens, each by
// itself.
type benchShape struct{ prompt, gen, depth, runs, streams int }

func (s *stack) bench(ctx context.Context, start time.Time, b benchShape, threads int) (*benchResult, error) {
	r := &benchResult{
		Model: s.Name, Device: s.Device.Describe(), Prompt: b.prompt, Gen: b.gen, Depth: b.depth, Streams: b.streams,
		Runs:        b.runs,
		LoadSeconds: time.Since(start).Seconds(), WeightBytes: s.Device.InUse(device.Weights),
		LayoutBytes: s.Model.Bytes(),
	}
	if n := max(b.prompt+1, b.depth+b.gen); n > s.Context {
		return nil, usagef("%d tokens exceed the context of %d", n, s.Context)
	}
	if _, _, err := s.benchRun(ctx, 1, 2, 1); err != nil {
		return nil, err
	}
	r.FirstTokenSeconds = time.Since(start).Seconds()
	var prefill, decode []float64
	for i := range b.runs + 1 {
		p, _, err := s.benchRun(ctx, b.prompt, 1, b.streams)
		if err != nil {
			return nil, err
		}
		_, d, err := s.benchRun(ctx, b.depth, b.gen, b.streams)
		if err != nil {
			return nil, err
		}
		if i > 0 { // the first run warms up
			prefill, decode = append(prefill, p), append(decode, d)
		}
	}
	r.PrefillSpread, r.DecodeSpread = spreadOf(prefill), spreadOf(decode)
	r.Prefill, r.Decode = r.PrefillSpread.Median, r.DecodeSpread.Median
	r.KVBytesPerPosition = s.kv.PageBytes() / int64(s.kv.PageLen)
	r.BytesPerToken = r.WeightBytes - s.Model.GatheredBytes()
	if bw := readBandwidth(threads); bw > 0 {
		r.ReadBandwidth = bw
		r.BandwidthShare = r.Decode / float64(b.streams) * float64(r.BytesPerToken) / bw
	}
	return r, nil
}

// benchRun returns prefill and decode tokens per second over all streams.
func (s *stack) benchRun(ctx context.Context, prompt, gen, streams int) (prefill, decode float64, err error) {
	reqs := make([]engine.Request, streams)
	vocab := int32(s.Tokenizer.VocabSize())
	for i := range reqs {
		ids := make([]int32, prompt)
		for j := range ids {
			ids[j] = int32(1000+(j*7919+i*104729)%20000) % vocab
		}
		reqs[i] = engine.Request{ID: fmt.Sprint("bench-", i), Prompt: ids, MaxTokens: gen, PromptLogprobs: -1,
			Sampling: sample.Params{TopP: 1, RepetitionPenalty: 1, Logprobs: -1}}
	}
	start := time.Now()
	out, err := s.Engine.Submit(ctx, reqs...)
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
