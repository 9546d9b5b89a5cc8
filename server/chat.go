package server

import (
	"encoding/json"

	"weft/server/openai"
)

// chatFlow is /v1/chat/completions.
var chatFlow = flow[*openai.ChatRequest]{
	operation: "chat", prefix: "chatcmpl-", param: "messages", onePrompt: true,
	parse: openai.ParseChat,
	render: func(s *Server, m *resolved, in *openai.ChatRequest) ([]*prompt, error) {
		text, err := s.renderChat(m, in)
		if err != nil {
			return nil, err
		}
		ids, err := s.encode("messages", 0, 1, text, &in.Params)
		return []*prompt{{text: text, ids: ids}}, err
	},
	capture: (*Server).capture,
	reply:   func(r *request, _ *openai.ChatRequest) reply { return &chatReply{r} },
}

// renderChat makes the prompt of a conversation with the chat template of the resolved model.
func (s *Server) renderChat(m *resolved, in *openai.ChatRequest) (string, error) {
	r, err := s.template(m)
	if err != nil {
		return "", err
	}
	return r.Render(in)
}

// chatReply is the answer of /v1/chat/completions.
type chatReply struct{ *request }

func (r *chatReply) whole(g *generation) any {
	out := openai.ChatResponse{ID: r.id, Object: "chat.completion", Created: r.arrived.Unix(), Model: r.resolved.name,
		SystemFingerprint: r.s.cfg.Fingerprint, Usage: g.usage()}
	for _, ch := range g.choices {
		part := openai.ChatChoice{Index: ch.index,
			Message:      openai.Message{Role: "assistant", Content: ch.text.String()},
			FinishReason: ch.finish, StopReason: ch.stopReason, Logprobs: r.logprobs(ch.scored)}
		if r.p.ReturnTokenIDs {
			part.TokenIDs = append([]int32{}, ch.outIDs...)
			out.PromptTokenIDs = ch.prompt.ids
		}
		out.Choices = append(out.Choices, part)
	}
	if r.p.PromptLogprobs >= 0 {
		out.PromptLogprobs = r.promptRanks(g.choices[0].scoredPrompt)
	}
	return out
}

func (r *chatReply) chunk(usage json.RawMessage, choices ...openai.ChatChunkChoice) *openai.ChatChunk {
	if choices == nil {
		choices = []openai.ChatChunkChoice{}
	}
	return &openai.ChatChunk{ID: r.id, Object: "chat.completion.chunk", Created: r.arrived.Unix(),
		Model: r.resolved.name, SystemFingerprint: r.s.cfg.Fingerprint, Choices: choices, Usage: usage}
}

func (r *chatReply) opening(w *events, ch *choice, _ delta) {
	empty := ""
	ev := r.chunk(ch.usageSoFar(),
		openai.ChatChunkChoice{Index: ch.index, Delta: openai.Delta{Role: "assistant", Content: &empty}})
	if r.p.ReturnTokenIDs {
		ev.PromptTokenIDs = ch.prompt.ids
	}
	w.add(ev)
}

func (r *chatReply) text(w *events, ch *choice, d delta) {
	part := openai.ChatChunkChoice{Index: ch.index, Delta: openai.Delta{Content: &d.text}, TokenIDs: d.ids}
	if len(d.scored) > 0 {
		part.Logprobs = r.logprobs(d.scored)
	}
	w.add(r.chunk(ch.usageSoFar(), part))
}

func (r *chatReply) closing(w *events, ch *choice) {
	w.add(r.chunk(ch.usageSoFar(),
		openai.ChatChunkChoice{Index: ch.index, FinishReason: &ch.finish, StopReason: ch.stopReason}))
}

func (r *chatReply) ending(w *events, g *generation) {
	if r.p.IncludeUsage {
		w.add(r.chunk(g.rawUsage()))
	}
	w.done()
}

// logprobs returns nil where the request asked for none.
func (r *chatReply) logprobs(tokens []scored) *openai.ChatLogprobs {
	if r.p.Logprobs < 0 {
		return nil
	}
	out := &openai.ChatLogprobs{Content: make([]openai.TokenLogprob, 0, len(tokens))}
	for _, t := range tokens {
		name, bytes := r.tokenName(t.Token)
		e := openai.TokenLogprob{Token: name, Logprob: openai.Logprob(t.Logprob), Bytes: bytes,
			TopLogprobs: []openai.TopLogprob{}}
		for _, alt := range r.shown(t.TokenLogprobs) {
			name, bytes := r.tokenName(alt.Token)
			e.TopLogprobs = append(e.TopLogprobs,
				openai.TopLogprob{Token: name, Logprob: openai.Logprob(alt.Logprob), Bytes: bytes})
		}
		out.Content = append(out.Content, e)
	}
	return out
}
