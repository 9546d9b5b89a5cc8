package server

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/internal/goldens"
	"weft/runtime/tokenizer"
	"weft/runtime/weights"
	"weft/server/openai"
)

// discarder is a client that reads an answer and keeps nothing of it.
type discarder struct {
	header http.Header
	status int
	n      int
}

func (d *discarder) Header() http.Header { return d.header }
func (d *discarder) WriteHeader(s int)   { d.status = s }
func (d *discarder) Write(p []byte) (int, error) {
	d.n += len(p)
	return len(p), nil
}

// peak returns by how much the live heap grew while f ran, as two collections in a row find it: one alone counts what
// becomes garbage and what is allocated while it works.
func peak(f func()) (most uint64) {
	defer debug.SetGCPercent(debug.SetGCPercent(1))
	runtime.GC()
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/cycles/total:gc-cycles"}}
	metrics.Read(sample)
	base, stop := sample[0].Value.Uint64(), make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		before, cycle := uint64(0), uint64(0)
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Microsecond):
			}
			metrics.Read(sample)
			if now := sample[1].Value.Uint64(); now != cycle {
				live := sample[0].Value.Uint64()
				most = max(most, min(before, live))
				before, cycle = live, now
			}
		}
	})
	f()
	close(stop)
	watcher.Wait()
	return max(most, base) - base
}

// TestTokenizeMemory: /tokenize and /detokenize need at most 8 bytes for each byte of the body, whatever the text is.
func TestTokenizeMemory(t *testing.T) {
	const size = 1 << 20
	small, err := weights.OpenGGUF(goldens.Shared(t, "data", "weights", "stories260K", "stories260K.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer small.Close()
	for name, load := range map[string]func() (*tokenizer.Tokenizer, error){
		"smollm2": func() (*tokenizer.Tokenizer, error) {
			return tokenizer.Load(goldens.Path(t, "serve", "tokenizers", "smollm2"))
		},
		"stories260K": func() (*tokenizer.Tokenizer, error) { return tokenizer.FromGGUF(small.Meta()) },
	} {
		tok, err := load()
		if err != nil {
			t.Fatal(err)
		}
		s := newTest(t, &fakeEngine{}, func(c *Config, d *Deps) { c.Vocab, d.Tokenizer = 500, realTokenizer{tok} })
		for what, piece := range map[string]string{"one word": "a", "spaces": " ", "words": "some words of a text, ",
			"digits": "0123456789", "control characters": "\\u0001", "characters": "語", "lines": `\n\n \n`} {
			checkMemory(t, s, name+": "+what, "/tokenize", `{"prompt":"`+strings.Repeat(piece, size/len(piece))+`"}`)
		}
		words := strings.Repeat("some words of a text, ", size/22)
		checkMemory(t, s, name+": tokens as text", "/tokenize", `{"return_token_strs":true,"prompt":"`+words+`"}`)
		ids := strings.Repeat("300,", size/4)
		checkMemory(t, s, name+": ids", "/detokenize", `{"tokens":[`+ids+`1]}`)
		members := strings.Repeat(`,"abc":0`, size/8)
		checkMemory(t, s, name+": many members", "/tokenize", `{"prompt":"x"`+members+`}`)
	}
}

// TestManyMembers: the names of a body's members take memory, so there are not too many.
func TestManyMembers(t *testing.T) {
	members := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"m%d":{"a":[1,"]}\\\""]}`, i)
		}
		return b.String()
	}
	s := newTest(t, &fakeEngine{reply: "a"})
	if w := post(s, "/v1/chat/completions", `{`+hi+members(openai.MaxMembers-1)+`}`); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w := post(s, "/v1/chat/completions", `{`+hi+members(openai.MaxMembers)+`}`)
	wantError(t, w, 400, "", "more than 1000 members")
}

// TestLargeTextsByTenant: one tenant's large texts do not take all places for them.
func TestLargeTextsByTenant(t *testing.T) {
	s, _ := newTenants(t)
	evil, good := "Bearer "+s.tenantKey(t, "evil", nil), "Bearer "+s.tenantKey(t, "good", nil)
	large := `{"prompt":"` + strings.Repeat("a", largeBody) + `"}`
	for {
		if _, ok := s.large.enter("evil"); !ok {
			break
		}
	}
	for what, c := range map[string]struct {
		key, body string
		status    int
	}{"large": {evil, large, 429}, "small": {evil, `{"prompt":"a"}`, 200}, "of another tenant": {good, large, 200}} {
		if w := s.do("POST", "/tokenize", c.key, c.body); w.Code != c.status {
			t.Errorf("%s: %d %.100s, want %d", what, w.Code, w.Body, c.status)
		}
	}
	for path, body := range map[string]string{"/v1/completions/render": large, "/completions/render": large,
		"/detokenize":                 `{"tokens":[` + strings.Repeat("1,", largeBody/2) + `1]}`,
		"/v1/chat/completions/render": `{"messages":[{"role":"user","content":` + large[len(`{"prompt":`):] + `]}`} {
		if w := s.do("POST", path, evil, body); w.Code != 429 {
			t.Errorf("%s: %d %.100s, want 429", path, w.Code, w.Body)
		}
		if w := s.do("POST", path, good, body); w.Code == 429 || w.Code >= 500 {
			t.Errorf("%s of another tenant: %d %.100s", path, w.Code, w.Body)
		}
	}
}

func checkMemory(t *testing.T, s *Server, what, path, body string) {
	t.Helper()
	r := httptest.NewRequest("POST", path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := &discarder{header: http.Header{}}
	got := peak(func() { s.Handler().ServeHTTP(w, r) })
	if w.status != http.StatusOK || w.n == 0 {
		t.Errorf("%s: status %d, %d bytes", what, w.status, w.n)
	}
	if got > 8*uint64(len(body)) {
		t.Errorf("%s: %.1f MiB for a body of %.1f: %.1f times", what, float64(got)/(1<<20), float64(len(body))/(1<<20),
			float64(got)/float64(len(body)))
	}
}
