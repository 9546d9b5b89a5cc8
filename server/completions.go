package server

import (
	"encoding/json"
	"math"
	"strings"
	"unicode/utf8"

	"weft/runtime/engine"
	"weft/runtime/sample"
	"weft/server/openai"
)

// completionFlow is /v1/completions.
var completionFlow = flow[*openai.CompletionRequest]{
	operation: "text_completion", prefix: "cmpl-", param: "prompt",
	parse:  openai.ParseCompletion,
	render: renderCompletion,
	reply:  func(r *request, in *openai.CompletionRequest) reply { return &completionReply{r, in} },
}

func renderCompletion(s *Server, _ *resolved, in *openai.CompletionRequest) ([]*prompt, error) {
	prompts := make([]*prompt, len(in.Prompts))
	for i, given := range in.Prompts {
		pr := &prompt{ids: given.IDs, text: given.Text}
		if given.IDs == nil {
			var err error
			if pr.ids, err = s.encode("prompt", i, len(in.Prompts), given.Text, &in.Params); err != nil {
				return nil, err
			}
		} else if in.Echo {
			pr.text = s.deps.Tokenizer.DecodeComplete(given.IDs, in.SkipSpecial)
		}
		prompts[i] = pr
	}
	return prompts, nil
}

// completionReply is the answer of /v1/completions.
type completionReply struct {
	*request
	in *openai.CompletionRequest
}

func (r *completionReply) whole(g *generation) any {
	var choices []openai.CompletionChoice
	for _, ch := range g.choices {
		part := openai.CompletionChoice{Index: ch.index, Text: ch.text.String(), FinishReason: &ch.finish,
			StopReason: ch.stopReason}
		if r.in.Echo {
			part.Text = ch.prompt.text + part.Text
		}
		if r.p.Logprobs >= 0 {
			part.Logprobs = r.logprobs(ch, ch.scoredPrompt, ch.scored)
		}
		if r.in.ReturnPromptLogprobs {
			part.PromptLogprobs = r.promptRanks(ch.scoredPrompt)
		}
		if r.p.ReturnTokenIDs {
			part.TokenIDs, part.PromptTokenIDs = append([]int32{}, ch.outIDs...), ch.prompt.ids
		}
		choices = append(choices, part)
	}
	return r.chunk(g.rawUsage(), choices...)
}

func (r *completionReply) chunk(usage json.RawMessage, choices ...openai.CompletionChoice) *openai.CompletionResponse {
	if choices == nil {
		choices = []openai.CompletionChoice{}
	}
	return &openai.CompletionResponse{ID: r.id, Object: "text_completion", Created: r.arrived.Unix(),
		Model: r.resolved.name, SystemFingerprint: r.s.cfg.Fingerprint, Choices: choices, Usage: usage}
}

// opening sends the prompt where the request has echo.
func (r *completionReply) opening(w *events, ch *choice, d delta) {
	if !r.in.Echo && !r.p.ReturnTokenIDs {
		return
	}
	part := openai.CompletionChoice{Index: ch.index}
	if r.p.ReturnTokenIDs {
		part.PromptTokenIDs = ch.prompt.ids
	}
	if r.in.Echo {
		part.Text = ch.prompt.text
		if r.p.Logprobs >= 0 {
			part.Logprobs = r.logprobs(ch, d.prompt, nil)
		}
	}
	w.add(r.chunk(ch.usageSoFar(), part))
}

func (r *completionReply) text(w *events, ch *choice, d delta) {
	part := openai.CompletionChoice{Index: ch.index, Text: d.text, TokenIDs: d.ids}
	if len(d.scored) > 0 {
		part.Logprobs = r.logprobs(ch, nil, d.scored)
	}
	w.add(r.chunk(ch.usageSoFar(), part))
}

func (r *completionReply) closing(w *events, ch *choice) {
	w.add(r.chunk(ch.usageSoFar(),
		openai.CompletionChoice{Index: ch.index, FinishReason: &ch.finish, StopReason: ch.stopReason}))
}

func (r *completionReply) ending(w *events, g *generation) {
	if r.p.IncludeUsage {
		w.add(r.chunk(g.rawUsage()))
	}
	w.done()
}

// logprobs lists the prompt's tokens where the request has echo, then the given tokens; offsets are in code points of
// the choice's text.
func (r *completionReply) logprobs(ch *choice, prompt []engine.TokenLogprobs,
	tokens []scored) *openai.CompletionLogprobs {
	l := r.newCompletionLogprobs()
	base := 0
	if r.in.Echo {
		skipping, whole := r.s.deps.Tokenizer.NewStream(nil, true), r.s.deps.Tokenizer.NewStream(nil, false)
		offset, rest := 0, ch.prompt.text
		for _, t := range prompt {
			l.add(t, t.Top[:min(len(t.Top), r.p.Logprobs)], offset+utf8.RuneCountInString(skipping.Held()))
			text := skipping.Push(t.Token)
			if s := whole.Push(t.Token); strings.HasPrefix(rest, s) {
				// also a special token that the prompt spells out; a BOS that the server added is not part of the text
				text = s
			}
			offset += utf8.RuneCountInString(text)
			rest = rest[min(len(text), len(rest)):]
		}
		base = utf8.RuneCountInString(ch.prompt.text)
	}
	for _, t := range tokens {
		l.add(t.TokenLogprobs, r.shown(t.TokenLogprobs), base+t.rune)
	}
	return &l.out
}

// completionLogprobs collects the four lists of /v1/completions.
type completionLogprobs struct {
	*request
	out openai.CompletionLogprobs
}

func (r *request) newCompletionLogprobs() *completionLogprobs {
	return &completionLogprobs{request: r,
		out: openai.CompletionLogprobs{TextOffset: []int{}, TokenLogprobs: []*openai.Logprob{}, Tokens: []string{},
			TopLogprobs: []openai.TopLogprobs{}}}
}

// add appends a token whose text begins after offset code points, with other tokens in its place. The first token of a
// prompt has no log-probability: NaN becomes null.
func (l *completionLogprobs) add(t engine.TokenLogprobs, others []sample.Logprob, offset int) {
	name, _ := l.tokenName(t.Token)
	l.out.TextOffset = append(l.out.TextOffset, offset)
	l.out.Tokens = append(l.out.Tokens, name)
	if math.IsNaN(t.Logprob) {
		l.out.TokenLogprobs = append(l.out.TokenLogprobs, nil)
		l.out.TopLogprobs = append(l.out.TopLogprobs, nil)
		return
	}
	v := openai.Logprob(t.Logprob)
	top := openai.TopLogprobs{}
	chosen := false
	for _, alt := range others {
		n, _ := l.tokenName(alt.Token)
		top = append(top, openai.TopLogprob{Token: n, Logprob: openai.Logprob(alt.Logprob)})
		chosen = chosen || alt.Token == t.Token
	}
	if !chosen {
		top = append(top, openai.TopLogprob{Token: name, Logprob: v})
	}
	l.out.TokenLogprobs = append(l.out.TokenLogprobs, &v)
	l.out.TopLogprobs = append(l.out.TopLogprobs, top)
}
