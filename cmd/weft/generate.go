package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"weft/finetune/eval"
	"weft/internal/interrupt"
	"weft/internal/node"
	"weft/runtime/tokenizer"
)

func generateCommand() *cobra.Command {
	var f node.ModelConfig
	var prompt string
	var o node.GenerateOptions
	var maxTokens int
	var temperature float64
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "generate --prompt TEXT",
		Short: "Continue a prompt (plain text, without a chat template)",
		Example: "  weft generate --prompt \"Once upon a time\" --max-tokens 50\n" +
			"  weft generate --prompt \"Dear customer,\" --adapter runs/support/adapter --json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case prompt == "":
				return usagef("--prompt is empty: give the text to continue")
			case maxTokens < 1:
				return usagef("--max-tokens %d: give at least 1", maxTokens)
			case !(temperature >= 0 && temperature <= 2):
				return usagef("--temperature %v: give 0 to 2", temperature)
			}
			if cmd.Flags().Changed("max-tokens") {
				o.MaxTokens = &maxTokens
			}
			if cmd.Flags().Changed("temperature") {
				o.Temperature = &temperature
			}
			s, err := node.OpenModel(f)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			stream := out
			if asJSON {
				stream = io.Discard
			}
			ctx, stop := interrupt.Until(cmd.Context())
			defer stop()
			r, err := s.Generate(ctx, stream, prompt, o)
			err = errors.Join(err, s.Close())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(out, r)
			}
			fmt.Fprintln(out)
			return nil
		},
	}
	addModelFlags(cmd.Flags(), &f)
	addGenerationFlag(cmd.Flags(), &f)
	addAdapterFlag(cmd.Flags(), &f)
	cmd.Flags().StringVar(&prompt, "prompt", "", "`text` to continue")
	cmd.Flags().IntVar(&maxTokens, "max-tokens", node.DefaultGenerateTokens,
		"largest number of tokens to generate; if not given, the model's own default comes first")
	cmd.Flags().Float64Var(&temperature, "temperature", 0,
		"sampling temperature, 0 is greedy; if not given, the model's own default comes first")
	cmd.Flags().Uint64Var(&o.Seed, "seed", 0, "seed of sampling")
	addJSONFlag(cmd.Flags(), &asJSON)
	return cmd
}

func scoreCommand() *cobra.Command {
	var f node.ModelConfig
	var file string
	var window, windows int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "score --file FILE",
		Short: "Compute the negative log-likelihood and perplexity of a text",
		Long: "Compute the negative log-likelihood and perplexity of a text. The file is encoded as one string, " +
			"without special tokens, and split into windows; the first token of each window is context only.",
		Example: "  weft score --file test.txt\n" +
			"  weft score --file test.txt --adapter runs/support/adapter --max-windows 20",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usagef("--file is empty: name the text to score")
			}
			if window < 2 {
				return usagef("--window %d: give at least 2 tokens", window)
			}
			if windows < 0 {
				return usagef("--max-windows %d: give 1 or more, or 0 for all", windows)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			s, err := node.OpenModel(f)
			if err != nil {
				return err
			}
			ctx, stop := interrupt.Until(cmd.Context())
			defer stop()
			r, err := eval.Perplexity(ctx, eval.OnEngine(s.Engine, s.WithAdapter),
				s.Tokenizer.Encode(string(text), tokenizer.EncodeOptions{}),
				eval.Options{Window: min(window, s.Context), MaxWindows: windows})
			if err = errors.Join(err, s.Close()); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			fmt.Fprintf(cmd.OutOrStdout(),
				"%s: mean negative log-likelihood %.6f, perplexity %.4f over %d tokens in %d windows\n",
				filepath.Base(file), r.MeanNLL, r.Perplexity, r.Tokens, r.Windows)
			return nil
		},
	}
	addModelFlags(cmd.Flags(), &f)
	addAdapterFlag(cmd.Flags(), &f)
	cmd.Flags().StringVar(&file, "file", "", "UTF-8 text `file`")
	cmd.Flags().IntVar(&window, "window", 512, "tokens in a window")
	cmd.Flags().IntVar(&windows, "max-windows", 0, "largest number of windows to score; 0 scores all")
	addJSONFlag(cmd.Flags(), &asJSON)
	return cmd
}
