package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A server beside training knows tenants, keys and adapters as any other: those of the data directory.
func TestServerBesideTraining(t *testing.T) {
	adapter, model := storiesAdapter(t, 1)
	state := filepath.Join(t.TempDir(), "state")
	do := func(args ...string) string {
		t.Helper()
		out, err := weft(append(args, "--data", state)...)
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return strings.TrimSpace(out)
	}
	do("tenants", "add", "acme")
	do("adapters", "add", "acme/support", adapter)
	key := do("keys", "add", "--tenant", "acme")
	data := writeFile(t, "samples.jsonl", strings.Repeat(`{"prompt":"Once upon","completion":" a time"}`+"\n", 4))
	p := launch(t, func(addr string) []string {
		return []string{"train", "--listen", addr, "--model", model, "--data", data, "--out", t.TempDir(),
			"--data-dir", state,
			"--memory", "2GiB", "--max-steps", "1000000", "--save-steps", "1000000", "--logging-steps", "1000"}
	})
	p.await("/ready", http.StatusOK).Body.Close()
	ask := func(key, model string) (int, string) {
		t.Helper()
		req := httptest.NewRequest(http.MethodPost, p.url+"/v1/completions",
			strings.NewReader(`{"prompt":"Once","max_tokens":3,"model":"`+model+`"}`))
		req.RequestURI = ""
		req.Header.Set("Authorization", "Bearer "+key)
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	status, text := ask(key, "support")
	var answer struct {
		Model string
		Usage struct {
			CompletionTokens int `json:"completion_tokens"`
		}
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil || status != http.StatusOK ||
		answer.Model != "support" || answer.Usage.CompletionTokens == 0 {
		t.Errorf("the tenant's adapter: %d %s (%v)", status, text, err)
	}
	if status, text := ask(key, "another"); status != http.StatusNotFound {
		t.Errorf("an adapter that is not there: %d %s", status, text)
	}
	if status, text := ask("weft-no-such-key", "support"); status != http.StatusUnauthorized {
		t.Errorf("a key that is not there: %d %s", status, text)
	}
	p.signal(syscall.SIGTERM)
	if status := p.wait(time.Minute); status != 1 || !strings.Contains(p.log.String(), "interrupted") {
		t.Errorf("exit status %d after SIGTERM", status)
	}
}
