package server

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"weft/runtime/chat"
	"weft/runtime/engine"
	"weft/runtime/sample"
	"weft/server/openai"
	"weft/server/telemetry"
)

// reply builds one route's answer: complete, or as the events of a stream.
type reply interface {
	// whole returns the answer of a request without stream.
	whole(g *generation) any

	// opening writes the first event of a choice.
	opening(w *events, ch *choice, d delta)
	// text writes the text of a delta.
	text(w *events, ch *choice, d delta)
	// closing writes a choice's finish reason.
	closing(w *events, ch *choice)
	// ending writes what follows the last choice.
	ending(w *events, g *generation)
}

// send answers with the generated text, complete or as a stream.
func (s *Server) send(c *gin.Context, g *generation, r reply) error {
	if g.p.Stream {
		return s.stream(c, g, r)
	}
	for g.running() > 0 {
		d, _, err := g.next(nil)
		if err != nil {
			return err
		}
		d.choice.gather(d)
	}
	s.reply(c, http.StatusOK, r.whole(g))
	return nil
}

// maxWrite is about how many bytes of events go out in one write.
const maxWrite = 64 << 10

// stream sends events as the engine produces them. Events that are ready are sent before an error is returned.
func (s *Server) stream(c *gin.Context, g *generation, r reply) error {
	w := s.openEvents(c)
	ticker := time.NewTicker(s.cfg.PingInterval)
	defer ticker.Stop()
	for g.running() > 0 {
		d, ok, err := g.next(ticker.C)
		if !ok && err == nil {
			w.ping()
		}
		// Events that have already arrived are sent in the same write.
		for ; ok && err == nil; d, ok, err = g.more() {
			if g.record != nil {
				d.choice.text.WriteString(d.text)
			}
			if w.delta(r, d); w.full() {
				break
			}
		}
		if unsent := w.flush(); unsent != nil {
			return unsent
		}
		if err != nil {
			return err
		}
		ticker.Reset(s.cfg.PingInterval)
	}
	r.ending(w, g)
	return w.flush()
}

// events writes server-sent events. They are buffered until flush, whose write has a deadline, so that a client that
// does not read ends the stream. An event that cannot be encoded is left out, and flush returns the error.
type events struct {
	s   *Server
	c   *gin.Context
	buf bytes.Buffer
	err error
}

const eventStream = "text/event-stream"

// openEvents begins a stream. Its headers are set by the first flush: an error before that is a plain answer.
func (s *Server) openEvents(c *gin.Context) *events { return &events{s: s, c: c} }

func (w *events) setHeaders() {
	h := w.c.Writer.Header()
	h.Set("Content-Type", eventStream)
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no") // else nginx buffers events
	w.c.Status(http.StatusOK)
}

// delta writes a delta's events: the opening before a choice's first delta, the text, and the finish reason.
func (w *events) delta(r reply, d delta) {
	ch := d.choice
	if !ch.opened && (d.first || d.text != "" || d.finish != "") {
		ch.opened = true
		r.opening(w, ch, d)
	}
	if d.text != "" || len(d.scored) > 0 || len(d.ids) > 0 {
		r.text(w, ch, d)
	}
	if d.finish != "" {
		r.closing(w, ch)
	}
}

// add appends one event.
func (w *events) add(v any) {
	data, err := openai.Marshal(v)
	if err != nil {
		w.err = errors.Join(w.err, err)
		return
	}
	w.buf.WriteString("data: ")
	w.buf.Write(data)
	w.buf.WriteString("\n\n")
}

// ping appends a comment, which clients skip and which keeps proxies from closing an idle connection.
func (w *events) ping() { w.buf.WriteString(": ping\n\n") }

// done appends [DONE], which ends a complete stream.
func (w *events) done() {
	if w.err == nil {
		w.buf.WriteString("data: [DONE]\n\n")
	}
}

// full reports whether the buffer should be flushed.
func (w *events) full() bool { return w.err != nil || w.buf.Len() > maxWrite }

// flush sends the buffered events.
func (w *events) flush() error {
	if w.buf.Len() == 0 {
		return w.err
	}
	if !w.c.Writer.Written() {
		w.setHeaders()
	}
	w.s.extendWrite(w.c)
	_, err := w.c.Writer.Write(w.buf.Bytes())
	w.buf.Reset()
	if err == nil {
		err = http.NewResponseController(w.c.Writer).Flush()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errClientGone, err)
	}
	return w.err
}

