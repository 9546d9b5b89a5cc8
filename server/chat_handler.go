package server

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"weft/server/openai"
	"weft/server/telemetry"
)

// chatReply is what all parts of one chat answer share.
type chatReply struct {
	s       *Server
	model   string // that answers
	req     *openai.ChatRequest
	id      string
	created int64
}

func (s *Server) chatCompletions(c *gin.Context) {
	arrived := time.Now()
	span := s.trace(c, "chat "+s.cfg.Model)
	body, err := s.readBody(c)
	if err != nil {
		s.fail(c, err)
		return
	}
	req, err := openai.ParseChat(body, s.limits)
	var t *target
	if err == nil {
		t, err = s.target(c, &req.Params)
	}
	if err != nil {
		s.fail(c, err)
		return
	}
	text, err := s.render(t, req)
	if err != nil {
		s.fail(c, err)
		return
	}
	ids, err := s.encode("messages", 0, text, req.AddSpecialTokens)
	if err != nil {
		s.fail(c, err)
		return
	}
	r := chatReply{s: s, model: t.name, req: req, id: "chatcmpl-" + randomID(), created: arrived.Unix()}
	prompts := []*prompt{{text: text, ids: ids}}
	s.describe(span, t, "chat", r.id, &req.Params)
	g, err := s.start(c, arrived, &req.Params, t, "messages", prompts, span)
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

// describe sets the span's attributes; none holds text of the prompt.
func (s *Server) describe(span *telemetry.Span, t *target, operation, id string, p *openai.Params) {
	span.Set("gen_ai.operation.name", operation)
	span.Set("gen_ai.provider.name", "weft")
	span.Set("gen_ai.request.model", s.cfg.Model)
	span.Set("gen_ai.response.model", t.name)
	if len(t.uses) > 0 {
		span.Set("weft.adapter", t.describe())
	}
	span.Set("gen_ai.response.id", id)
	span.Set("gen_ai.request.temperature", p.Temperature)
	span.Set("gen_ai.request.top_p", p.TopP)
	span.Set("gen_ai.request.choice.count", p.N)
	if p.MaxTokens != nil {
		span.Set("gen_ai.request.max_tokens", *p.MaxTokens)
	}
}

// conclude ends a generation and notes its figures, whatever way the handler ended.
func (s *Server) conclude(c *gin.Context, g *generation) {
	g.close()
	u := g.usage()
	ticketOf(c).Output(u.CompletionTokens)
	ticketOf(c).Record(g.billed())
	reasons := make([]string, len(g.choices))
	for i, ch := range g.choices {
		reasons[i] = ch.finish
	}
	g.span.Set("gen_ai.usage.input_tokens", u.PromptTokens)
	g.span.Set("gen_ai.usage.output_tokens", u.CompletionTokens)
	g.span.Set("gen_ai.response.finish_reasons", reasons)
	note(c, "prompt_tokens", u.PromptTokens, "completion_tokens", u.CompletionTokens, "cached_tokens",
		u.PromptTokensDetails.CachedTokens, "stream", g.p.Stream)
}

// reply builds the parts of one API's answer.
type reply interface {
	// opening is what a choice's first chunk of a stream holds; nil: nothing.
	opening(ch *choice, d delta) any
	// chunk is what a delta adds; nil: nothing yet.
	chunk(ch *choice, d delta) any
	// closing is the chunk with the finish reason.
	closing(ch *choice) any
	// figures is the usage chunk.
	figures(u json.RawMessage) any
	// whole is the answer that is not streamed.
	whole(g *generation) any
}

// usageOf is null in the chunks of a stream that will end with the figures, else absent.
func usageOf(p *openai.Params) json.RawMessage {
	if p.Stream && p.IncludeUsage {
		return json.RawMessage("null")
	}
	return nil
}

func (r *chatReply) event(choices []openai.ChatChunkChoice, usage json.RawMessage) *openai.ChatChunk {
	return &openai.ChatChunk{ID: r.id, Object: "chat.completion.chunk", Created: r.created, Model: r.model,
		Choices: choices, Usage: usage}
}

func (r *chatReply) opening(ch *choice, _ delta) any {
	empty := ""
	ev := r.event([]openai.ChatChunkChoice{{Index: ch.index, Delta: openai.Delta{Role: "assistant", Content: &empty}}},
		usageOf(&r.req.Params))
	if r.req.ReturnTokenIDs {
		ev.PromptTokenIDs = ch.prompt.ids
	}
	return ev
}

func (r *chatReply) chunk(ch *choice, d delta) any {
	if d.text == "" && len(d.scored) == 0 && len(d.ids) == 0 {
		return nil
	}
	part := openai.ChatChunkChoice{Index: ch.index, Delta: openai.Delta{Content: &d.text}, TokenIDs: d.ids}
	if len(d.scored) > 0 {
		part.Logprobs = r.s.chatLogprobs(&r.req.Params, d.scored)
	}
	return r.event([]openai.ChatChunkChoice{part}, usageOf(&r.req.Params))
}

func (r *chatReply) closing(ch *choice) any {
	return r.event([]openai.ChatChunkChoice{{Index: ch.index, FinishReason: &ch.finish, StopReason: ch.stopReason}},
		usageOf(&r.req.Params))
}

func (r *chatReply) figures(u json.RawMessage) any {
	return r.event([]openai.ChatChunkChoice{}, u)
}

func (r *chatReply) whole(g *generation) any {
	out := openai.ChatResponse{ID: r.id, Object: "chat.completion", Created: r.created, Model: r.model,
		Usage: g.usage()}
	for _, ch := range g.choices {
		part := openai.ChatChoice{Index: ch.index,
			Message: openai.Message{Role: "assistant", Content: ch.text.String()}, FinishReason: ch.finish,
			StopReason: ch.stopReason,
			Logprobs:   r.s.chatLogprobs(&r.req.Params, ch.scored)}
		if r.req.ReturnTokenIDs {
			part.TokenIDs = ch.outIDs
			out.PromptTokenIDs = ch.prompt.ids
		}
		out.Choices = append(out.Choices, part)
	}
	if r.req.PromptLogprobs >= 0 {
		out.PromptLogprobs = r.s.promptRanks(&r.req.Params, g.choices[0].scoredPrompt)
	}
	return out
}

// collect waits for all choices and answers once.
func (s *Server) collect(c *gin.Context, g *generation, r reply) {
	for g.running() > 0 {
		d, _, err := g.next(nil)
		if err != nil {
			s.abandon(c, err)
			return
		}
		d.choice.gather(d)
	}
	s.reply(c, http.StatusOK, r.whole(g))
}

// abandon answers with an error, or with nothing where the client has gone.
func (s *Server) abandon(c *gin.Context, err error) {
	if toStatus(err) == statusClientGone {
		c.Set(keyClientGone, true)
		_ = c.Error(err)
		c.Abort()
		return
	}
	s.fail(c, err)
}

func toStatus(err error) int {
	e, _ := toAPI(err)
	return e.Status
}
