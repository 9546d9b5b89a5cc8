package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"weft/finetune/eval"
	"weft/internal/node"
	"weft/runtime/tokenizer"
)

func generateCommand() *cobra.Command {
	var f node.ModelConfig
	var prompt string
	var o node.GenerateOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "generate --prompt TEXT",
		Short: "Continue a prompt once (the plain text: no chat template)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case prompt == "":
				return usagef("--prompt is empty: give the text to continue")
			case o.MaxTokens < 1:
				return usagef("--max-tokens %d: at least 1", o.MaxTokens)
			case !(o.Temperature >= 0 && o.Temperature <= 2):
				return usagef("--temperature %v: 0 to 2", o.Temperature)
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
			ctx, stop := untilSignal(cmd.Context())
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
	add4BitFlags(cmd.Flags(), &f.Load4Bit)
	cmd.Flags().StringVar(&f.Adapter, "adapter", "", "PEFT `folder` or GGUF adapter to use")
	cmd.Flags().StringVar(&prompt, "prompt", "", "text to continue")
	cmd.Flags().IntVar(&o.MaxTokens, "max-tokens", 128, "tokens to generate at most")
	cmd.Flags().Float64Var(&o.Temperature, "temperature", 0, "0: greedy")
	cmd.Flags().Uint64Var(&o.Seed, "seed", 0, "seed of sampling")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return cmd
}

func scoreCommand() *cobra.Command {
	var f node.ModelConfig
	var file string
	var window, windows int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "score --file FILE",
		Short: "Negative log-likelihood and perplexity of a text",
		Long: "Negative log-likelihood and perplexity of a text. The file is one string, encoded once without " +
			"special tokens and cut into windows;\n" +
			"in each window the first token is context only.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usagef("--file is empty: name the text to score")
			}
			if window < 2 {
				return usagef("--window %d: at least 2 tokens", window)
			}
			if windows < 0 {
				return usagef("--max-windows %d: 1 or more, or 0 for all", windows)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			s, err := node.OpenModel(f)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd.Context())
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
	add4BitFlags(cmd.Flags(), &f.Load4Bit)
	cmd.Flags().StringVar(&f.Adapter, "adapter", "", "PEFT `folder` or GGUF adapter to use")
	cmd.Flags().StringVar(&file, "file", "", "text `file`, UTF-8")
	cmd.Flags().IntVar(&window, "window", 512, "tokens in a window")
	cmd.Flags().IntVar(&windows, "max-windows", 0, "stop after so many windows; 0: all")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return cmd
}