// answer returns a handler that sends f's result as JSON with the given status.
func (s *Server) answer(status int, f func(c *gin.Context) (any, error)) gin.HandlerFunc {
	return func(c *gin.Context) {
		v, err := f(c)
		if err != nil {
			s.fail(c, err)
			return
		}
		s.reply(c, status, v)
	}
}

// reply writes one JSON document; the write has a deadline.
func (s *Server) reply(c *gin.Context, status int, v any) {
	body, err := openai.Marshal(v)
	if err != nil {
		s.log.Error("encode answer", "request_id", requestID(c), "error", err)
		status, body = notEncoded()
	}
	s.extendWrite(c)
	c.Header("Content-Length", strconv.Itoa(len(body)))
	c.Data(status, "application/json", body)
	c.Writer.Flush()
}

// streamBuffer is how much of an answer is written at once.
const streamBuffer = 32 << 10

// replyWith writes a JSON document of any length, with a deadline for each of its pieces.
func (s *Server) replyWith(c *gin.Context, write func(w *bufio.Writer) error) error {
	c.Header("Content-Type", "application/json")
	c.Status(http.StatusOK)
	w := bufio.NewWriterSize(pacedWriter{s, c}, streamBuffer)
	err := write(w)
	if !c.Writer.Written() {
		c.Header("Content-Length", strconv.Itoa(w.Buffered()))
	}
	return errors.Join(err, w.Flush())
}

type pacedWriter struct {
	s *Server
	c *gin.Context
}

func (w pacedWriter) Write(p []byte) (int, error) {
	w.s.extendWrite(w.c)
	return w.c.Writer.Write(p)
}

// extendWrite sets the deadline of the next write; a client that does not read is disconnected.
func (s *Server) extendWrite(c *gin.Context) {
	_ = http.NewResponseController(c.Writer).SetWriteDeadline(time.Now().Add(s.cfg.WriteTimeout))
}

// choice turns one sequence's events into text: it decodes, looks for stop strings and keeps each token's
// log-probability until its text is sent.
type choice struct {
	*request
	index   int
	prompt  *prompt
	stream  Stream
	decoder TextStream
	stopper *chat.Stopper // nil without stop strings, and before min_tokens

	decoded int      // bytes of text decoded so far
	runes   int      // code points of it
	sent    int      // of these, sent
	pending []scored // tokens that were not sent yet, with return_token_ids or log-probabilities

	tokens     int
	lastToken  time.Time
	finish     string // stop or length; empty while running
	stopReason any
	failed     bool
	prefilled  bool // the first event has arrived
	opened     bool // its first chunk was sent

	// Collected for an answer that is not streamed; text also for one that is stored.
	text         strings.Builder
	scored       []scored
	scoredPrompt []engine.TokenLogprobs
	outIDs       []int32

	times engine.Times
}

// scored is a token with its log-probabilities, where the request asks for them, and the offset at which its text
// begins.
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
	finish string // stop or length: this delta is the choice's last
	err    error
}

func (r *request) newChoice(index int, pr *prompt) *choice {
	pr.cached = -1
	return &choice{request: r, index: index, prompt: pr,
		decoder: r.s.deps.Tokenizer.NewStream(pr.ids, r.p.SkipSpecial)}
}

// take consumes one event. Events that arrive after a stop string was found are not sent to the client.
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
		d.err = errDraining // only a drain cancels a sequence that is still read
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
		ch.count()
		shown := ev.Finish != engine.Stop || ch.p.IncludeStop
		if ch.p.ReturnTokenIDs || shown && ev.Logprobs != nil {
			ch.await(ev)
		}
		if shown {
			d.text = ch.push(ev.Token)
		}
	}
	if ch.finish == "" && ev.Finish != engine.Running {
		d.text += ch.end(ev)
	}
	d.finish = ch.finish
	ch.release(&d)
	return d
}

// count measures a token.
func (ch *choice) count() {
	now := time.Now()
	if ch.tokens++; ch.tokens == 1 {
		ch.s.metrics.FirstToken(now.Sub(ch.arrived))
	} else {
		ch.s.metrics.NextToken(now.Sub(ch.lastToken))
	}
	ch.lastToken = now
}

// await keeps a token until its text is sent.
func (ch *choice) await(ev engine.Event) {
	held := ch.decoder.Held()
	t := scored{TokenLogprobs: engine.TokenLogprobs{Token: ev.Token}, at: ch.decoded + len(held),
		rune: ch.runes + utf8.RuneCountInString(held)}
	if ev.Logprobs != nil {
		t.TokenLogprobs = *ev.Logprobs
	}
	ch.pending = append(ch.pending, t)
}

