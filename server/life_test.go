package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// serveTest runs a server on a free port; stop begins its drain and returns Run's error.
func serveTest(t *testing.T, s *Server) (addr string, stop func() error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	stopped := false
	stop = func() error {
		cancel()
		stopped = true
		select {
		case err := <-done:
			return err
		case <-time.After(10 * time.Second):
			return fmt.Errorf("Run did not return")
		}
	}
	t.Cleanup(func() {
		if !stopped {
			if err := stop(); err != nil {
				t.Error(err)
			}
		}
	})
	return l.Addr().String(), stop
}

func postTo(ctx context.Context, addr, path, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	return checkedClient.Do(req)
}

// A client that leaves, before the first byte, within a stream or while it waits for a whole answer, ends its
// sequences.
func TestDisconnectCancels(t *testing.T) {
	for _, c := range []struct {
		name, body string
		tokens     int // let through before the client leaves
		hold       bool
	}{
		{"in prefill", `{"stream":true,"n":2,` + hi + `}`, 0, true},
		{"in a stream", `{"stream":true,"n":2,` + hi + `}`, 4, false},
		{"waiting for the whole", `{"n":2,` + hi + `}`, 4, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := &fakeEngine{reply: strings.Repeat("x", 50), gate: make(chan struct{}, c.tokens)}
			if c.hold {
				e.hold = make(chan struct{})
			}
			addr, _ := serveTest(t, newTest(t, e))
			ctx, cancel := context.WithCancel(context.Background())
			for range c.tokens {
				e.gate <- struct{}{}
			}
			go func() {
				resp, err := postTo(ctx, addr, "/v1/chat/completions", c.body)
				if err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			}()
			eventually(t, "both sequences run", func() bool { return e.live.Load() == 2 && len(e.gate) == 0 })
			cancel()
			eventually(t, "both sequences are cancelled",
				func() bool { return e.live.Load() == 0 && e.cancel.Load() == 2 })
		})
	}
}

// A disconnect after any number of bytes of the request or of the answer leaves no sequence and no request behind.
func TestDisconnectAtAnyByte(t *testing.T) {
	e := &fakeEngine{reply: strings.Repeat("y", 20)}
	s := newTest(t, e)
	addr, _ := serveTest(t, s)
	body := `{"stream":true,` + hi + `}`
	request := fmt.Sprintf(
		"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "+
			"%d\r\n\r\n%s", len(body), body)
	for n := 0; n <= len(request); n += 7 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, request[:n])
		conn.Close()
	}
	for n := 1; n < 4000; n += 331 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		_, _ = io.WriteString(conn, request)
		_, _ = io.CopyN(io.Discard, conn, int64(n))
		conn.Close()
	}
	eventually(t, "nothing is left", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return e.live.Load() == 0 && s.working == 0
	})
	if w := post(s, "/v1/chat/completions", `{`+hi+`}`); w.Code != 200 {
		t.Errorf("afterwards: %d", w.Code)
	}
}

func TestSlowBody(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "a"}, func(c *Config, _ *Deps) { c.BodyTimeout = 50 * time.Millisecond })
	addr, _ := serveTest(t, s)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn,
		"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "+
			"100\r\n\r\n{\"prompt\"")
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 408 || !resp.Close ||
		!strings.Contains(string(body), "in time") {
		t.Errorf("%d close %v %s", resp.StatusCode, resp.Close, body)
	}
}

// A client that asks before it sends too much is told at once, not after the body's time.
func TestExpectTooLarge(t *testing.T) {
	addr, _ := serveTest(t, newTest(t, &fakeEngine{reply: "a"}, func(c *Config, _ *Deps) { c.MaxBody = 100 }))
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn,
		"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: "+
			"100-continue\r\nContent-Length: 1000000\r\n\r\n")
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	text, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 413 ") {
		t.Errorf("%v %q", err, text)
	}
}

