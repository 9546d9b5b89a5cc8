package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/runtime/engine"
	"weft/runtime/sample"
	"weft/runtime/tokenizer"
)

func generateCommand() *cobra.Command {
	var f stackFlags
	var prompt string
	var maxTokens int
	var temperature float64
	var seed uint64
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "generate --prompt TEXT",
		Short: "Continue a prompt once (the plain text: no chat template)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case prompt == "":
				return usagef("--prompt is empty: give the text to continue")
			case maxTokens < 1:
				return usagef("--max-tokens %d: at least 1", maxTokens)
			case !(temperature >= 0 && temperature <= 2):
				return usagef("--temperature %v: 0 to 2", temperature)
			}
			s, err := openStack(&f, nil)
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
			r, err := s.generate(ctx, stream, prompt, maxTokens, temperature, seed)
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
	f.register(cmd.Flags())
	f.fourBit.register(cmd.Flags())
	f.registerAdapter(cmd.Flags(), "PEFT `folder` or GGUF adapter to use")
	cmd.Flags().StringVar(&prompt, "prompt", "", "text to continue")
	cmd.Flags().IntVar(&maxTokens, "max-tokens", 128, "tokens to generate at most")
	cmd.Flags().Float64Var(&temperature, "temperature", 0, "0: greedy")
	cmd.Flags().Uint64Var(&seed, "seed", 0, "seed of sampling")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return cmd
}

// generation is the result of one completion.
type generation struct {
	Text             string  `json:"text"`
	PromptTokens     int     `json:"prompt_tokens"`
	CompletionTokens int     `json:"completion_tokens"`
	TokenIDs         []int32 `json:"token_ids"`
	FinishReason     string  `json:"finish_reason"`
	Seconds          float64 `json:"seconds"`
}

func (s *stack) generate(ctx context.Context, w io.Writer, prompt string, maxTokens int, temperature float64,
	seed uint64) (*generation, error) {
	ids := s.Tokenizer.Encode(prompt, tokenizer.EncodeOptions{AddSpecial: true})
	if len(ids) == 0 {
		return nil, usagef("--prompt: no token")
	}
	start := time.Now()
	streams, err := s.Engine.Submit(ctx, s.adapter.on(engine.Request{
		ID: "generate", Prompt: ids, MaxTokens: min(maxTokens, max(s.Context-len(ids), 1)),
		StopIDs: s.Tokenizer.StopIDs(), PromptLogprobs: -1,
		Sampling: sample.Params{Temperature: temperature, TopP: 1, RepetitionPenalty: 1, Seed: seed, Logprobs: -1},
	})...)
	if err != nil {
		return nil, err
	}
	r := &generation{PromptTokens: len(ids)}
	detok := s.Tokenizer.NewStream(true)
	var text strings.Builder
	emit := func(piece string) error {
		text.WriteString(piece)
		_, err := io.WriteString(w, piece)
		return err
	}
	for ev := range streams[0].Events() {
		if ev.Token >= 0 {
			r.TokenIDs = append(r.TokenIDs, ev.Token)
			if ev.Finish != engine.Stop {
				if err := emit(detok.Push(ev.Token)); err != nil {
					streams[0].Cancel()
					return nil, err
				}
			}
		}
		switch ev.Finish {
		case engine.Running:
			continue
		case engine.Stop:
			r.FinishReason = "stop"
		case engine.Length:
			r.FinishReason = "length"
		case engine.Cancelled:
			return nil, fmt.Errorf("interrupted after %d tokens", len(r.TokenIDs))
		case engine.Failed:
			return nil, ev.Err
		}
		if err := emit(detok.Flush()); err != nil {
			return nil, err
		}
	}
	r.Text, r.CompletionTokens, r.Seconds = text.String(), len(r.TokenIDs), time.Since(start).Seconds()
	return r, nil
}

func scoreCommand() *cobra.Command {
	var f stackFlags
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
			s, err := openStack(&f, nil)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			r, err := s.score(ctx, string(text), window, windows)
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
	f.register(cmd.Flags())
	f.fourBit.register(cmd.Flags())
	f.registerAdapter(cmd.Flags(), "PEFT `folder` or GGUF adapter to use")
	cmd.Flags().StringVar(&file, "file", "", "text `file`, UTF-8")
	cmd.Flags().IntVar(&window, "window", 512, "tokens in a window")
	cmd.Flags().IntVar(&windows, "max-windows", 0, "stop after so many windows; 0: all")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return cmd
}

type scoring struct {
	MeanNLL    float64 `json:"mean_nll"`
	Perplexity float64 `json:"perplexity"`
	Tokens     int     `json:"tokens"`
	Windows    int     `json:"windows"`
	Seconds    float64 `json:"seconds"`
}

func (s *stack) score(ctx context.Context, text string, window, windows int) (*scoring, error) {
	ids := s.Tokenizer.Encode(text, tokenizer.EncodeOptions{})
	window = min(window, s.Context)
	r := &scoring{}
	start := time.Now()
	var nll float64
	for at := 0; at+2 <= len(ids) && (windows == 0 || r.Windows < windows); at += window {
		prompt := ids[at:min(at+window, len(ids))]
		if len(prompt) < 2 {
			break
		}
		sum, err := s.scoreWindow(ctx, prompt)
		if err != nil {
			return nil, err
		}
		nll += sum
		r.Tokens += len(prompt) - 1
		r.Windows++
	}
	if r.Tokens == 0 {
		return nil, errors.New("the text has fewer than two tokens: nothing to score")
	}
	r.MeanNLL = nll / float64(r.Tokens)
	r.Perplexity, r.Seconds = math.Exp(r.MeanNLL), time.Since(start).Seconds()
	return r, nil
}

// scoreWindow returns the summed negative log-likelihood of prompt[1:].
func (s *stack) scoreWindow(ctx context.Context, prompt []int32) (float64, error) {
	streams, err := s.Engine.Submit(ctx, s.adapter.on(engine.Request{
		ID: "score", Prompt: prompt, PromptLogprobs: 0,
		Sampling: sample.Params{TopP: 1, RepetitionPenalty: 1, Logprobs: -1},
	})...)
	if err != nil {
		return 0, err
	}
	var sum float64
	seen := 0
	for ev := range streams[0].Events() {
		for _, lp := range ev.PromptLogprobs[min(1, len(ev.PromptLogprobs)):] {
			sum -= lp.Logprob
			seen++
		}
		if ev.Finish == engine.Failed {
			return 0, ev.Err
		}
		if ev.Finish == engine.Cancelled {
			return 0, errors.New("interrupted")
		}
	}
	if seen != len(prompt)-1 {
		return 0, fmt.Errorf("scored %d of %d tokens", seen, len(prompt)-1)
	}
	return sum, nil
}
