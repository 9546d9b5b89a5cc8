package server

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"weft/runtime/chat"
	"weft/runtime/engine"
	"weft/server/openai"
	"weft/server/telemetry"
)

// choice turns one sequence's events into text: it decodes, looks for stop strings and keeps each token's
// log-probability until the text it belongs to leaves.
type choice struct {
	s       *Server
	p       *openai.Params
	index   int
	prompt  *prompt
	stream  Stream
	decoder TextStream
	stopper *chat.Stopper // nil without stop strings, and before min_tokens
	arrived time.Time

	decoded int // bytes of text decoded so far
	runes   int // code points of it
	sent    int // of these, handed out
	pending []scored
	ids     []int32 // not handed out yet

	tokens     int
	lastToken  time.Time
	finish     string // stop or length; empty while running
	stopReason any
	failed     bool
	prefilled  bool // the first event has come
	opened     bool // its first chunk has left

	// What an answer that is not streamed gathers.
	text         strings.Builder
	scored       []scored
	scoredPrompt []engine.TokenLogprobs
	outIDs       []int32

	times engine.Times
}

// scored is a token with its log-probabilities and the place in the text where it begins.
type scored struct {
	engine.TokenLogprobs
	at   int // byte offset
	rune int // code points before it
}

// delta is what one event adds to a choice.
type delta struct {
	choice *choice
	text   string
	scored []scored
	ids    []int32
	first  bool // the prefill has ended; prompt holds its log-probabilities
	prompt []engine.TokenLogprobs
	finish string // stop or length: this is the choice's last
	err    error
}

func (s *Server) newChoice(index int, pr *prompt, p *openai.Params, arrived time.Time) *choice {
	pr.cached = -1
	return &choice{s: s, p: p, index: index, prompt: pr, decoder: s.deps.Tokenizer.NewStream(p.SkipSpecial),
		arrived: arrived}
}

// take consumes one event. Events after a stop string are the engine's, not the client's.
func (ch *choice) take(ev engine.Event) delta {
	d := delta{choice: ch}
	if ch.finish != "" {
		return d
	}
	switch ev.Finish {
	case engine.Failed:
		ch.failed = true
		if d.err = ev.Err; d.err == nil {
			d.err = errEngineEnded
		}
		return d
	case engine.Cancelled:
		d.err = errDraining // nobody else cancels a sequence that is still read
		if ev.Err != nil {
			d.err = fmt.Errorf("%w: %w", errDraining, ev.Err)
		}
		return d
	}
	if !ch.prefilled {
		ch.prefilled, d.first, d.prompt = true, true, ev.PromptLogprobs
		if ch.prompt.cached < 0 || ev.CachedTokens < ch.prompt.cached {
			ch.prompt.cached = ev.CachedTokens
		}
		ch.s.metrics.Prefilled(len(ch.prompt.ids))
	}
	if ev.Token >= 0 {
		ch.count(ev.Token)
		if ending := ev.Finish == engine.Stop; !ending || ch.p.IncludeStop {
			d.text = ch.push(ev)
		}
	}
	if ch.finish == "" && ev.Finish != engine.Running {
		d.text += ch.end(ev)
	}
	d.finish = ch.finish
	ch.release(&d)
	return d
}

// count measures a token and keeps its id.
func (ch *choice) count(id int32) {
	now := time.Now()
	if ch.tokens++; ch.tokens == 1 {
		ch.s.metrics.FirstToken(now.Sub(ch.arrived))
	} else {
		ch.s.metrics.NextToken(now.Sub(ch.lastToken))
	}
	ch.lastToken = now
	if ch.p.ReturnTokenIDs {
		ch.ids = append(ch.ids, id)
	}
}

// push decodes a token and returns the text that may leave.
func (ch *choice) push(ev engine.Event) string {
	text := ch.decoder.Push(ev.Token)
	if ev.Logprobs != nil {
		ch.pending = append(ch.pending, scored{TokenLogprobs: *ev.Logprobs, at: ch.decoded, rune: ch.runes})
	}
	ch.decoded += len(text)
	ch.runes += utf8.RuneCountInString(text)
	return ch.search(text)
}

// search passes text through the stop strings; a match ends the choice and its sequence.
func (ch *choice) search(text string) string {
	if len(ch.p.Stop) == 0 || ch.tokens < ch.p.MinTokens {
		return text
	}
	if ch.stopper == nil {
		ch.stopper = chat.NewStopper(ch.p.Stop)
		ch.stopper.IncludeStop = ch.p.IncludeStop
	}
	emit, stopped, stop := ch.stopper.Push(text)
	if stopped {
		ch.finish, ch.stopReason = "stop", stop
		ch.stream.Cancel()
	}
	return emit
}

// end takes a terminal event: what was held back leaves, unless it completes a stop string.
func (ch *choice) end(ev engine.Event) string {
	tail := ch.decoder.Flush()
	ch.decoded += len(tail)
	text := ch.search(tail)
	if ch.finish != "" {
		return text
	}
	if ch.stopper != nil {
		text += ch.stopper.Flush()
	}
	ch.finish = "length"
	if ev.Finish == engine.Stop {
		ch.finish = "stop"
		if ev.StopID >= 0 && !ch.endOfSequence(ev.StopID) {
			ch.stopReason = ev.StopID
		}
	}
	return text
}

// endOfSequence tells the model's own stop ids, which vLLM does not report, from the request's.
func (ch *choice) endOfSequence(id int32) bool {
	for _, s := range ch.s.deps.Tokenizer.StopIDs() {
		if s == id {
			return true
		}
	}
	return false
}