// A client that does not read is cut off and its sequence ended, though the connection stays open.
func TestStuckReader(t *testing.T) {
	e := &fakeEngine{reply: strings.Repeat("z", 100)}
	s := newTest(t, e, func(c *Config, _ *Deps) { c.WriteTimeout, c.Context = 100*time.Millisecond, 1<<22 })
	addr, _ := serveTest(t, s)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(4096)
	body := `{"stream":true,"ignore_eos":true,"skip_special_tokens":false,"max_tokens":4000000,` + hi + `}`
	fmt.Fprintf(conn,
		"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "+
			"%d\r\n\r\n%s", len(body), body)
	eventually(t, "the sequence runs", func() bool { return e.live.Load() == 1 })
	end := time.Now().Add(20 * time.Second)
	for e.live.Load() != 0 {
		if time.Now().After(end) {
			t.Fatal("the sequence still runs")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestTooManyRequests(t *testing.T) {
	e := &fakeEngine{reply: "a", hold: make(chan struct{})}
	s := newTest(t, e, func(c *Config, _ *Deps) { c.MaxRequests = 1 })
	done := make(chan int)
	go func() { done <- post(s, "/v1/chat/completions", `{`+hi+`}`).Code }()
	eventually(t, "the first runs", func() bool { return e.live.Load() == 1 })
	w := post(s, "/v1/chat/completions", `{`+hi+`}`)
	wantError(t, w, 429, "", "limit of concurrent requests")
	if w.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	close(e.hold)
	if code := receive(t, done); code != 200 {
		t.Errorf("the first: %d", code)
	}
}

// A drain refuses new requests, lets the running one end whole, and Run returns nil.
func TestDrainFinishesWhatRuns(t *testing.T) {
	e := &fakeEngine{reply: "abc", gate: make(chan struct{})}
	s := newTest(t, e)
	addr, stop := serveTest(t, s)
	resp, err := postTo(context.Background(), addr, "/v1/chat/completions", `{"stream":true,`+hi+`}`)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	eventually(t, "the drain has begun", s.draining)
	refused, err := postTo(context.Background(), addr, "/v1/chat/completions", `{`+hi+`}`)
	if err != nil {
		t.Fatal(err)
	}
	refused.Body.Close()
	if refused.StatusCode != 503 || refused.Header.Get("Retry-After") == "" || !refused.Close {
		t.Errorf("a new request: %d Retry-After %q close %v", refused.StatusCode, refused.Header.Get("Retry-After"),
			refused.Close)
	}
	for _, path := range []string{"/ready", "/health", "/v1/health", "/ping"} {
		wantError(t, get(s, path), 503, "", "shutting down")
	}
	for path, want := range map[string]string{"/live": `{"status":"ok"}`, "/load": `{"server_load":1}`} {
		if w := get(s, path); w.Code != 200 || w.Body.String() != want {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	close(e.gate)
	body, err := io.ReadAll(resp.Body)
	if text, finish, _ := textOf(t, string(body)); err != nil || text[0] != "abc" || finish[0] != "stop" ||
		!strings.HasSuffix(string(body), "[DONE]\n\n") {
		t.Errorf("the running one: %v %s", err, body)
	}
	if err := receive(t, ended); err != nil {
		t.Errorf("Run: %v", err)
	}
}

// What outlives the drain's time ends with an error: an event in a stream, a status otherwise.
func TestDrainEndsTheRest(t *testing.T) {
	e := &fakeEngine{reply: "abc", gate: make(chan struct{}, 1)}
	s := newTest(t, e, func(c *Config, _ *Deps) { c.DrainTimeout = 50 * time.Millisecond })
	addr, stop := serveTest(t, s)
	streamed, err := postTo(context.Background(), addr, "/v1/chat/completions", `{"stream":true,`+hi+`}`)
	if err != nil {
		t.Fatal(err)
	}
	defer streamed.Body.Close()
	whole := make(chan *http.Response, 1)
	go func() {
		resp, err := postTo(context.Background(), addr, "/v1/chat/completions", `{`+hi+`}`)
		if err != nil {
			t.Error(err)
		}
		whole <- resp
	}()
	eventually(t, "both run", func() bool { return e.live.Load() == 2 })
	if err := stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	body, _ := io.ReadAll(streamed.Body)
	evs := streamOf(t, string(body))
	if last := evs[len(evs)-1]; !strings.Contains(last, `"error":{"message":"The server is shutting down."`) || strings.Contains(string(body), "[DONE]") {
		t.Errorf("the stream: %s", body)
	}
	if resp := receive(t, whole); resp != nil {
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
			t.Errorf("the whole answer: %d %s", resp.StatusCode, body)
		}
	}
	eventually(t, "no sequence is left", func() bool { return e.live.Load() == 0 })
}

// Before there is a model the listener answers at once, on a connection that stays good for the time after.
func TestWhileLoading(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	front := NewFront(l, slog.New(slog.DiscardHandler))
	defer front.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	r := bufio.NewReader(conn)
	ask := func(method, path, body string) (*http.Response, string) {
		t.Helper()
		fmt.Fprintf(conn,
			"%s %s HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\nContent-Type: application/json\r\nContent-Length: "+
				"%d\r\n\r\n%s", method, path, len(body), body)
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		text, _ := io.ReadAll(resp.Body)
		return resp, string(text)
	}
	for _, method := range []string{"GET", "HEAD"} {
		if resp, body := ask(method, "/live/", ""); resp.StatusCode != 200 || method == "GET" && body != `{"status":"ok"}` {
			t.Errorf("%s /live/: %d %s", method, resp.StatusCode, body)
		}
	}
	for _, c := range [][3]string{{"GET", "/ready", ""}, {"GET", "/health", ""}, {"GET", "/ping", ""},
		{"GET", "/v1/models", ""}, {"GET", "/metrics", ""},
		{"GET", "/nowhere/", ""}, {"GET", "/ready/", ""}, {"POST", "/live", ""},
		{"POST", "/v1/chat/completions", `{` + hi + `}`}} {
		resp, body := ask(c[0], c[1], c[2])
		var e struct {
			Error struct{ Message, Type, Code string }
		}
		if err := json.Unmarshal([]byte(body), &e); err != nil || resp.StatusCode != 503 ||
			resp.Header.Get("Retry-After") == "" || resp.Header.Get("X-Request-Id") != "mine" ||
			e.Error.Type != "service_unavailable_error" || e.Error.Code != "not_ready" ||
			!strings.Contains(e.Error.Message, "not ready") {
			t.Errorf("%s %s: %d %v %s", c[0], c[1], resp.StatusCode, resp.Header, body)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- front.Run(ctx, newTest(t, &fakeEngine{reply: "a"})) }()
	eventually(t, "the model answers",
		func() bool { resp, _ := ask("GET", "/ready", ""); return resp.StatusCode == 200 })
	if resp, body := ask("POST", "/v1/chat/completions", `{`+hi+`}`); resp.StatusCode != 200 {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	cancel()
	if err := receive(t, done); err != nil {
		t.Error(err)
	}
}
