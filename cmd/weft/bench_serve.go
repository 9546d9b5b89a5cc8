package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/internal/load"
)

// serveLoad holds the flags of `weft bench serve` that are not load.Config's own.
type serveLoad struct {
	load.Config
	trace   string
	scale   load.Scaling
	goodput []string
	timeout time.Duration
	keyFile string
	// duration sets Requests, with Rate.
	duration time.Duration
}

func benchServeCommand() *cobra.Command {
	var f serveLoad
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "serve --url URL",
		Short: "Load any OpenAI-compatible server and print TTFT, TPOT, ITL and goodput",
		Long: `Load any OpenAI-compatible server and measure what its clients feel, in vLLM's terms:

  TTFT     from when a request is due to its first token
  TPOT     time per output token after the first, one value a request
  ITL      between successive chunks of an answer
  goodput  requests a second that met every --goodput goal

Requests come from --concurrency clients in a closed loop, or with --rate as a Poisson process, or with --trace at the times of a
trace in the format of the Azure LLM inference traces (CSV: TIMESTAMP, ContextTokens, GeneratedTokens).

The workload of S-LoRA over the adapters that the server lists, two minutes of it:

  weft bench serve --url URL --adapters 100 --zipf 1 --rate 2 --cv 1 --duration 2m --prompt 8 --prompt-max 512 --gen 8 --gen-max 512`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.URL == "" {
				return usagef("--url is needed: http://host:port of an OpenAI-compatible server")
			}
			goal, err := parseGoal(f.goodput)
			if err != nil {
				return err
			}
			if err := f.openTrace(); err != nil {
				return err
			}
			if err := f.readKeys(); err != nil {
				return err
			}
			if f.duration > 0 {
				if f.Rate <= 0 {
					return usagef("--duration needs --rate")
				}
				f.Requests = max(int(f.Rate*f.duration.Seconds()), 1)
			}
			if !cmd.Flags().Changed("concurrency") && (f.Rate > 0 || f.Trace != nil) {
				f.Concurrency = 0
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			ctx, cancel := context.WithTimeout(ctx, f.timeout)
			defer cancel()
			outcomes, took, err := load.Run(ctx, f.Config)
			if err != nil {
				if errors.Is(err, load.ErrConfig) {
					return usageError{err}
				}
				return err
			}
			r := load.Summarize(outcomes, took, goal)
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), r)
			} else {
				printLoad(cmd.OutOrStdout(), &r)
			}
			if err == nil && r.Failed > 0 {
				err = fmt.Errorf("%d of %d requests failed, the first: %s", r.Failed, r.Requests, r.FirstError)
			}
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.URL, "url", "", "base `URL` of the server, with or without /v1")
	fl.StringVar(&f.Model, "model", "", "model `name` to ask for (default: the first that the server lists)")
	fl.StringArrayVar(&f.Keys, "api-key", nil,
		"API `key`; several are used in turn, by the clients of a closed loop or the requests of an open one")
	fl.StringVar(&f.keyFile, "api-keys", "", "`file` with an API key a line")
	fl.IntVar(&f.Mix.Adapters, "adapters", 0,
		"ask for so many different adapters: those that /v1/models lists with a parent, or see --adapter-names")
	fl.StringVar(&f.Mix.Names, "adapter-names", "",
		"`pattern` of the adapters' names, with %d for the number from 0 on")
	fl.Float64Var(&f.Mix.Zipf, "zipf", 1, "exponent of the adapters' popularity; 0: all are as popular")
	fl.BoolVar(&f.Mix.RoundRobin, "round-robin", false, "ask for one adapter after the other instead of at random")
	fl.BoolVar(&f.Mix.LlamaCpp, "llama-lora", false,
		"choose adapters as llama-server wants it, by their number in the field lora")
	fl.BoolVar(&f.Completions, "completions", false, "use /v1/completions instead of /v1/chat/completions")
	fl.IntVar(&f.Requests, "requests", 64, "requests in all")
	fl.IntVar(&f.Concurrency, "concurrency", 16, "requests at once")
	fl.Float64Var(&f.Rate, "rate", 0, "arrivals a second, as a Poisson process")
	fl.Float64Var(&f.CV, "cv", 1,
		"coefficient of variation of the times between arrivals: 1 is a Poisson process, more comes in bursts")
	fl.DurationVar(&f.duration, "duration", 0,
		"with --rate: as many requests as arrive in this time, instead of --requests")
	fl.IntVar(&f.Prompt, "prompt", 64, "prompt tokens, those of the chat template included")
	fl.IntVar(&f.PromptMax, "prompt-max", 0, "longest prompt: lengths are uniform from --prompt on")
	fl.IntVar(&f.Gen, "gen", 128, "tokens of each answer")
	fl.IntVar(&f.GenMax, "gen-max", 0, "longest answer: lengths are uniform from --gen on")
	fl.IntVar(&f.Common, "common", 0, "of the prompt, tokens of a beginning that all requests share")
	fl.StringVar(&f.trace, "trace", "", "CSV `file` of arrivals and lengths")
	fl.Float64Var(&f.scale.Prompt, "trace-prompt", 1, "factor on the trace's prompt lengths")
	fl.Float64Var(&f.scale.Gen, "trace-gen", 1, "factor on the trace's answer lengths")
	fl.Float64Var(&f.scale.Speed, "trace-speed", 1, "factor on the speed at which the trace's requests arrive")
	fl.StringSliceVar(&f.goodput, "goodput", nil,
		"goals a request must meet to count, in milliseconds: ttft:500,tpot:50,e2e:5000")
	fl.Uint64Var(&f.Seed, "seed", 1,
		"seed of prompts and arrivals; the same prompts again may come out of a prefix cache")
	fl.BoolVar(&f.StopAtEOS, "stop-at-eos", false, "let answers end where the model ends them, not at --gen")
	fl.DurationVar(&f.timeout, "timeout", 10*time.Minute, "bound of the whole run")
	fl.BoolVar(&asJSON, "json", false, "print one JSON document")
	return cmd
}

