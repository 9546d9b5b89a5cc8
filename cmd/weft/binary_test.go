package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
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
	p.cmd = exec.Command(path,
		append([]string{"serve", "--listen", addr, "--memory", "2GiB", "--data", t.TempDir()}, args...)...)
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

// await asks until the path answers with the status.
func (p *process) await(path string, status int) *http.Response {
	p.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if resp, err := http.Get(p.url + path); err == nil {
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
	return http.Post(p.url+path, "application/json", strings.NewReader(body))
}
