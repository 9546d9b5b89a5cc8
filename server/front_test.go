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
		if resp, body := ask(method, "/health", ""); resp.StatusCode != 200 || method == "GET" && body != `{"status":"ok"}` {
			t.Errorf("%s /health: %d %s", method, resp.StatusCode, body)
		}
	}
	for _, c := range [][3]string{{"GET", "/ready", ""}, {"GET", "/v1/models", ""}, {"GET", "/metrics", ""},
		{"GET", "/nowhere/", ""}, {"GET", "/health/", ""}, {"POST", "/health", ""},
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
	if err := <-done; err != nil {
		t.Error(err)
	}
}
