package server

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"weft/server/openai"
)

var (
	anyID   = regexp.MustCompile(`(chatcmpl|cmpl)-[0-9a-f]{32}`)
	anyTime = regexp.MustCompile(`"created":\d+`)
)

// fixed replaces what differs from run to run.
func fixed(s string) string {
	return anyTime.ReplaceAllString(anyID.ReplaceAllString(s, "$1-ID"), `"created":T`)
}

func TestChatAnswer(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "Hé!"})
	w := post(s, "/v1/chat/completions", `{"model":"org/tiny",`+hi+`}`)
	want := `{"id":"chatcmpl-ID","object":"chat.completion","created":T,"model":"org/tiny","choices":[{"index":0,"message":{"role":"assistant","content":"Hé!","refusal":null},` +
		`"logprobs":null,"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":4,"total_tokens":9,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":1}}}`
	if got := fixed(w.Body.String()); w.Code != 200 || got != want {
		t.Errorf("%d\n got %s\nwant %s", w.Code, got, want)
	}
}

// streamOf splits a stream into its events.
func streamOf(t *testing.T, body string) []string {
	t.Helper()
	if !strings.HasSuffix(body, "\n\n") {
		t.Fatalf("the stream does not end with an empty line: %q", body)
	}
	return strings.Split(strings.TrimSuffix(body, "\n\n"), "\n\n")
}

// The bytes of a stream: role, whole characters only, finish reason, usage, end.
func TestChatStreamBytes(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "Hé"})
	w := post(s, "/v1/chat/completions", `{"stream":true,"stream_options":{"include_usage":true},`+hi+`}`)
	head := `data: {"id":"chatcmpl-ID","object":"chat.completion.chunk","created":T,"model":"org/tiny",`
	want := head + `"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n" +
		head + `"choices":[{"index":0,"delta":{"content":"H"},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n" +
		head + `"choices":[{"index":0,"delta":{"content":"é"},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n" +
		head + `"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}` + "\n\n" +
		head + `"choices":[],"usage":{"prompt_tokens":4,"total_tokens":8,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":1}}}` + "\n\n" +
		"data: [DONE]\n\n"
	if got := fixed(w.Body.String()); w.Code != 200 || got != want {
		t.Errorf("%d\n got %s\nwant %s", w.Code, got, want)
	}
	ids := anyID.FindAllString(w.Body.String(), -1)
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("ids differ: %v", ids)
		}
	}
	for k, v := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-cache",
		"X-Accel-Buffering": "no"} {
		if got := w.Header().Get(k); got != v {
			t.Errorf("%s is %q, want %q", k, got, v)
		}
	}
	// Without include_usage no chunk speaks of usage.
	w = post(s, "/v1/chat/completions", `{"stream":true,`+hi+`}`)
	if strings.Contains(w.Body.String(), "usage") || !strings.HasSuffix(w.Body.String(), "data: [DONE]\n\n") {
		t.Errorf("got %s", w.Body)
	}
}

// textOf joins the text of a chat stream by choice.
func textOf(t *testing.T, body string) (text map[int]string, finish map[int]string, lps map[int]string) {
	t.Helper()
	text, finish, lps = map[int]string{}, map[int]string{}, map[int]string{}
	for _, ev := range streamOf(t, body) {
		data := strings.TrimPrefix(ev, "data: ")
		if data == "[DONE]" || strings.HasPrefix(data, ":") {
			continue
		}
		var chunk openai.ChatChunk
		if err := json.Unmarshal([]byte(data), &chunk); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		for _, ch := range chunk.Choices {
			if ch.Delta.Content != nil {
				text[ch.Index] += *ch.Delta.Content
			}
			if ch.FinishReason != nil {
				finish[ch.Index] += *ch.FinishReason
			}
			if ch.Logprobs != nil {
				for _, c := range ch.Logprobs.Content {
					lps[ch.Index] += c.Token + "|"
				}
			}
		}
	}
	return text, finish, lps
}