// push decodes a token and returns the text that may be sent.
func (ch *choice) push(id int32) string {
	text := ch.decoder.Push(id)
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

// end takes a terminal event: text that was held back is sent, unless it completes a stop string.
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

// endOfSequence distinguishes the model's own stop ids, which vLLM does not report as stop_reason, from the request's.
func (ch *choice) endOfSequence(id int32) bool {
	return slices.Contains(ch.s.deps.Tokenizer.StopIDs(), id)
}

// release returns the tokens whose text was sent. At the end these are all, except those of a stop string that is not
// shown; with return_token_ids those too, so that each id has its log-probability.
func (ch *choice) release(d *delta) {
	ch.sent += len(d.text)
	all := d.finish != "" && (ch.sent >= ch.decoded || ch.p.ReturnTokenIDs)
	n := 0
	for n < len(ch.pending) && (all || ch.pending[n].at < ch.sent) {
		n++
	}
	released := ch.pending[:n:n]
	ch.pending = ch.pending[n:]
	if ch.p.Logprobs >= 0 {
		d.scored = released
	}
	if ch.p.ReturnTokenIDs {
		for _, t := range released {
			d.ids = append(d.ids, t.Token)
		}
	}
}

// gather collects a delta for an answer that is not streamed.
func (ch *choice) gather(d delta) {
	if d.first {
		ch.scoredPrompt = d.prompt
	}
	ch.text.WriteString(d.text)
	ch.scored = append(ch.scored, d.scored...)
	ch.outIDs = append(ch.outIDs, d.ids...)
}

// record returns the sequence's figures for metrics and traces.
func (ch *choice) record() telemetry.Sequence {
	reason := ch.finish
	switch {
	case ch.failed:
		reason = "error"
	case reason == "":
		reason = "abort"
	}
	t := ch.times
	r := telemetry.Sequence{Reason: reason, PromptTokens: len(ch.prompt.ids), CachedTokens: max(ch.prompt.cached, 0),
		GenerationTokens: ch.tokens, Arrived: ch.arrived,
		Queued: t.Submitted, Scheduled: t.Scheduled, FirstToken: t.FirstToken, Ended: t.Ended}
	if r.Ended.IsZero() {
		r.Ended = time.Now()
	}
	return r
}

// usageSoFar is the member usage of a choice's chunks: with continuous_usage_stats the choice's figures, null in
// another stream that ends with the usage, else absent.
func (ch *choice) usageSoFar() json.RawMessage {
	switch {
	case ch.p.ContinuousUsage:
		raw, _ := openai.Marshal(usageOf(ch.tokens, ch.prompt))
		return raw
	case ch.p.IncludeUsage:
		return json.RawMessage("null")
	}
	return nil
}

// shown returns the other tokens of a generated one's log-probabilities.
func (r *request) shown(t engine.TokenLogprobs) []sample.Logprob {
	if r.p.LogprobIDs != nil {
		return t.Top
	}
	return t.Top[:min(len(t.Top), r.p.Logprobs)]
}

// rawUsage returns the usage as JSON.
func (g *generation) rawUsage() json.RawMessage {
	raw, _ := openai.Marshal(g.usage())
	return raw
}

// tokenName names a token in log-probabilities: its text, or "bytes:\\xe4" where that is not a whole character.
func (r *request) tokenName(id int32) (name string, bytes []int) {
	raw := r.s.deps.Tokenizer.TokenBytes(id)
	bytes = make([]int, len(raw))
	for i, b := range raw {
		bytes[i] = int(b)
	}
	if r.p.TokensAsIDs {
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

// promptRanks returns vLLM's prompt_logprobs: null for the first token, then an object from id to log-probability and
// rank.
func (r *request) promptRanks(tokens []engine.TokenLogprobs) []map[string]openai.PromptRank {
	out := make([]map[string]openai.PromptRank, len(tokens))
	for i, t := range tokens {
		if math.IsNaN(t.Logprob) {
			continue
		}
		m := map[string]openai.PromptRank{}
		for i, alt := range t.Top[:min(len(t.Top), r.p.PromptLogprobs)] {
			name, _ := r.tokenName(alt.Token)
			rank := i + 1
			m[fmt.Sprint(alt.Token)] = openai.PromptRank{Logprob: openai.Logprob(alt.Logprob), Rank: &rank,
				DecodedToken: name}
		}
		if _, ok := m[fmt.Sprint(t.Token)]; !ok {
			name, _ := r.tokenName(t.Token)
			m[fmt.Sprint(t.Token)] = openai.PromptRank{Logprob: openai.Logprob(t.Logprob), DecodedToken: name}
		}
		out[i] = m
	}
	return out
}
