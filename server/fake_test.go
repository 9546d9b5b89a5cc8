package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"weft/runtime/engine"
	"weft/runtime/sample"
	"weft/server/openai"
	"weft/server/tenant"
)

// The fake tokenizer has the 256 bytes, then <bos> and <eos>.
const (
	fakeBOS   = 256
	fakeEOS   = 257
	fakeVocab = 300
)

type fakeTokenizer struct{}

func (fakeTokenizer) MinTokens(text string) int { return len(text) / 8 }

func (fakeTokenizer) Encode(text string, addSpecial bool) []int32 {
	var ids []int32
	if addSpecial {
		ids = append(ids, fakeBOS)
	}
	for text != "" {
		if rest, ok := strings.CutPrefix(text, "<eos>"); ok {
			ids, text = append(ids, fakeEOS), rest
			continue
		}
		ids, text = append(ids, int32(text[0])), text[1:]
	}
	return ids
}

func (t fakeTokenizer) Decode(ids []int32, skipSpecial bool) string {
	s := t.NewStream(nil, skipSpecial)
	var b strings.Builder
	for _, id := range ids {
		b.WriteString(s.Push(id))
	}
	return b.String() + s.Flush()
}

func (t fakeTokenizer) DecodeComplete(ids []int32, skipSpecial bool) string {
	s := &fakeStream{skip: skipSpecial}
	text := ""
	for _, id := range ids {
		text += s.Push(id)
	}
	return text
}

func (fakeTokenizer) NewStream(prompt []int32, skip bool) TextStream {
	s := &fakeStream{skip: skip}
	for _, id := range prompt {
		s.Push(id)
	}
	return s
}

func (t fakeTokenizer) Token(id int32) string { return string(t.TokenBytes(id)) }
func (fakeTokenizer) StopIDs() []int32        { return []int32{fakeEOS} }

func (fakeTokenizer) TokenBytes(id int32) []byte {
	switch {
	case id == fakeBOS:
		return []byte("<bos>")
	case id == fakeEOS:
		return []byte("<eos>")
	case id > 255:
		return []byte(fmt.Sprintf("<%d>", id))
	}
	return []byte{byte(id)}
}

type fakeStream struct {
	skip bool
	held []byte
}

func (s *fakeStream) Push(id int32) string {
	if id > 255 && s.skip {
		return ""
	}
	s.held = append(s.held, fakeTokenizer{}.TokenBytes(id)...)
	if !utf8.FullRune(s.held) {
		return ""
	}
	out := strings.ToValidUTF8(string(s.held), "\ufffd")
	s.held = nil
	return out
}

func (s *fakeStream) Held() string { return "" }

func (s *fakeStream) Flush() string {
	out := strings.ToValidUTF8(string(s.held), "\ufffd")
	s.held = nil
	return out
}

// fakeTemplate renders "role: text\n" lines.
type fakeTemplate struct{}

func (fakeTemplate) Render(req *openai.ChatRequest) (string, error) {
	if strings.Contains(string(req.Messages), "panic please") {
		panic("secret prompt text")
	}
	if strings.Contains(string(req.Messages), "refuse please") {
		return "", openai.Invalid("messages", "template_error", "The template refused.")
	}
	return "P:" + fmt.Sprint(len(req.Messages)), nil
}

// fakeEngine answers every sequence with a reply and the EOS, one event a token.
type fakeEngine struct {
	reply      string
	gate       chan struct{} // not nil: each token waits for one value
	hold       chan struct{} // not nil: the prefill waits until it is closed
	submit     error
	fail       error // the terminal event after the first token
	failPrompt error // the only event
	health     error

	mu     sync.Mutex
	reqs   []engine.Request
	live   atomic.Int32
	cancel atomic.Int32
}

type fakeRun struct {
	ch   chan engine.Event
	stop chan struct{}
	once sync.Once
}

func (r *fakeRun) Events() <-chan engine.Event { return r.ch }
func (r *fakeRun) Cancel()                     { r.once.Do(func() { close(r.stop) }) }

func (e *fakeEngine) Health() error { return e.health }

func (e *fakeEngine) Submit(ctx context.Context, reqs ...engine.Request) ([]Stream, error) {
	if e.submit != nil {
		return nil, e.submit
	}
	e.mu.Lock()
	e.reqs = append(e.reqs, reqs...)
	e.mu.Unlock()
	var out []Stream
	for _, r := range reqs {
		run := &fakeRun{ch: make(chan engine.Event), stop: make(chan struct{})}
		e.live.Add(1)
		go e.run(ctx, r, run)
		out = append(out, run)
	}
	return out, nil
}

