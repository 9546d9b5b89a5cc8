package server

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"weft/runtime/engine"
	"weft/server/openai"
)

// TestTokenizerInfoRoute: lm-eval's remote tokenizer needs the member eos_token and, for chats, chat_template.
func TestTokenizerInfoRoute(t *testing.T) {
	s := newTest(t, &fakeEngine{}, func(c *Config, _ *Deps) {
		c.TokenizerInfo = openai.TokenizerInfo{Class: "X", MaxLength: 64, EOS: new("<eos>")}
	})
	w := get(s, "/tokenizer_info")
	const want = `{"tokenizer_class":"X","model_max_length":64,"add_bos_token":false,"add_eos_token":false,` +
		`"bos_token":null,"eos_token":"<eos>","unk_token":null,"pad_token":null,"chat_template":null}`
	if w.Code != http.StatusOK || w.Body.String() != want {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	keyed := newTest(t, &fakeEngine{}, func(_ *Config, d *Deps) { d.Tenants = withKeys("k") })
	wantError(t, get(keyed, "/tokenizer_info"), 401, "", "API key")
}

// TestRender: what /render answers is what the request is then generated from.
func TestRender(t *testing.T) {
	for _, c := range []struct {
		path, body string
		prompts    int
	}{
		{"/v1/chat/completions", `{"temperature":0.5,"seed":7,"max_tokens":3,"stop":["x"],` + hi + `}`, 1},
		{"/v1/chat/completions", `{"stream":true,` + hi + `}`, 1},
		{"/v1/completions", `{"prompt":"abc","top_k":3,"logprobs":2,"truncate_prompt_tokens":2}`, 1},
		{"/v1/completions", `{"prompt":["abc","d"],"n":2,"min_tokens":1}`, 2},
		{"/v1/completions", `{"prompt":[[1,2],[3]],"stop_token_ids":[9]}`, 2},
	} {
		e := &fakeEngine{reply: "a"}
		s := newTest(t, e)
		w := post(s, c.path+"/render", c.body)
		if len(e.reqs) > 0 {
			t.Fatal("the engine was asked")
		}
		var list []openai.Rendered
		if c.path == "/v1/chat/completions" {
			list = make([]openai.Rendered, 1)
			if err := json.Unmarshal(w.Body.Bytes(), &list[0]); err != nil {
				t.Fatal(err)
			}
		} else if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
			t.Fatal(err)
		}
		if w.Code != http.StatusOK || len(list) != c.prompts {
			t.Fatalf("%s %s: %d %s", c.path, c.body, w.Code, w.Body)
		}
		if w := post(s, c.path, c.body); w.Code != http.StatusOK {
			t.Fatal(w.Body)
		}
		n := len(e.reqs) / c.prompts
		for i, r := range list {
			asked := e.reqs[i*n]
			p, q := r.SamplingParams, asked.Sampling
			if string32(r.TokenIDs) != string32(asked.Prompt) || p.MaxTokens != asked.MaxTokens ||
				p.MinTokens != asked.MinTokens || p.Temperature != q.Temperature || p.TopK != q.TopK || p.N != n ||
				p.Seed != nil && uint64(*p.Seed) != q.Seed || (p.Logprobs == nil) != (q.Logprobs < 0) ||
				r.Model != "org/tiny" || r.Stream != strings.Contains(c.body, "stream") || r.RequestID == "" {
				t.Errorf("%s %s: rendered %+v, generated from %+v", c.path, c.body, r, asked)
			}
		}
	}
	// The parameters that are answered are those of a request that is generated from the same.
	for _, members := range []string{``, `,"temperature":0.5,"top_p":0.5,"typical_p":0.25,"min_p":0.1,"seed":3`,
		`,"repeat_penalty":1.2`, `,"repeat_penalty":1.2,"repeat_last_n":-1`, `,"repeat_penalty":1.2,"repeat_last_n":0`,
		`,"repetition_penalty":1.2,"presence_penalty":1,"frequency_penalty":-1`, `,"bad_words":["a"," b"],"n":2`,
		`,"allowed_token_ids":[7,9],"logit_bias":{"7":1.5},"logprobs":2,"logprob_token_ids":[8]`,
		`,"max_tokens":5,"min_tokens":2,"stop":["x"],"stop_token_ids":[9],"ignore_eos":true,"prompt_logprobs":1`} {
		e := &fakeEngine{reply: "a"}
		s := newTest(t, e)
		var list []struct {
			TokenIDs       json.RawMessage            `json:"token_ids"`
			SamplingParams map[string]json.RawMessage `json:"sampling_params"`
		}
		w := post(s, "/v1/completions/render", `{"prompt":"abc"`+members+`}`)
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || len(list) != 1 {
			t.Fatalf("%s: %d %s", members, w.Code, w.Body)
		}
		again := list[0].SamplingParams
		again["prompt"] = list[0].TokenIDs
		seeded := strings.Contains(members, "seed")
		text, err := json.Marshal(again)
		if err != nil {
			t.Fatal(err)
		}
		for _, body := range []string{`{"prompt":"abc"` + members + `}`, string(text)} {
			if w := post(s, "/v1/completions", body); w.Code != http.StatusOK {
				t.Fatalf("%s: %d %s", body, w.Code, w.Body)
			}
		}
		a, b := e.reqs[0], e.reqs[len(e.reqs)/2]
		if !seeded {
			a.Sampling.Seed, b.Sampling.Seed = 0, 0
		}
		for _, r := range []*engine.Request{&a, &b} {
			r.ID, r.Release, r.Reacquire = "", nil, nil
		}
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s:\n%+v, from what is rendered\n%+v", members, a, b)
		}
	}
	s := newTest(t, &fakeEngine{reply: "a"})
	for path, in := range map[string]string{"/v1/chat/completions": hi, "/v1/completions": `"prompt":"x"`} {
		for _, member := range []string{`"temperature":9`, `"model":"none"`, `"n":1000`} {
			a, b := post(s, path, "{"+member+","+in+"}"), post(s, path+"/render", "{"+member+","+in+"}")
			if a.Code != b.Code || a.Body.String() != b.Body.String() {
				t.Errorf("%s, %s: %d %s; rendered %d %s", path, member, a.Code, a.Body, b.Code, b.Body)
			}
		}
	}
	long := `{"prompt":"` + strings.Repeat("x", 70) + `"}`
	wantError(t, post(s, "/v1/completions/render", long), 400, "prompt", "maximum context length")
}

func string32(ids []int32) string {
	b, _ := json.Marshal(ids)
	return string(b)
}