func TestChatParameters(t *testing.T) {
	for _, c := range []struct {
		name, reply, params    string
		text, finish, logprobs string
		stopReason             string
		completion             int
	}{
		{"length", "abcdef", `"max_tokens":3`, "abc", "length", "", "null", 3},
		{"stop string", "abcdef", `"stop":"cd"`, "ab", "stop", "", `"cd"`, 4},
		{"stop string kept", "abcdef", `"stop":["xx","cd"],"include_stop_str_in_output":true`, "abcd", "stop", "", `"cd"`, 4},
		{"prefix of a stop at the end", "abc", `"stop":"cd"`, "abc", "stop", "", "null", 4},
		{"stop id", "abcdef", `"stop_token_ids":[100]`, "abc", "stop", "", "100", 4},
		{"special kept", "ab", `"ignore_eos":true,"skip_special_tokens":false,"max_tokens":4`, "ab<eos><eos>", "length", "", "null", 4},
		{"special skipped", "ab", `"ignore_eos":true,"max_tokens":4`, "ab", "length", "", "null", 4},
		{"min tokens before stops", "aaaaab", `"stop":"a","min_tokens":3`, "aa", "stop", "", `"a"`, 3},
		{"half a character at the end", "aé", `"max_tokens":2`, "a\ufffd", "length", "", "null", 2},
		{"logprobs", "ab", `"logprobs":true,"top_logprobs":2`, "ab", "stop", "a|b|", "null", 3},
		{"logprobs of a split character", "é", `"logprobs":true`, "é", "stop", `bytes:\xc3|bytes:\xa9|`, "null", 3},
		{"logprobs of a hidden stop string", "abcdef", `"logprobs":true,"stop":"cd"`, "ab", "stop", "a|b|", `"cd"`, 4},
		{"logprobs as ids", "ab", `"logprobs":true,"return_tokens_as_token_ids":true`, "ab", "stop", "token_id:97|token_id:98|", "null", 3},
		{"temperature 0", "ab", `"temperature":0,"top_p":0`, "ab", "stop", "", "null", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := &fakeEngine{reply: c.reply}
			s := newTest(t, e)
			w := post(s, "/v1/chat/completions", `{`+c.params+`,`+hi+`}`)
			var got struct {
				Choices []struct {
					Message    struct{ Content string }
					Logprobs   *openai.ChatLogprobs
					StopReason json.RawMessage `json:"stop_reason"`
					Finish     string          `json:"finish_reason"`
				}
				Usage openai.Usage
			}
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || len(got.Choices) != 1 {
				t.Fatalf("%d %s: %v", w.Code, w.Body, err)
			}
			ch := got.Choices[0]
			lp := ""
			if ch.Logprobs != nil {
				for _, e := range ch.Logprobs.Content {
					lp += e.Token + "|"
				}
			}
			if ch.Message.Content != c.text || ch.Finish != c.finish || lp != c.logprobs ||
				string(ch.StopReason) != c.stopReason || got.Usage.CompletionTokens != c.completion {
				t.Errorf("got %q %s logprobs %q stop_reason %s, %d tokens", ch.Message.Content, ch.Finish, lp,
					ch.StopReason, got.Usage.CompletionTokens)
			}
			w = post(s, "/v1/chat/completions", `{"stream":true,`+c.params+`,`+hi+`}`)
			text, finish, lps := textOf(t, w.Body.String())
			if text[0] != c.text || finish[0] != c.finish || lps[0] != c.logprobs {
				t.Errorf("streamed %q %s logprobs %q", text[0], finish[0], lps[0])
			}
			eventually(t, "no sequence is left", func() bool { return e.live.Load() == 0 })
		})
	}
}