func (f *serveLoad) openTrace() error {
	if f.trace == "" {
		return nil
	}
	file, err := os.Open(f.trace)
	if err != nil {
		return usagef("--trace: %v", err)
	}
	defer file.Close()
	f.scale.MinPrompt = 8
	if f.Trace, err = load.ReadTrace(file, f.scale, f.Requests); err != nil {
		return usagef("--trace %s: %v", f.trace, err)
	}
	return nil
}

// readKeys adds the lines of --api-keys.
func (f *serveLoad) readKeys() error {
	if f.keyFile == "" {
		return nil
	}
	text, err := os.ReadFile(f.keyFile)
	if err != nil {
		return usagef("--api-keys: %v", err)
	}
	f.Keys = append(f.Keys, strings.Fields(string(text))...)
	return nil
}

// parseGoal reads ttft:500, tpot:50 and e2e:5000 in milliseconds, vLLM's --goodput.
func parseGoal(parts []string) (load.Goal, error) {
	var g load.Goal
	for _, p := range parts {
		name, value, ok := strings.Cut(strings.TrimSpace(p), ":")
		d, err := time.ParseDuration(value + "ms")
		to := map[string]*time.Duration{"ttft": &g.TTFT, "tpot": &g.TPOT, "e2e": &g.Latency, "e2el": &g.Latency}[name]
		if !ok || err != nil || d <= 0 || to == nil {
			return g, usagef("--goodput %q: write ttft:MS, tpot:MS or e2e:MS", p)
		}
		*to = d
	}
	return g, nil
}

func printLoad(w io.Writer, r *load.Report) {
	fmt.Fprintf(w, "%d requests, %d failed, %.2f s: %.2f requests/s, goodput %.2f requests/s (%.0f %% good)\n",
		r.Requests, r.Failed, r.Seconds, r.RequestsPerSecond, r.Goodput, 100*r.GoodFraction)
	fmt.Fprintf(w, "tokens: %d in (%d cached), %d out; %.1f out/s (%.1f steady), %.1f in and out/s\n",
		r.PromptTokens, r.CachedTokens, r.OutputTokens, r.OutputPerSecond, r.SteadyPerSecond, r.TokensPerSecond)
	if r.ShortAnswers > 0 {
		fmt.Fprintf(w, "%d answers were shorter than asked for\n", r.ShortAnswers)
	}
	fmt.Fprintf(w, "%-6s %10s %10s %10s %10s %10s\n", "ms", "mean", "median", "p90", "p99", "max")
	for _, row := range []struct {
		name string
		s    load.Spread
	}{{"TTFT", r.TTFT}, {"TPOT", r.TPOT}, {"ITL", r.ITL}, {"E2E", r.E2E}} {
		fmt.Fprintf(w, "%-6s %10.2f %10.2f %10.2f %10.2f %10.2f\n", row.name, row.s.Mean, row.s.Median, row.s.P90,
			row.s.P99, row.s.Max)
	}
	if r.Adapters > 0 {
		fmt.Fprintf(w, "%d different adapters were asked for\n", r.Adapters)
	}
	for i, k := range r.Keys {
		fmt.Fprintf(w,
			"key %d: %d requests, %d failed, %.1f out/s, TTFT p99 %.2f ms, TPOT p99 %.2f ms, E2E median %.2f, p99 "+
				"%.2f ms\n",
			i, k.Requests, k.Failed, k.OutputPerSecond, k.TTFT.P99, k.TPOT.P99, k.E2E.Median, k.E2E.P99)
	}
}
