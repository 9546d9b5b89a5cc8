// Command attack runs what attackers and mishaps did to weft against the built program, and checks what must hold: go
// run ./scripts/attack PROGRAM. Each attack has a data directory of its own and a small model of the repository.
package main

import (
	"bytes"
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
	"time"

	"weft/adapters/peft/pefttest"
	"weft/internal/goldens"
)

// attacks in the order in which they run.
var attacks = []struct {
	name string
	run  func(w *world) error
}{
	{"an empty database beside a store of files", emptyDatabase},
	{"another database beside a store of files", anotherDatabase},
	{"a database that lost its keys", lostKeys},
	{"requests whose bodies never end", endlessBodies},
	{"slow uploads of eight tenants", slowUploads},
	{"a page of another name for 127.0.0.1", reboundName},
	{"keys that expire at the ends of time", expiry},
	{"parity files that cannot be replayed", parity},
	{"large texts to tokenize", largeTexts},
	{"numbers at the ends of their ranges", extremeNumbers},
	{"uploads that cannot be read", brokenUploads},
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "attack: give the program to attack: go run ./scripts/attack bin/weft")
		os.Exit(2)
	}
	program, err := filepath.Abs(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "attack:", err)
		os.Exit(1)
	}
	failed := false
	for _, a := range attacks {
		began := time.Now()
		err := attack(program, a.run)
		verdict := "held"
		if err != nil {
			failed, verdict = true, "FAILED: "+err.Error()
		}
		fmt.Printf("%s: %s (%.1f s)\n", a.name, verdict, time.Since(began).Seconds())
	}
	if failed {
		os.Exit(1)
	}
}

func attack(program string, run func(*world) error) (err error) {
	dir, err := os.MkdirTemp("", "weft-attack-")
	if err != nil {
		return err
	}
	w := &world{program: program, dir: dir, data: filepath.Join(dir, "data"),
		model: filepath.Join(goldens.Root(), "internal/goldens/testdata/data/weights/stories260K/hf")}
	defer func() { err = errors.Join(err, w.stop(), os.RemoveAll(dir)) }()
	if err := run(w); err != nil {
		return fmt.Errorf("%w\nthe server's log:\n%s", err, w.log.String())
	}
	return nil
}

// world is what an attack acts on: a data directory and at most one running server.
type world struct {
	program, model string
	dir, data      string // dir is removed at the end; data is in it
	url            string // of the server
	server         *exec.Cmd
	log            logBuffer
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// weft runs a command on the data directory and returns what it prints.
func (w *world) weft(args ...string) (string, error) {
	var out, errOut bytes.Buffer
	cmd := exec.Command(w.program, append(args, "--data", w.data)...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("weft %s: %w: %s", strings.Join(args, " "), err, errOut.String())
	}
	return strings.TrimSpace(out.String()), nil
}

// key makes a tenant, if it is new, and a key of a scope.
func (w *world) key(tenant, scope string) (string, error) {
	if _, err := w.weft("tenants", "add", tenant); err != nil && !strings.Contains(err.Error(), "exists") {
		return "", err
	}
	return w.weft("keys", "add", "--tenant", tenant, "--scope", scope)
}

// adapter writes an adapter that fits the model.
func (w *world) adapter(seed uint64) (dir string, err error) {
	cfg, err := pefttest.Config(w.model)
	if err != nil {
		return "", err
	}
	if dir, err = os.MkdirTemp(w.dir, "adapter-"); err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "adapter")
	return dir, pefttest.Write(dir, cfg, pefttest.Options{Seed: seed, Rank: 2})
}

// serve starts a server and waits until it is ready.
func (w *world) serve(args ...string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return err
	}
	w.url = "http://" + address
	w.server = exec.Command(w.program, append([]string{"serve", "--listen", address, "--model", w.model, "--memory",
		"1GiB", "--data", w.data}, args...)...)
	w.server.Stderr = &w.log
	if err := w.server.Start(); err != nil {
		return err
	}
	for range 600 {
		if resp, err := http.Get(w.url + "/ready"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("the server is not ready after 30 s")
}

// stop ends the server, if one runs.
func (w *world) stop() error {
	if w.server == nil {
		return nil
	}
	s := w.server
	w.server = nil
	if err := s.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	late := time.AfterFunc(20*time.Second, func() { _ = s.Process.Kill() })
	defer late.Stop()
	if err := s.Wait(); err != nil {
		return fmt.Errorf("the server ended with %w", err)
	}
	return nil
}

// logged waits until the server's log has a text.
func (w *world) logged(text string) error {
	for range 200 {
		if strings.Contains(w.log.String(), text) {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("the log does not say %q", text)
}

// call is a request: method and path, the key or "", the Host or "", and a body with its type.
type call struct {
	method, path, key, host string
	kind, body              string
}

// ask sends a request and returns status and body of the answer.
func (w *world) ask(c call) (status int, body string, err error) {
	req, err := http.NewRequest(c.method, w.url+c.path, strings.NewReader(c.body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	if c.kind != "" {
		req.Header.Set("Content-Type", c.kind)
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	if c.host != "" {
		req.Host = c.host
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// want sends a request and returns an error unless the status is the wanted one.
func (w *world) want(status int, c call) (string, error) {
	got, body, err := w.ask(c)
	if err == nil && got != status {
		err = fmt.Errorf("%s %s %.80s: status %d, want %d: %.300s", c.method, c.path, c.body, got, status, body)
	}
	return body, err
}

// blobs counts the files of adapters, and makes them look two days old.
func (w *world) blobs() (n int, err error) {
	err = filepath.WalkDir(filepath.Join(w.data, "blobs"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || len(d.Name()) != 64 {
			return err
		}
		n++
		old := time.Now().Add(-48 * time.Hour)
		return os.Chtimes(path, old, old)
	})
	return n, err
}