func TestLogprobsShape(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "d"})
	w := post(s, "/v1/chat/completions", `{"logprobs":true,"top_logprobs":2,`+hi+`}`)
	want := `"logprobs":{"content":[{"token":"d","logprob":-1,"bytes":[100],"top_logprobs":[{"token":"d","logprob":-1,"bytes":[100]},{"token":"e","logprob":-2,"bytes":[101]}]}],"refusal":null}`
	if !strings.Contains(w.Body.String(), want) {
		t.Errorf("got %s\nwant %s", w.Body, want)
	}
}

func TestChoicesAndSeeds(t *testing.T) {
	e := &fakeEngine{reply: "ab"}
	s := newTest(t, e)
	w := post(s, "/v1/chat/completions", `{"n":3,"seed":7,"stream":true,"stream_options":{"include_usage":true},`+hi+`}`)
	text, finish, _ := textOf(t, w.Body.String())
	for i := range 3 {
		if text[i] != "ab" || finish[i] != "stop" {
			t.Errorf("choice %d: %q %q", i, text[i], finish[i])
		}
	}
	if got := strings.Count(w.Body.String(), `"role":"assistant"`); got != 3 {
		t.Errorf("%d role chunks, want 3", got)
	}
	if !strings.Contains(w.Body.String(), `"prompt_tokens":4,"total_tokens":13,"completion_tokens":9`) {
		t.Errorf("the prompt counts once: %s", w.Body)
	}
	seeds := map[uint64]bool{}
	for _, r := range e.reqs {
		seeds[r.Sampling.Seed] = true
	}
	if len(seeds) != 3 || e.reqs[0].Sampling.Seed != 7 {
		t.Errorf("seeds %v: each choice has its own, the first the request's", seeds)
	}
	first := []uint64{e.reqs[0].Sampling.Seed, e.reqs[1].Sampling.Seed, e.reqs[2].Sampling.Seed}
	e.reqs = nil
	post(s, "/v1/chat/completions", `{"n":3,"seed":7,`+hi+`}`)
	for i, r := range e.reqs {
		if r.Sampling.Seed != first[i] {
			t.Errorf("choice %d: another seed the second time", i)
		}
	}
}

func TestEngineRequest(t *testing.T) {
	e := &fakeEngine{reply: "a"}
	s := newTest(t, e)
	post(s, "/v1/chat/completions", `{"temperature":0.5,"top_p":0,"top_k":3,"min_p":0.25,"presence_penalty":1,"frequency_penalty":-1,"repetition_penalty":1.5,"logit_bias":{"5":2},
		"max_tokens":1000,"min_tokens":900,"stop_token_ids":[9],"prompt_logprobs":2,`+hi+`}`, "X-Request-Id", "abc")
	r := e.reqs[0]
	p := r.Sampling
	if p.Temperature != 0.5 || !(p.TopP > 0 && p.TopP < 1e-6) || p.TopK != 3 || p.MinP != 0.25 ||
		p.PresencePenalty != 1 || p.FrequencyPenalty != -1 || p.RepetitionPenalty != 1.5 ||
		p.LogitBias[5] != 2 || p.Logprobs != -1 {
		t.Errorf("sampling %+v", p)
	}
	// 4 prompt tokens of a context of 64 leave 60.
	if r.MaxTokens != 60 || r.MinTokens != 60 || r.PromptLogprobs != 2 || r.ID != "abc-0" || len(r.StopIDs) != 2 ||
		r.StopIDs[0] != fakeEOS || r.StopIDs[1] != 9 {
		t.Errorf("request %+v", r)
	}
	e.reqs = nil
	post(s, "/v1/chat/completions", `{`+hi+`}`)
	post(s, "/v1/completions", `{"prompt":"a","ignore_eos":true}`)
	if e.reqs[0].MaxTokens != 60 || e.reqs[1].MaxTokens != 16 || len(e.reqs[1].StopIDs) != 0 {
		t.Errorf("defaults %+v", e.reqs)
	}
	if a, b := e.reqs[0].Sampling.Seed, e.reqs[1].Sampling.Seed; a == b {
		t.Errorf("both drew seed %d", a)
	}
}