// release hands out the tokens whose text has left: all of them at the end, save those that lie in a hidden stop
// string.
func (ch *choice) release(d *delta) {
	ch.sent += len(d.text)
	all := d.finish != "" && ch.sent >= ch.decoded
	n := 0
	for n < len(ch.pending) && (all || ch.pending[n].at < ch.sent) {
		n++
	}
	d.scored, ch.pending = ch.pending[:n:n], ch.pending[n:]
	if d.text != "" || d.finish != "" || n > 0 {
		d.ids, ch.ids = ch.ids, nil
	}
}

// gather keeps a delta for an answer that is not streamed.
func (ch *choice) gather(d delta) {
	if d.first {
		ch.scoredPrompt = d.prompt
	}
	ch.text.WriteString(d.text)
	ch.scored = append(ch.scored, d.scored...)
	ch.outIDs = append(ch.outIDs, d.ids...)
}

// record is what metrics and traces keep of the sequence.
func (ch *choice) record(arrived time.Time) telemetry.Sequence {
	reason := ch.finish
	switch {
	case ch.failed:
		reason = "error"
	case reason == "":
		reason = "abort"
	}
	t := ch.times
	r := telemetry.Sequence{Reason: reason, PromptTokens: len(ch.prompt.ids), CachedTokens: max(ch.prompt.cached, 0),
		GenerationTokens: ch.tokens, Arrived: arrived,
		Queued: t.Submitted, Scheduled: t.Scheduled, FirstToken: t.FirstToken, Ended: t.Ended}
	if r.Ended.IsZero() {
		r.Ended = time.Now()
	}
	return r
}

// name is how log-probabilities call a token: its text, or "bytes:\xe4" where that is no whole character.
func (s *Server) name(id int32, p *openai.Params) (string, []int) {
	raw := s.deps.Tokenizer.TokenBytes(id)
	bytes := make([]int, len(raw))
	for i, b := range raw {
		bytes[i] = int(b)
	}
	if p.TokensAsIDs {
		return fmt.Sprintf("token_id:%d", id), bytes
	}
	if utf8.Valid(raw) {
		return string(raw), bytes
	}
	var b strings.Builder
	b.WriteString("bytes:")
	for _, c := range raw {
		fmt.Fprintf(&b, `\x%02x`, c)
	}
	return b.String(), bytes
}

// chatLogprobs is nil where the request asked for none.
func (s *Server) chatLogprobs(p *openai.Params, tokens []scored) *openai.ChatLogprobs {
	if p.Logprobs < 0 {
		return nil
	}
	out := &openai.ChatLogprobs{Content: make([]openai.TokenLogprob, 0, len(tokens))}
	for _, t := range tokens {
		name, bytes := s.name(t.Token, p)
		e := openai.TokenLogprob{Token: name, Logprob: openai.Logprob(t.Logprob), Bytes: bytes,
			TopLogprobs: []openai.TopLogprob{}}
		for _, alt := range t.Top[:min(len(t.Top), p.Logprobs)] {
			name, bytes := s.name(alt.Token, p)
			e.TopLogprobs = append(e.TopLogprobs,
				openai.TopLogprob{Token: name, Logprob: openai.Logprob(alt.Logprob), Bytes: bytes})
		}
		out.Content = append(out.Content, e)
	}
	return out
}

// completionLogprobs collects the four lists of /v1/completions.
type completionLogprobs struct {
	s   *Server
	p   *openai.Params
	out openai.CompletionLogprobs
}

func (s *Server) newCompletionLogprobs(p *openai.Params) *completionLogprobs {
	return &completionLogprobs{s: s, p: p,
		out: openai.CompletionLogprobs{TextOffset: []int{}, TokenLogprobs: []*openai.Logprob{}, Tokens: []string{},
			TopLogprobs: []openai.TopLogprobs{}}}
}

// add appends a token that begins after offset code points. The first token of a prompt has no log-probability: NaN
// becomes null.
func (l *completionLogprobs) add(t engine.TokenLogprobs, offset int) {
	name, _ := l.s.name(t.Token, l.p)
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
	for _, alt := range t.Top[:min(len(t.Top), l.p.Logprobs)] {
		n, _ := l.s.name(alt.Token, l.p)
		top = append(top, openai.TopLogprob{Token: n, Logprob: openai.Logprob(alt.Logprob)})
		chosen = chosen || alt.Token == t.Token
	}
	if !chosen {
		top = append(top, openai.TopLogprob{Token: name, Logprob: v})
	}
	l.out.TokenLogprobs = append(l.out.TokenLogprobs, &v)
	l.out.TopLogprobs = append(l.out.TopLogprobs, top)
}

// promptRanks is vLLM's prompt_logprobs: null for the first token, then an object from id to log-probability and rank.
func (s *Server) promptRanks(p *openai.Params, tokens []engine.TokenLogprobs) []map[string]openai.PromptRank {
	out := make([]map[string]openai.PromptRank, len(tokens))
	for i, t := range tokens {
		if math.IsNaN(t.Logprob) {
			continue
		}
		m := map[string]openai.PromptRank{}
		for r, alt := range t.Top[:min(len(t.Top), p.PromptLogprobs)] {
			name, _ := s.name(alt.Token, p)
			rank := r + 1
			m[fmt.Sprint(alt.Token)] = openai.PromptRank{Logprob: openai.Logprob(alt.Logprob), Rank: &rank,
				DecodedToken: name}
		}
		if _, ok := m[fmt.Sprint(t.Token)]; !ok {
			name, _ := s.name(t.Token, p)
			m[fmt.Sprint(t.Token)] = openai.PromptRank{Logprob: openai.Logprob(t.Logprob), DecodedToken: name}
		}
		out[i] = m
	}
	return out
}
