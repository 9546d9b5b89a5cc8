package node

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"weft/runtime/engine"
	"weft/runtime/sample"
	"weft/runtime/tokenizer"
)

// GenerateOptions are the options of Generate. What is nil has the model's own default, else the one given here.
type GenerateOptions struct {
	MaxTokens   *int     // at least 1, by default 128; the model's context ends an answer too
	Temperature *float64 // by default 0
	Seed        uint64
}

// DefaultGenerateTokens is the default of GenerateOptions.MaxTokens.
const DefaultGenerateTokens = 128

// Generation is the result of Generate.
type Generation struct {
	Text             string  `json:"text"`
	PromptTokens     int     `json:"prompt_tokens"`
	CompletionTokens int     `json:"completion_tokens"`
	TokenIDs         []int32 `json:"token_ids"`
	FinishReason     string  `json:"finish_reason"` // stop or length
	Seconds          float64 `json:"seconds"`
}

// Generate continues the plain text prompt, without a chat template, and writes the answer to w as it is generated.
// When ctx ends, or a write fails, it returns an error.
func (m *Model) Generate(ctx context.Context, w io.Writer, prompt string, o GenerateOptions) (*Generation, error) {
	ids := m.Tokenizer.Encode(prompt, tokenizer.EncodeOptions{AddSpecial: true})
	if len(ids) == 0 {
		return nil, refusef("prompt: the tokenizer makes no token of it")
	}
	start, own := time.Now(), &m.Sampling
	most := ptrOr(o.MaxTokens, ptrOr(own.MaxTokens, DefaultGenerateTokens))
	streams, err := m.Engine.Submit(ctx, m.WithAdapter(engine.Request{
		ID: "generate", Prompt: ids, MaxTokens: min(most, max(m.Context-len(ids), 1)),
		StopIDs: m.Tokenizer.StopIDs(), PromptLogprobs: -1,
		Sampling: sample.Params{Temperature: ptrOr(o.Temperature, ptrOr(own.Temperature, 0)),
			TopP: max(ptrOr(own.TopP, 1), 1e-12), TopK: ptrOr(own.TopK, 0), MinP: ptrOr(own.MinP, 0),
			RepetitionPenalty: ptrOr(own.RepetitionPenalty, 1), Seed: o.Seed, Logprobs: -1},
	})...)
	if err != nil {
		return nil, err
	}
	defer streams[0].Cancel()
	g := &Generation{PromptTokens: len(ids)}
	detok := m.Tokenizer.NewStream(ids, true)
	var text strings.Builder
	emit := func(piece string) error {
		text.WriteString(piece)
		_, err := io.WriteString(w, piece)
		return err
	}
	for ev := range streams[0].Events() {
		if ev.Token >= 0 {
			g.TokenIDs = append(g.TokenIDs, ev.Token)
			if ev.Finish != engine.Stop {
				if err := emit(detok.Push(ev.Token)); err != nil {
					return nil, err
				}
			}
		}
		switch ev.Finish {
		case engine.Running:
			continue
		case engine.Stop:
			g.FinishReason = "stop"
		case engine.Length:
			g.FinishReason = "length"
		case engine.Cancelled:
			return nil, fmt.Errorf("interrupted after %d tokens", len(g.TokenIDs))
		case engine.Failed:
			return nil, ev.Err
		}
		if err := emit(detok.Flush()); err != nil {
			return nil, err
		}
	}
	g.Text, g.CompletionTokens, g.Seconds = text.String(), len(g.TokenIDs), time.Since(start).Seconds()
	return g, nil
}
