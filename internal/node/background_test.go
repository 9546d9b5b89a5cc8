package node

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"weft/internal/settings/network"
	"weft/runtime/engine"
	"weft/runtime/sample"
)

// A server answers beside an evaluation, whose sequences are in figures of their own and in none of requests.
func TestServesBesideBackground(t *testing.T) {
	n, err := Open(t.Context(), Config{Model: storiesConfig(t),
		Settings: network.Settings{Listen: "127.0.0.1:0", MaxBody: 4 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Serve(serving) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}()
	place, err := n.Model.Engine.Background(t.Context(), "evaluation")
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
		if _, err := place.Submit(t.Context(), engine.Request{Prompt: n.Model.Tokenizer.StopIDs()[:1], MaxTokens: 500,
			PromptLogprobs: -1, Sampling: sample.Params{TopP: 1, RepetitionPenalty: 1, Logprobs: -1}}); err != nil {
			t.Fatal(err)
		}
	}
	for late := time.Now().Add(10 * time.Second); n.Model.Engine.Stats().Background.Tokens == 0; {
		if time.Sleep(time.Millisecond); time.Now().After(late) {
			t.Fatal("the evaluation does not begin")
		}
	}
	get := func(resp *http.Response, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%d %s %v", resp.StatusCode, text, err)
		}
		return string(text)
	}
	get(http.Post(n.URL()+"/v1/completions", "application/json",
		strings.NewReader(`{"prompt":"Once upon","max_tokens":5,"ignore_eos":true}`)))
	status, metrics := get(http.Get(n.URL()+"/admin/v1/status")), get(http.Get(n.URL()+"/metrics"))
	if !strings.Contains(status, `"jobs":["evaluation"]`) {
		t.Error(status)
	}
	for _, want := range []string{`weft:background_jobs\{state="running"\} 1`, `weft:background_tokens_total [1-9]`,
		`vllm:generation_tokens_total\{.*\} 5`, `vllm:num_requests_running\{.*\} 0`, `vllm:kv_cache_usage_perc\{.*\} 0`} {
		if !regexp.MustCompile(`(?m)^` + want).MatchString(metrics) {
			t.Errorf("no line %s", want)
		}
	}
	place.Close()
	for late := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) { // for the end of a step
		s := n.Model.Engine.Stats().Background
		if s.Running+s.Waiting+len(s.Jobs) == 0 {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("%+v after the end of the evaluation", s)
		}
	}
}
