package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// do sends a request and decodes its JSON body into out, which may be nil.
func (p *process) do(method, path, body string, out any) (status int) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			p.t.Fatalf("%s %s: %v: %s", method, path, err, text)
		}
	}
	return resp.StatusCode
}

// ask sends a chat request that is stored and returns the id of the completion.
func (p *process) ask(user, text string) string {
	p.t.Helper()
	body, err := json.Marshal(map[string]any{"messages": []any{map[string]string{"role": "user", "content": text}},
		"max_tokens": 4, "store": true, "safety_identifier": user})
	if err != nil {
		p.t.Fatal(err)
	}
	var out struct{ ID string }
	if status := p.do("POST", "/v1/chat/completions", string(body), &out); status != 200 {
		p.t.Fatalf("status %d", status)
	}
	return out.ID
}

// holds reports whether any file below dir has the text.
func holds(t *testing.T, dir, text string) (found bool) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		found = found || strings.Contains(string(b), text)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// What is stored outlives kill -9 of the server, is redacted and encrypted; `weft data forget` deletes it while the
// server runs; a missing or wrong master key is an error that says so, and loses nothing.
func TestDataForget(t *testing.T) {
	model, dir := tinyModel(t), t.TempDir()
	if err := os.WriteFile(filepath.Join(model, "chat_template.jinja"),
		[]byte("{% for m in messages %}{{ m.content }}\n{% endfor %}"), 0o644); err != nil {
		t.Fatal(err)
	}
	data, key := filepath.Join(dir, "data"), filepath.Join(dir, "key")
	rules := writeFile(t, "rules.yaml", "rules:\n- name: customer\n  pattern: 'K-\\d{6}'\n")
	if _, stderr, status := run(t, "", "tenants", "set", "default", "--capture", "on-request", "--redact-rules", rules,
		"--data", data); status != 0 {
		t.Fatal(stderr)
	}
	args := []string{"--model", model, "--data", data, "--capture-key", key, "--max-context", "256", "--memory", "1GiB"}
	p := startServer(t, args...)
	anna := p.ask("anna", "My address is anna.private@example.com, please write there. K-204711.")
	berta := p.ask("berta", "Good morning.")
	if status := p.do("POST", "/v1/feedback", fmt.Sprintf(`{"id":%q,"value":true,"comment":"mail me: b@example.com"}`,
		berta), nil); status != 200 {
		t.Errorf("feedback: status %d", status)
	}
	var kept struct {
		Data []struct{ Content string }
	}
	if p.do("GET", "/v1/chat/completions/"+anna+"/messages", "", &kept); len(kept.Data) != 1 ||
		!strings.Contains(kept.Data[0].Content, "[EMAIL_") || !strings.Contains(kept.Data[0].Content, "[CUSTOMER_") ||
		!strings.Contains(kept.Data[0].Content, "write there") {
		t.Errorf("%+v", kept)
	}
	p.signal(syscall.SIGKILL)
	p.wait(10 * time.Second)
	for _, text := range []string{"anna.private", "write there", "Good morning", "berta"} {
		if holds(t, data, text) {
			t.Errorf("%q is on the disk in clear", text)
		}
	}
	right, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []string{"", strings.Repeat("0f", 32)} {
		if wrong == "" {
			err = os.Remove(key)
		} else {
			err = os.WriteFile(key, []byte(wrong), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range [][]string{append([]string{"serve", "--listen", "127.0.0.1:0"}, args...),
			{"data", "forget", "--tenant", "default", "--user", "anna", "--data", data, "--capture-key", key}} {
			if _, stderr, status := run(t, "", command...); status != 2 || !strings.Contains(stderr, key) ||
				!strings.Contains(stderr, "put") {
				t.Errorf("%v with the key %q: status %d, %s", command[:2], wrong, status, stderr)
			}
		}
	}
	if err := os.WriteFile(key, right, 0o600); err != nil {
		t.Fatal(err)
	}
	p = startServer(t, args...)
	for _, id := range []string{anna, berta} {
		if status := p.do("GET", "/v1/chat/completions/"+id, "", nil); status != 200 {
			t.Errorf("after kill -9 and a start: status %d", status)
		}
	}
	stdout, stderr, status := run(t, "", "data", "forget", "--tenant", "default", "--user", "berta", "--data", data,
		"--capture-key", key, "--json")
	if status != 0 || !strings.Contains(stdout, `"records": 1`) || !strings.Contains(stdout, `"feedback": 1`) {
		t.Errorf("status %d, %s %s", status, stdout, stderr)
	}
	if status := p.do("GET", "/v1/chat/completions/"+berta, "", nil); status != 404 {
		t.Errorf("what another process deleted: status %d", status)
	}
	if status := p.do("GET", "/v1/chat/completions/"+anna, "", nil); status != 200 {
		t.Errorf("another user's completion: status %d", status)
	}
	if n := p.metric("weft:capture_lag_seconds"); n != 0 {
		t.Errorf("weft:capture_lag_seconds %v", n)
	}
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"--user x", 2, "--tenant"},
		{"--tenant default", 2, "one of --user"},
		{"--tenant default --user x --id y", 2, "one of --user"},
		{"--tenant nobody --user x", 1, "nobody"},
		{"--tenant default --id none", 1, "no such stored completion"},
		{"--tenant default --older-than -1h", 2, "--older-than"},
		{"--tenant default --user x --capture-key " + filepath.Join(data, "k"), 2, "in the data directory"},
	} {
		args := append([]string{"data", "forget", "--data", data}, strings.Fields(c.args)...)
		if !strings.Contains(c.args, "--capture-key") {
			args = append(args, "--capture-key", key)
		}
		if _, stderr, status := run(t, "", args...); status != c.status || !strings.Contains(stderr, c.says) {
			t.Errorf("%s: status %d, %s", c.args, status, stderr)
		}
	}
}
