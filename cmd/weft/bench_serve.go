package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"weft/internal/interrupt"
	"weft/internal/load"
	"weft/internal/settings"
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
		Short: "Send a load to any OpenAI-compatible server and print TTFT, TPOT, ITL and goodput",
		Long: `Send a load to any OpenAI-compatible server and measure, in vLLM's terms, at the client:

  TTFT     time from when a request is due to its first token
  TPOT     time per output token after the first, one value per request
  ITL      time between successive chunks of an answer
  goodput  requests per second that met every --goodput goal

Requests come from --concurrency clients in a closed loop, or with --rate as a Poisson process, or with --trace at the
times of a trace in the format of the Azure LLM inference traces (CSV: TIMESTAMP, ContextTokens, GeneratedTokens).

The second example is two minutes of the workload of S-LoRA over the adapters that the server lists.`,
		Example: "  weft bench serve --url http://127.0.0.1:8000 --concurrency 8 --requests 200\n" +
			"  weft bench serve --url http://127.0.0.1:8000 --adapters 100 --zipf 1 --rate 2 --cv 1 --duration 2m " +
			"\\\n" +
			"    --prompt 8 --prompt-max 512 --gen 8 --gen-max 512",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.URL == "" {
				return usagef("--url is empty: give http://HOST:PORT of an OpenAI-compatible server")
			}
			goal, err := load.ParseGoal(f.goodput)
			if err != nil {
				return usagef("--goodput %v", err)
			}
			if err := f.ReadFiles(f.trace, f.scale, f.keyFile); err != nil {
				return usageError{err}
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
			ctx, stop := interrupt.Until(cmd.Context())
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
				r.WriteText(cmd.OutOrStdout())
			}
			if err == nil && r.Failed > 0 {
				err = fmt.Errorf("%d of %d requests failed, the first: %s", r.Failed, r.Requests, r.FirstError)
			}
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.URL, "url", "", "base `URL` of the server, with or without /v1")
	fl.StringVar(&f.Model, "model", "", "`name` of the model to request (default: the first that the server lists)")
	fl.StringArrayVar(&f.Keys, "api-key", nil,
		"API `key`; may be repeated, then the clients of a closed loop or the requests of an open one use them in turn")
	fl.StringVar(&f.keyFile, "api-keys", "", "`file` with one API key per line")
	fl.IntVar(&f.Choice.Adapters, "adapters", 0,
		"number of adapters to request: of those that /v1/models lists with a parent, or see --adapter-names")
	fl.StringVar(&f.Choice.Names, "adapter-names", "",
		"`pattern` of the adapters' names; %d is the index, from 0")
	fl.Float64Var(&f.Choice.Zipf, "zipf", 1,
		"`exponent` of the Zipf distribution of the adapters; 0 is a uniform distribution")
	fl.BoolVar(&f.Choice.RoundRobin, "round-robin", false, "request the adapters in turn instead of at random")
	fl.BoolVar(&f.Choice.LlamaCpp, "llama-lora", false,
		"name adapters by index in the field lora, as llama-server expects")
	fl.BoolVar(&f.Completions, "completions", false, "use /v1/completions instead of /v1/chat/completions")
	fl.IntVar(&f.Requests, "requests", 64, "number of requests")
	fl.IntVar(&f.Concurrency, "concurrency", 16, "requests at the same time")
	fl.Float64Var(&f.Rate, "rate", 0, "arrivals per second, as a Poisson process")
	fl.Float64Var(&f.CV, "cv", 1,
		"coefficient of variation of the times between arrivals: 1 is a Poisson process, above 1 arrivals are bursty")
	fl.DurationVar(&f.duration, "duration", 0,
		"with --rate: send requests for this time, instead of --requests")
	fl.IntVar(&f.Prompt, "prompt", 64, "prompt tokens, including those of the chat template")
	fl.IntVar(&f.PromptMax, "prompt-max", 0, "longest prompt in tokens: lengths are uniform from --prompt to this")
	fl.IntVar(&f.Gen, "gen", 128, "generated tokens of each answer")
	fl.IntVar(&f.GenMax, "gen-max", 0, "longest answer in tokens: lengths are uniform from --gen to this")
	fl.IntVar(&f.Common, "common", 0, "prompt tokens that are a common prefix of all requests")
	fl.StringVar(&f.trace, "trace", "", "CSV `file` of arrival times and lengths")
	fl.Float64Var(&f.scale.Prompt, "trace-prompt", 1, "`factor` by which the trace's prompt lengths are multiplied")
	fl.Float64Var(&f.scale.Gen, "trace-gen", 1, "`factor` by which the trace's answer lengths are multiplied")
	fl.Float64Var(&f.scale.Speed, "trace-speed", 1, "`factor` by which the trace's request rate is multiplied")
	settings.Strings(fl, &f.goodput, "goodput", nil,
		"`goals` that a request must meet to count as good, in milliseconds, e.g. ttft:500,tpot:50,e2e:5000")
	fl.Uint64Var(&f.Seed, "seed", 1,
		"seed of prompts and arrivals; repeated prompts may hit the server's prefix cache")
	fl.BoolVar(&f.StopAtEOS, "stop-at-eos", false, "let the model end answers before --gen tokens")
	fl.DurationVar(&f.timeout, "timeout", 10*time.Minute, "time limit of the whole run")
	addJSONFlag(fl, &asJSON)
	return cmd
}