func logprobsOf(id int32, k int) *engine.TokenLogprobs {
	if k < 0 {
		return nil
	}
	t := &engine.TokenLogprobs{Token: id, Logprob: -float64(id) / 100}
	for i := range k {
		t.Top = append(t.Top, sample.Logprob{Token: id + int32(i), Logprob: -float64(id)/100 - float64(i)})
	}
	return t
}

func (e *fakeEngine) run(ctx context.Context, r engine.Request, run *fakeRun) {
	defer e.live.Add(-1)
	now := time.Now()
	times := engine.Times{Submitted: now, Scheduled: now.Add(time.Millisecond),
		FirstToken: now.Add(2 * time.Millisecond), Ended: now.Add(3 * time.Millisecond)}
	send := func(ev engine.Event) bool {
		if ev.Finish != engine.Running {
			ev.Times = times
		}
		select {
		case <-ctx.Done():
		case <-run.stop:
		case run.ch <- ev:
			return true
		}
		e.cancel.Add(1)
		run.ch <- engine.Event{Token: -1, StopID: -1, Finish: engine.Cancelled, Times: times}
		return false
	}
	wait := func(ch chan struct{}) {
		select {
		case <-ctx.Done():
		case <-run.stop:
		case <-ch:
		}
	}
	if e.hold != nil {
		wait(e.hold)
	}
	if e.failPrompt != nil {
		send(engine.Event{Token: -1, StopID: -1, Finish: engine.Failed, Err: e.failPrompt})
		return
	}
	first := engine.Event{Token: -1, StopID: -1, CachedTokens: 1}
	if r.PromptLogprobs >= 0 {
		for i, id := range r.Prompt {
			lp := *logprobsOf(id, r.PromptLogprobs)
			if i == 0 {
				lp = engine.TokenLogprobs{Token: id, Logprob: math.NaN()}
			}
			first.PromptLogprobs = append(first.PromptLogprobs, lp)
		}
	}
	if !send(first) {
		return
	}
	ids := append(fakeTokenizer{}.Encode(e.reply, false), fakeEOS)
	for i := 0; ; i++ {
		if i >= r.MaxTokens {
			send(engine.Event{Token: -1, StopID: -1, Finish: engine.Length})
			return
		}
		if e.gate != nil {
			wait(e.gate)
		}
		if e.fail != nil && i == 1 {
			send(engine.Event{Token: -1, StopID: -1, Finish: engine.Failed, Err: e.fail})
			return
		}
		id := ids[min(i, len(ids)-1)]
		ev := engine.Event{Token: id, StopID: -1, Logprobs: logprobsOf(id, r.Sampling.Logprobs)}
		for _, s := range r.StopIDs {
			if s == id && i >= r.MinTokens {
				ev.Finish, ev.StopID = engine.Stop, id
			}
		}
		if ev.Finish == engine.Running && i == r.MaxTokens-1 {
			ev.Finish = engine.Length
		}
		if !send(ev) || ev.Finish != engine.Running {
			return
		}
	}
}

// newTest returns a ready server over a fake engine.
func newTest(t testing.TB, e *fakeEngine, change ...func(*Config, *Deps)) *Server {
	t.Helper()
	cfg := Config{Model: "org/tiny", Version: "v1", Vocab: fakeVocab, Context: 64}
	deps := Deps{Engine: e, Tokenizer: fakeTokenizer{}, Template: fakeTemplate{}}
	for _, f := range change {
		f(&cfg, &deps)
	}
	s, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	s.SetReady()
	return s
}

// withKeys serves the tenant default to those who have one of the keys.
func withKeys(keys ...string) *tenant.Access {
	a, err := tenant.NewAccess(context.Background(), tenant.Options{Keys: keys})
	if err != nil {
		panic(err)
	}
	return a
}

func logTo(w io.Writer) func(*Config, *Deps) {
	return func(_ *Config, d *Deps) {
		d.Log = slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
}

// post sends one request to the handler.
func post(s *Server, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	checked(s).ServeHTTP(w, r)
	return w
}

func get(s *Server, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	checked(s).ServeHTTP(w, r)
	return w
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Errorf("never: %s", what)
}

const hi = `"messages":[{"role":"user","content":"hi"}]`
