package server

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/runtime/device/ref"
	"weft/runtime/engine"
	"weft/runtime/model"
	"weft/runtime/tensor"
	"weft/runtime/tokenizer"
	"weft/runtime/weights"
)

type realEngine struct{ *engine.Engine }

func (e realEngine) Submit(ctx context.Context, reqs ...engine.Request) ([]Stream, error) {
	streams, err := e.Engine.Submit(ctx, reqs...)
	out := make([]Stream, len(streams))
	for i := range streams {
		out[i] = streams[i]
	}
	return out, err
}

type realTokenizer struct{ *tokenizer.Tokenizer }

func (t realTokenizer) Encode(text string, addSpecial bool) []int32 {
	return t.Tokenizer.Encode(text, tokenizer.EncodeOptions{AddSpecial: addSpecial})
}
func (t realTokenizer) NewStream(prompt []int32, skip bool) TextStream {
	return t.Tokenizer.NewStream(prompt, skip)
}
func (t realTokenizer) Token(id int32) string { s, _ := t.Tokenizer.Token(id); return s }

// realServer serves stories260K on the reference device.
func realServer(t *testing.T) (*Server, *engine.Engine) {
	t.Helper()
	path := goldens.Shared(t, "data", "weights", "stories260K", "stories260K.gguf")
	g, err := weights.OpenGGUF(path)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.FromGGUF(g.Meta())
	if err != nil {
		t.Fatal(err)
	}
	g.Close()
	dev := ref.New(ref.Options{})
	m, err := model.Open(path, dev, model.Options{MaxBatchTokens: 64, MaxLogitRows: 16})
	if err != nil {
		t.Fatal(err)
	}
	e, err := engine.New(engine.Config{Model: m, Device: dev, PageLen: 16, NumPages: 64, KVDType: tensor.F32,
		MaxSeqs: 8, MaxQueued: 16, MaxBatchTokens: 64,
		MaxContext: m.Config().MaxContext, PrefixCache: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close(); m.Close(); dev.Close() })
	s := newTest(t, nil, func(c *Config, d *Deps) {
		c.Vocab, c.Context = m.Config().Vocab, m.Config().MaxContext
		d.Engine, d.Tokenizer = realEngine{e}, realTokenizer{tok}
	})
	return s, e
}

type realAnswer struct {
	Choices []struct {
		Text     string
		Finish   string          `json:"finish_reason"`
		Reason   json.RawMessage `json:"stop_reason"`
		IDs      []int32         `json:"token_ids"`
		Logprobs struct {
			Tokens        []string
			TokenLogprobs []*float64           `json:"token_logprobs"`
			TopLogprobs   []map[string]float64 `json:"top_logprobs"`
			TextOffset    []int                `json:"text_offset"`
		}
	}
	Usage struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
		Details    struct {
			Cached int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	}
}

func complete(t *testing.T, s *Server, body string) realAnswer {
	t.Helper()
	w := post(s, "/v1/completions", body)
	var a realAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || w.Code != 200 {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	return a
}

// The handlers and the real engine mean the same by events: text, stops, scores, cached tokens, and nothing left
// behind.
func TestRealEngine(t *testing.T) {
	s, e := realServer(t)
	const prompt = `"prompt":"Once upon a time","temperature":0`
	plain := complete(t, s, `{`+prompt+`,"max_tokens":20,"logprobs":2,"return_token_ids":true}`)
	ch := plain.Choices[0]
	if !strings.HasPrefix(ch.Text, ", there was a") || ch.Finish != "length" || plain.Usage.Completion != 20 ||
		len(ch.IDs) != 20 || strings.Join(ch.Logprobs.Tokens, "") != ch.Text {
		t.Errorf("%+v", plain)
	}
	stop := complete(t, s, `{`+prompt+`,"max_tokens":20,"stop":["re was"],"logprobs":0}`)
	if c := stop.Choices[0]; c.Text != ", the" || c.Finish != "stop" || string(c.Reason) != `"re was"` || stop.Usage.Completion >= 20 {
		t.Errorf("%+v", stop)
	}
	ended := complete(t, s, `{`+prompt+`,"max_tokens":20,"stop_token_ids":[`+idText(ch.IDs[3])+`]}`)
	if c := ended.Choices[0]; c.Finish != "stop" || string(c.Reason) != idText(ch.IDs[3]) ||
		ended.Usage.Completion != 4 {
		t.Errorf("%+v", ended)
	}
	// Scoring prompt and answer together gives what generation gave.
	full, _ := json.Marshal("Once upon a time" + ch.Text)
	score := complete(t, s, `{"prompt":`+string(full)+`,"max_tokens":0,"echo":true,"logprobs":2,"temperature":0}`)
	lp := score.Choices[0].Logprobs
	n := len(lp.TokenLogprobs)
	if lp.TokenLogprobs[0] != nil || lp.TopLogprobs[0] != nil || score.Usage.Completion != 0 ||
		score.Choices[0].Text != "Once upon a time"+ch.Text || n != score.Usage.Prompt {
		t.Fatalf("%+v", score)
	}
	if a, b := *lp.TokenLogprobs[n-1], *ch.Logprobs.TokenLogprobs[19]; !(a-b < 1e-4 && b-a < 1e-4) {
		t.Errorf("scored %v, generated %v", a, b)
	}
	again := complete(t, s, `{`+prompt+`,"max_tokens":20}`)
	long := complete(t, s, `{"prompt":`+string(full)+`,"max_tokens":2}`)
	if again.Choices[0].Text != ch.Text || long.Usage.Details.Cached == 0 {
		t.Errorf("again %q, cached %d", again.Choices[0].Text, long.Usage.Details.Cached)
	}
	many := complete(t, s, `{"prompt":["Once","The dog"],"n":2,"seed":3,"temperature":1,"max_tokens":5}`)
	if len(many.Choices) != 4 {
		t.Errorf("%+v", many)
	}
	eventually(t, "the engine is idle", func() bool { st := e.Stats(); return st.Running == 0 && st.Waiting == 0 })
}

func idText(id int32) string { b, _ := json.Marshal(id); return string(b) }
