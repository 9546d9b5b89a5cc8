package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary builds weft once for all tests that need a process.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "weft-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "weft")
	out, err := exec.Command("go", "build", "-buildvcs=false", "-tags", "invariants", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// run executes weft and returns what it printed and its exit status.
func run(t *testing.T, stdin string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	return runIn(t, "", stdin, args...)
}

// runIn is run in a folder.
func runIn(t *testing.T, dir, stdin string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// process is a running `weft serve`.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	url  string
	log  *syncBuffer
	done chan error
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// startServer runs `weft serve` with args on a free port and waits until it is ready.
func startServer(t *testing.T, args ...string) *process {
	t.Helper()
	p := launchServer(t, args...)
	p.await("/ready", http.StatusOK).Body.Close()
	return p
}

// launchServer does not wait.
func launchServer(t *testing.T, args ...string) *process {
	t.Helper()
	return launch(t, func(addr string) []string {
		return append([]string{"serve", "--listen", addr, "--memory", "2GiB", "--data", t.TempDir()}, args...)
	})
}

// launch runs the weft with the arguments that listen on a free address.
func launch(t *testing.T, args func(addr string) []string) *process {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	p := &process{t: t, url: "http://" + addr, log: &syncBuffer{}, done: make(chan error, 1)}
	p.cmd = exec.Command(path, args(addr)...)
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("server log:\n%s", p.log)
		}
	})
	return p
}

// client gives up after a minute, so that no test waits for ever.
var client = &http.Client{Timeout: time.Minute}

// await asks until the path answers with the status.
func (p *process) await(path string, status int) *http.Response {
	p.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if resp, err := client.Get(p.url + path); err == nil {
			if resp.StatusCode == status {
				return resp
			}
			resp.Body.Close()
		}
		select {
		case err := <-p.done:
			p.t.Fatalf("the server ended before %s was %d: %v\n%s", path, status, err, p.log)
		default:
		}
	}
	p.t.Fatalf("%s is not %d after a minute\n%s", path, status, p.log)
	return nil
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// wait returns the exit status, or fails after the given time.
func (p *process) wait(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		p.t.Fatalf("the server still runs after %v\n%s", within, p.log)
		return -1
	}
}

func (p *process) post(path, body string) (*http.Response, error) {
	return client.Post(p.url+path, "application/json", strings.NewReader(body))
}

// hold begins a request whose body is not complete before release, and waits until the server counts it: a drain lasts
// at least as long. The release returns the status of the answer.
func (p *process) hold() (release func() int) {
	p.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		p.t.Fatal(err)
	}
	const body = `{"prompt":"x","max_tokens":1}`
	fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"+
		"Content-Length: %d\r\n\r\n%s", len(body), body[:5])
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var status struct{ Requests int }
		resp := p.await("/admin/v1/status", http.StatusOK)
		err := json.NewDecoder(resp.Body).Decode(&status)
		resp.Body.Close()
		if err != nil {
			p.t.Fatal(err)
		}
		if status.Requests > 0 {
			break
		}
		if time.Now().After(deadline) {
			p.t.Fatal("the server does not count a request whose body has begun")
		}
	}
	return func() int {
		p.t.Helper()
		if _, err := io.WriteString(conn, body[5:]); err != nil {
			p.t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			p.t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			p.t.Error(err)
		}
		return resp.StatusCode
	}
}

// refuses waits until the server answers a new request with 503 and Retry-After.
func (p *process) refuses() {
	p.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		resp, err := p.post("/v1/completions", `{"prompt":"x","max_tokens":1}`)
		if err != nil {
			p.t.Fatalf("a new request is not answered: %v", err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusServiceUnavailable {
			if resp.Header.Get("Retry-After") == "" {
				p.t.Error("503 without Retry-After")
			}
			return
		}
	}
	p.t.Fatal("no new request is refused")
}
