package server

import (
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"weft/runtime/engine"
	"weft/server/openai"
)

// completionReply is what all parts of one completion answer share.
type completionReply struct {
	s       *Server
	model   string // that answers
	req     *openai.CompletionRequest
	id      string
	created int64
}

func (s *Server) completions(c *gin.Context) {
	arrived := time.Now()
	span := s.trace(c, "text_completion "+s.cfg.Model)
	body, err := s.readBody(c)
	if err != nil {
		s.fail(c, err)
		return
	}
	req, err := openai.ParseCompletion(body, s.limits)
	var t *target
	if err == nil {
		t, err = s.target(c, &req.Params)
	}
	if err != nil {
		s.fail(c, err)
		return
	}
	var prompts []*prompt
	for i, in := range req.Prompts {
		pr := &prompt{ids: in.IDs, text: in.Text}
		if in.IDs == nil {
			if pr.ids, err = s.encode("prompt", i, in.Text, req.AddSpecialTokens); err != nil {
				s.fail(c, err)
				return
			}
		} else if req.Echo {
			pr.text = s.deps.Tokenizer.Decode(in.IDs, req.SkipSpecial)
		}
		prompts = append(prompts, pr)
	}
	r := completionReply{s: s, model: t.name, req: req, id: "cmpl-" + randomID(), created: arrived.Unix()}
	s.describe(span, t, "text_completion", r.id, &req.Params)
	g, err := s.start(c, arrived, &req.Params, t, "prompt", prompts, span)
	if err != nil {
		s.abandon(c, err)
		return
	}
	defer s.conclude(c, g)
	if req.Stream {
		s.stream(c, g, &r)
		return
	}
	s.collect(c, g, &r)
}

func (r *completionReply) event(choices []openai.CompletionChoice, usage json.RawMessage) *openai.CompletionResponse {
	return &openai.CompletionResponse{ID: r.id, Object: "text_completion", Created: r.created, Model: r.model,
		Choices: choices, Usage: usage}
}

// opening echoes the prompt where the request asks for it.
func (r *completionReply) opening(ch *choice, d delta) any {
	if !r.req.Echo && !r.req.ReturnTokenIDs {
		return nil
	}
	part := openai.CompletionChoice{Index: ch.index}
	if r.req.ReturnTokenIDs {
		part.PromptTokenIDs = ch.prompt.ids
	}
	if r.req.Echo {
		part.Text = ch.prompt.text
		if r.req.Logprobs >= 0 {
			part.Logprobs = r.logprobs(ch, d.prompt, nil)
		}
	}
	return r.event([]openai.CompletionChoice{part}, usageOf(&r.req.Params))
}

func (r *completionReply) chunk(ch *choice, d delta) any {
	if d.text == "" && len(d.scored) == 0 && len(d.ids) == 0 {
		return nil
	}
	part := openai.CompletionChoice{Index: ch.index, Text: d.text, TokenIDs: d.ids}
	if len(d.scored) > 0 {
		part.Logprobs = r.logprobs(ch, nil, d.scored)
	}
	return r.event([]openai.CompletionChoice{part}, usageOf(&r.req.Params))
}

func (r *completionReply) closing(ch *choice) any {
	return r.event([]openai.CompletionChoice{{Index: ch.index, FinishReason: &ch.finish, StopReason: ch.stopReason}},
		usageOf(&r.req.Params))
}

func (r *completionReply) figures(u json.RawMessage) any {
	return r.event([]openai.CompletionChoice{}, u)
}

func (r *completionReply) whole(g *generation) any {
	var choices []openai.CompletionChoice
	for _, ch := range g.choices {
		part := openai.CompletionChoice{Index: ch.index, Text: ch.text.String(), FinishReason: &ch.finish,
			StopReason: ch.stopReason}
		if r.req.Echo {
			part.Text = ch.prompt.text + part.Text
		}
		if r.req.Logprobs >= 0 {
			part.Logprobs = r.logprobs(ch, ch.scoredPrompt, ch.scored)
		}
		if r.req.ReturnPromptLogprobs {
			part.PromptLogprobs = r.s.promptRanks(&r.req.Params, ch.scoredPrompt)
		}
		if r.req.ReturnTokenIDs {
			part.TokenIDs, part.PromptTokenIDs = ch.outIDs, ch.prompt.ids
		}
		choices = append(choices, part)
	}
	// A usage of plain numbers cannot fail to encode.
	usage, _ := openai.Marshal(g.usage())
	return r.event(choices, usage)
}

// logprobs lists the prompt's tokens where it is echoed, then the given ones; offsets count code points of the choice's
// text.
func (r *completionReply) logprobs(ch *choice, prompt []engine.TokenLogprobs,
	tokens []scored) *openai.CompletionLogprobs {
	l := r.s.newCompletionLogprobs(&r.req.Params)
	base := 0
	if r.req.Echo {
		skipping, whole := r.s.deps.Tokenizer.NewStream(true), r.s.deps.Tokenizer.NewStream(false)
		offset, rest := 0, ch.prompt.text
		for _, t := range prompt {
			l.add(t, offset)
			text := skipping.Push(t.Token)
			if s := whole.Push(t.Token); strings.HasPrefix(rest, s) {
				// also where it is a special token that the text spells out; a BOS that was put before it is not in it
				text = s
			}
			offset += utf8.RuneCountInString(text)
			rest = rest[min(len(text), len(rest)):]
		}
		base = utf8.RuneCountInString(ch.prompt.text)
	}
	for _, t := range tokens {
		l.add(t.TokenLogprobs, base+t.rune)
	}
	return &l.out
}
