package main

import (
	"errors"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"weft/internal/interrupt"
	"weft/internal/node"
	"weft/internal/node/bench"
)

func benchCommand() *cobra.Command {
	var f node.ModelConfig
	var b bench.Shape
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure prefill and decode of a model, its operations (ops) or a server (serve)",
		Example: "  weft bench --prompt 512 --gen 128\n" +
			"  weft bench --streams 8 --json",
		Args: noSuchCommand,
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
			ctx, stop := interrupt.Until(cmd.Context())
			defer stop()
			r, err := bench.Run(ctx, s, start, b, f.NumThreads())
			if err = errors.Join(err, s.Close()); err != nil {
				return benchUsage(err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			r.WriteText(cmd.OutOrStdout())
			return nil
		},
	}
	addModelFlags(cmd.Flags(), &f)
	cmd.Flags().IntVar(&b.Prompt, "prompt", 512, "tokens of the prompt whose prefill is measured")
	cmd.Flags().IntVar(&b.Gen, "gen", 128, "generated tokens whose decoding is measured")
	cmd.Flags().IntVar(&b.Depth, "depth", 1, "tokens in the context when decoding starts")
	cmd.Flags().IntVar(&b.Runs, "runs", 3, "measured runs, after one warm-up run")
	cmd.Flags().IntVar(&b.Streams, "streams", 1, "sequences to run at the same time")
	addJSONFlag(cmd.Flags(), &asJSON)
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
		Use:     "ops",
		Short:   "Measure each operation of a step against the limit of its memory bandwidth or arithmetic",
		Example: "  weft bench ops --streams 1,8",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if prompt < 1 || gen < 2 || len(streams) == 0 || slices.Min(streams) < 1 {
				return usagef("--prompt and --streams are at least 1, --gen at least 2")
			}
			f.MaxBatchTokens = max(f.MaxBatchTokens, prompt)
			ops, err := bench.OpenOps(f)
			if err != nil {
				return err
			}
			ctx, stop := interrupt.Until(cmd.Context())
			defer stop()
			r, err := ops.Run(ctx, prompt, gen, streams)
			if err = errors.Join(err, ops.Close()); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			r.WriteText(cmd.OutOrStdout())
			return nil
		},
	}
	addModelFlags(cmd.Flags(), &f)
	cmd.Flags().IntVar(&prompt, "prompt", 512, "prompt tokens")
	cmd.Flags().IntVar(&gen, "gen", 64, "tokens to generate")
	cmd.Flags().IntSliceVar(&streams, "streams", []int{1, 16},
		"`numbers` of sequences to decode at the same time, separated by commas")
	addJSONFlag(cmd.Flags(), &asJSON)
	return cmd
}