func TestHopelessPromptsAreNotEncoded(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "a"},
		func(_ *Config, d *Deps) { d.Tokenizer, d.Template = noEncoding{}, plainTemplate{} })
	long := strings.Repeat("a", 8*65)
	for path, body := range map[string]string{
		"/v1/chat/completions": `{"messages":[{"role":"user","content":"` + long + `"}]}`,
		"/v1/completions":      `{"prompt":["` + long + `"]}`,
	} {
		w := post(s, path, body)
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "context_length_exceeded") ||
			!strings.Contains(w.Body.String(), "at least 6") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// plainTemplate renders the messages as they came.
type plainTemplate struct{}

func (plainTemplate) Render(req *openai.ChatRequest) (string, error) {
	return string(req.Messages), nil
}

type noEncoding struct{ fakeTokenizer }

func (noEncoding) Encode(string, bool) []int32 { panic("encoded a prompt that cannot fit") }

func TestReturnTokenIDs(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "ab"})
	w := post(s, "/v1/chat/completions", `{"return_token_ids":true,`+hi+`}`)
	for _, want := range []string{`"token_ids":[97,98,257]`, `"prompt_token_ids":[80,58,`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s in %s", want, w.Body)
		}
	}
	w = post(s, "/v1/chat/completions", `{"return_token_ids":true,"stream":true,`+hi+`}`)
	for _, want := range []string{`"token_ids":[97]`, `"token_ids":[257]`, `"prompt_token_ids":[80,58,`} {
		if strings.Count(w.Body.String(), want) != 1 {
			t.Errorf("no %s in %s", want, w.Body)
		}
	}
}

func TestPings(t *testing.T) {
	e := &fakeEngine{reply: "a", hold: make(chan struct{})}
	s := newTest(t, e, func(c *Config, _ *Deps) { c.PingInterval = 5 * time.Millisecond })
	time.AfterFunc(60*time.Millisecond, func() { close(e.hold) })
	w := post(s, "/v1/chat/completions", `{"stream":true,`+hi+`}`)
	evs := streamOf(t, w.Body.String())
	if evs[0] != ": ping" || !strings.HasPrefix(fixed(w.Body.String()[strings.Index(w.Body.String(), "data: "):]), `data: {"id":"chatcmpl-ID"`) {
		t.Errorf("got %q", evs)
	}
	if text, _, _ := textOf(t, w.Body.String()); text[0] != "a" {
		t.Errorf("text %q", text[0])
	}
}

// The model's max_new_tokens is the default of max_tokens, which a tenant's limit reduces and a request overrides.
func TestModelsOwnDefaults(t *testing.T) {
	e := &fakeEngine{reply: "abcdefgh"}
	s, err := New(Config{Model: "m", Vocab: fakeVocab, Context: 200,
		Sampling: openai.Sampling{Temperature: new(0.0), TopK: new(5), MaxTokens: new(4)}},
		Deps{Engine: e, Tokenizer: fakeTokenizer{}, Template: fakeTemplate{}})
	if err != nil {
		t.Fatal(err)
	}
	s.SetReady()
	for body, want := range map[string]string{
		`{` + hi + `}`: `"completion_tokens":4`, `{"max_tokens":6,` + hi + `}`: `"completion_tokens":6`,
		`{"max_completion_tokens":5,` + hi + `}`: `"completion_tokens":5`,
		`{"n_predict":-1,` + hi + `}`:            `"completion_tokens":9`,
	} {
		if w := post(s, "/v1/chat/completions", body); !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %s", body, w.Body)
		}
	}
	if w := post(s, "/v1/completions", `{"prompt":"x"}`); !strings.Contains(w.Body.String(), `"completion_tokens":4`) {
		t.Error(w.Body)
	}
	for i, r := range e.reqs {
		if r.Sampling.Temperature != 0 || r.Sampling.TopK != 5 || r.Sampling.TopP != 1 {
			t.Errorf("request %d: %+v", i, r.Sampling)
		}
	}
}
