package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"weft/internal/deadline"
	"weft/runtime/tokenizer"
)

// completion asks for one token after the prompt and returns the status, the answer, and its token with its
// log-probability.
func (p *process) completion(model string, prompt []int32) (status int, body string, token int32, logprob float64) {
	p.t.Helper()
	ids, err := json.Marshal(prompt)
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := p.post("/v1/completions", fmt.Sprintf(`{"model":%q,"prompt":%s,"max_tokens":1,"temperature":0,
		"logprobs":1,"return_tokens_as_token_ids":true}`, model, ids))
	if err != nil {
		p.t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		p.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, string(text), 0, 0
	}
	var answer struct {
		Choices []struct {
			Logprobs struct {
				Tokens   []string  `json:"tokens"`
				Logprobs []float64 `json:"token_logprobs"`
			} `json:"logprobs"`
		} `json:"choices"`
	}
	if err := json.Unmarshal(text, &answer); err != nil || len(answer.Choices) != 1 ||
		len(answer.Choices[0].Logprobs.Tokens) != 1 {
		p.t.Fatalf("%v: %s", err, text)
	}
	l := answer.Choices[0].Logprobs
	id, err := strconv.Atoi(strings.TrimPrefix(l.Tokens[0], "token_id:"))
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(text), int32(id), l.Logprobs[0]
}

// metric returns the value of a line of /metrics that begins with name.
func (p *process) metric(name string) float64 {
	p.t.Helper()
	resp := p.await("/metrics", http.StatusOK)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return v
		}
	}
	p.t.Fatalf("/metrics has no %s", name)
	return 0
}

// TestAdaptersAreCheckedWhenTheyAreLoaded: a server computes again what an adapter's parity file says, on the first
// request. Where the two differ the adapter is not served.
func TestAdaptersAreCheckedWhenTheyAreLoaded(t *testing.T) {
	plain, model := storiesAdapter(t, 1)
	tok, err := tokenizer.Load(model)
	if err != nil {
		t.Fatal(err)
	}
	prompt := tok.Encode("Once upon a time", tokenizer.EncodeOptions{AddSpecial: true})
	p := startServer(t, "--model", model, "--adapter", "plain="+plain)
	status, body, token, logprob := p.completion("plain", prompt)
	if status != http.StatusOK || logprob < -1.5 {
		t.Fatalf("%d: %s; the token must be likely, else it is not compared", status, body)
	}
	args := []string{"--model", model}
	for name, recorded := range map[string]float64{"same": logprob, "other": logprob - 0.9} {
		dir, _ := storiesAdapter(t, 1)
		text, err := json.Marshal(map[string]any{"base": "stories", "prompts": []any{map[string]any{"ids": prompt,
			"top": []int32{token}, "logprobs": []float64{recorded}}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "parity.json"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--adapter", name+"="+dir)
	}
	p = startServer(t, args...)
	if status, body, _, _ := p.completion("same", prompt); status != http.StatusOK {
		t.Errorf("an adapter that computes what was recorded: %d %s", status, body)
	}
	for range 2 {
		if status, body, _, _ := p.completion("other", prompt); status != http.StatusFailedDependency ||
			!strings.Contains(body, `"adapter_failed"`) {
			t.Errorf("an adapter that computes something else: %d %s, want 424 adapter_failed", status, body)
		}
	}
	if ok, failed := p.metric(`weft:adapter_loads_total{from="disk",result="ok"}`),
		p.metric(`weft:adapter_loads_total{from="disk",result="failed"}`); ok != 1 || failed != 1 {
		t.Errorf("%v loads succeeded and %v failed, want 1 and 1", ok, failed)
	}
}

// TestEvictionsAreCounted in the metrics: with room for one adapter, each that is loaded evicts the one before.
func TestEvictionsAreCounted(t *testing.T) {
	one, model := storiesAdapter(t, 1)
	two, _ := storiesAdapter(t, 2)
	dirs := map[string]string{"one": one, "two": two}
	args := []string{"--model", model, "--adapter-memory", "140KiB"}
	for _, name := range slices.Sorted(maps.Keys(dirs)) {
		args = append(args, "--adapter", name+"="+dirs[name])
	}
	p := startServer(t, args...)
	const evictions = `weft:adapter_evictions_total{tier="device"}`
	for i, name := range []string{"one", "one", "two", "two", "one"} {
		if status, body, _, _ := p.completion(name, []int32{1, 403}); status != http.StatusOK {
			t.Fatalf("%d %s", status, body)
		}
		// the counter follows the cache at each scrape, and a scrape may collect it before it has followed
		want := float64(i / 2)
		deadline.Until(t, fmt.Sprintf("%v evictions after request %d", want, i), func() bool {
			return p.metric(evictions) == want
		})
		if got := p.metric(`weft:adapters_resident{tier="device"}`); got != 1 {
			t.Errorf("after request %d: %v adapters in memory, want 1", i, got)
		}
	}
}
