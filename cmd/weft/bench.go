package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"weft/internal/node"
	"weft/internal/node/bench"
)

func benchCommand() *cobra.Command {
	var f node.ModelConfig
	var b bench.Shape
	var asJSON bool
	cmd := &cobra.Command{
		Use: "bench",
		Short: "Measure prefill and decode of a model; bench ops: each operation; bench serve: any " +
			"OpenAI-compatible server",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if b.Prompt < 1 || b.Gen < 2 || b.Runs < 1 || b.Streams < 1 || b.Depth < 1 {
				return usagef("--prompt, --depth, --runs and --streams are at least 1, --gen at least 2")
			}
			f.PrefixCache = false
			start := time.Now()
			s, err := node.OpenModel(f)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			r, err := bench.Run(ctx, s, start, b, f.NumThreads())
			if err = errors.Join(err, s.Close()); err != nil {
				return benchUsage(err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "%s on %s, %d stream(s), median of %d runs (min to max)\n", r.Model, r.Device, r.Streams,
				r.Runs)
			fmt.Fprintf(w, "prefill of %4d tokens  %9.1f tokens/s  (%.1f to %.1f)\n", b.Prompt, r.Prefill,
				r.PrefillSpread.Min, r.PrefillSpread.Max)
			fmt.Fprintf(w, "decode of  %4d tokens  %9.1f tokens/s  (%.1f to %.1f)\n", b.Gen, r.Decode,
				r.DecodeSpread.Min, r.DecodeSpread.Max)
			fmt.Fprintf(w,
				"a decode step reads %s of weights; at %.1f GB/s measured that is %.0f %% of the bandwidth\n",
				formatBytes(r.BytesPerToken), r.ReadBandwidth/1e9, 100*r.BandwidthFraction)
			fmt.Fprintf(w, "load %.2f s, start to first token %.2f s\n", r.LoadSeconds, r.FirstTokenSeconds)
			return nil
		},
	}
	addModelFlags(cmd.Flags(), &f)
	cmd.Flags().IntVar(&b.Prompt, "prompt", 512, "tokens of the prompt whose prefill is measured")
	cmd.Flags().IntVar(&b.Gen, "gen", 128, "tokens of the answer whose decoding is measured")
	cmd.Flags().IntVar(&b.Depth, "depth", 1, "tokens in front of the answer: decoding starts at this context")
	cmd.Flags().IntVar(&b.Runs, "runs", 3, "measured runs after one warm-up")
	cmd.Flags().IntVar(&b.Streams, "streams", 1, "sequences at once")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	cmd.AddCommand(benchOpsCommand(), benchServeCommand())
	return cmd
}

// benchUsage makes a shape that does not fit the model a mistake in how the command was called.
func benchUsage(err error) error {
	if errors.Is(err, bench.ErrShape) {
		return usageError{err}
	}
	return err
}

func benchOpsCommand() *cobra.Command {
	var f node.ModelConfig
	var prompt, gen int
	var streams []int
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ops",
		Short: "Measure each operation of a step against its own limit: the memory's bandwidth or the " +
			"processor's products",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if prompt < 1 || gen < 2 || len(streams) == 0 || slices.Min(streams) < 1 {
				return usagef("--prompt and --streams are at least 1, --gen at least 2")
			}
			f.MaxBatchTokens = max(f.MaxBatchTokens, prompt)
			ops, err := bench.OpenOps(f)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			r, err := ops.Run(ctx, prompt, gen, streams)
			if err = errors.Join(err, ops.Close()); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			printOps(cmd.OutOrStdout(), r)
			return nil
		},
	}
	addModelFlags(cmd.Flags(), &f)
	cmd.Flags().IntVar(&prompt, "prompt", 512, "prompt tokens")
	cmd.Flags().IntVar(&gen, "gen", 64, "tokens to generate")
	cmd.Flags().IntSliceVar(&streams, "streams", []int{1, 16}, "sequences decoded at once")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return cmd
}

func printOps(w io.Writer, r *bench.OpsResult) {
	fmt.Fprintf(w, "%s on %s\n", r.Model, r.Device)
	fmt.Fprintf(w, "limits: read %.1f GB/s, products of int8 %.0f, bf16 %.0f, float %.0f GOP/s\n", r.Bandwidth/1e9,
		r.Peaks.Int8, r.Peaks.BF16, r.Peaks.Float)
	for _, s := range r.Steps {
		fmt.Fprintf(w, "\n%s: %.3f ms a step (%d steps), %.1f %% of it outside the device\n", s.Step, s.Milliseconds,
			s.Steps, 100*s.Outside)
		fmt.Fprintf(w, "  %-14s %6s %6s %6s %6s %10s %7s %8s %8s  %s\n", "operation", "rows", "in", "out", "calls",
			"µs each", "% step", "GB/s", "GOP/s", "of its limit")
		for _, o := range s.Ops {
			fmt.Fprintf(w, "  %-14s %6d %6d %6d %6.0f %10.1f %6.1f%% %8.1f %8.1f  %3.0f %% of %s\n",
				o.Op, o.Rows, o.In, o.Out, o.CallsPerStep, o.Micros, 100*o.StepFraction, o.GBs, o.GOPs, 100*o.LimitFraction,
				o.Limit)
		}
	}
}
