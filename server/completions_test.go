package server

import (
	"strings"
	"testing"
)

func TestCompletionAnswer(t *testing.T) {
	e := &fakeEngine{reply: "ab"}
	s := newTest(t, e)
	const tail = `"usage":{"prompt_tokens":3,"total_tokens":6,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":1}}}`
	for _, c := range []struct{ name, body, choices, tail string }{
		{"plain", `{"prompt":"hé"}`, `{"index":0,"text":"ab","logprobs":null,"finish_reason":"stop","stop_reason":null}`, `"usage":{"prompt_tokens":4,`},
		{"ids", `{"prompt":[104,105,33]}`, `{"index":0,"text":"ab","logprobs":null,"finish_reason":"stop","stop_reason":null}`, tail},
		{"echo", `{"prompt":"h!","echo":true}`, `{"index":0,"text":"h!ab","logprobs":null,"finish_reason":"stop","stop_reason":null}`, tail},
		{"echo of ids", `{"prompt":[256,104,33],"echo":true}`, `{"index":0,"text":"h!ab","logprobs":null,"finish_reason":"stop","stop_reason":null}`, tail},
		{"logprobs", `{"prompt":"h!","logprobs":1}`, `{"index":0,"text":"ab","logprobs":{"text_offset":[0,1],"token_logprobs":[-0.97,-0.98],"tokens":["a","b"],` +
			`"top_logprobs":[{"a":-0.97},{"b":-0.98}]},"finish_reason":"stop","stop_reason":null}`, tail},
		{"scoring", `{"prompt":[104,195,169],"echo":true,"logprobs":2,"max_tokens":0}`, `{"index":0,"text":"hé","logprobs":{"text_offset":[0,1,1],"token_logprobs":[null,-1.95,-1.69],` +
			`"tokens":["h","bytes:\\xc3","bytes:\\xa9"],"top_logprobs":[null,{"bytes:\\xc3":-1.95,"bytes:\\xc4":-2.95},{"bytes:\\xa9":-1.69,"bytes:\\xaa":-2.69}]},` +
			`"finish_reason":"length","stop_reason":null}`, `"usage":{"prompt_tokens":3,"total_tokens":3,"completion_tokens":0,`},
		{"echo and one token", `{"prompt":"h","add_special_tokens":false,"echo":true,"logprobs":0,"max_tokens":1}`, `{"index":0,"text":"ha","logprobs":{"text_offset":[0,1],"token_logprobs":[null,-0.97],` +
			`"tokens":["h","a"],"top_logprobs":[null,{"a":-0.97}]},"finish_reason":"length","stop_reason":null}`, `"usage":{"prompt_tokens":1,`},
		{"scoring special tokens", `{"prompt":"é<eos>!","echo":true,"logprobs":0,"max_tokens":0}`, `{"index":0,"text":"é<eos>!","logprobs":{"text_offset":[0,0,0,1,6],"token_logprobs":[null,-1.95,-1.69,-2.57,-0.33],` +
			`"tokens":["<bos>","bytes:\\xc3","bytes:\\xa9","<eos>","!"],"top_logprobs":[null,{"bytes:\\xc3":-1.95},{"bytes:\\xa9":-1.69},{"<eos>":-2.57},{"!":-0.33}]},"finish_reason":"length","stop_reason":null}`, `"usage":`},
		{"prompt logprobs", `{"prompt":[104,105],"prompt_logprobs":1,"max_tokens":1}`, `{"index":0,"text":"a","logprobs":null,"finish_reason":"length","stop_reason":null,` +
			`"prompt_logprobs":[null,{"105":{"logprob":-1.05,"rank":1,"decoded_token":"i"}}]}`, `"usage":`},
		{"ids back", `{"prompt":[104,105],"return_token_ids":true,"max_tokens":1}`, `{"index":0,"text":"a","logprobs":null,"finish_reason":"length","stop_reason":null,` +
			`"token_ids":[97],"prompt_token_ids":[104,105]}`, `"usage":`},
		{"many", `{"prompt":["a","b"],"n":2,"max_tokens":1}`, `{"index":0,"text":"a","logprobs":null,"finish_reason":"length","stop_reason":null},{"index":1,"text":"a","logprobs":null,"finish_reason":"length","stop_reason":null},` +
			`{"index":2,"text":"a","logprobs":null,"finish_reason":"length","stop_reason":null},{"index":3,"text":"a","logprobs":null,"finish_reason":"length","stop_reason":null}`,
			`"usage":{"prompt_tokens":4,"total_tokens":8,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":2}}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := post(s, "/v1/completions", c.body)
			want := `{"id":"cmpl-ID","object":"text_completion","created":T,"model":"org/tiny","choices":[` + c.choices + `],` + c.tail
			if got := fixed(w.Body.String()); w.Code != 200 || !strings.HasPrefix(got, want) {
				t.Errorf("%d\n got %s\nwant %s", w.Code, got, want)
			}
		})
	}
}

func TestCompletionStreamBytes(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "ab"})
	w := post(s, "/v1/completions", `{"prompt":"h","add_special_tokens":false,"stream":true,"echo":true,"logprobs":0,"max_tokens":2,"stream_options":{"include_usage":true}}`)
	head := `data: {"id":"cmpl-ID","object":"text_completion","created":T,"model":"org/tiny","choices":[`
	part := func(text, lp, finish string) string {
		return head + `{"index":0,"text":"` + text + `","logprobs":` + lp + `,"finish_reason":` + finish + `,"stop_reason":null}],"usage":null}` + "\n\n"
	}
	lp := func(off, v, tok string) string {
		top := `{"` + tok + `":` + v + `}`
		if v == "null" {
			top = v
		}
		return `{"text_offset":[` + off + `],"token_logprobs":[` + v + `],"tokens":["` + tok + `"],"top_logprobs":[` + top + `]}`
	}
	want := part("h", lp("0", "null", "h"), "null") + part("a", lp("1", "-0.97", "a"), "null") + part("b", lp("2", "-0.98", "b"), "null") + part("", "null", `"length"`) +
		head + `],"usage":{"prompt_tokens":1,"total_tokens":3,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1}}}` + "\n\ndata: [DONE]\n\n"
	if got := fixed(w.Body.String()); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func TestTokenizeAndBack(t *testing.T) {
	s := newTest(t, &fakeEngine{})
	for _, c := range []struct{ path, body, want string }{
		{"/tokenize", `{"prompt":"ab"}`, `{"count":3,"max_model_len":64,"tokens":[256,97,98],"token_strs":null}`},
		{"/tokenize", `{"prompt":"ab","add_special_tokens":false,"return_token_strs":true}`, `{"count":2,"max_model_len":64,"tokens":[97,98],"token_strs":["a","b"]}`},
		{"/tokenize", `{"prompt":"","add_special_tokens":false}`, `{"count":0,"max_model_len":64,"tokens":[],"token_strs":null}`},
		{"/tokenize", `{` + hi + `}`, `{"count":4,"max_model_len":64,"tokens":[80,58,51,50],"token_strs":null}`},
		{"/detokenize", `{"tokens":[256,195,169]}`, `{"prompt":"<bos>é"}`},
		{"/detokenize", `{"tokens":[]}`, `{"prompt":""}`},
	} {
		if w := post(s, c.path, c.body); w.Code != 200 || w.Body.String() != c.want {
			t.Errorf("%s %s: %d %s, want %s", c.path, c.body, w.Code, w.Body, c.want)
		}
	}
}

// TestCompletionContinuesCharacter: a prompt of ids that ends in the middle of a character; the text begins with the
// whole character, in every kind of answer.
func TestCompletionContinuesCharacter(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "\xa9!"})
	for _, c := range []struct{ more, want string }{
		{``, `"text":"é!"`},
		{`,"echo":true`, `"text":"hé!"`},
		{`,"logprobs":0`, `"text_offset":[0,1]`},
		{`,"stop":"é"`, `"text":""`},
		{`,"stop":"!"`, `"text":"é"`},
		{`,"stream":true`, `"text":"é"`},
	} {
		w := post(s, "/v1/completions", `{"prompt":[104,195],"max_tokens":3`+c.more+`}`)
		if got := w.Body.String(); w.Code != 200 || !strings.Contains(got, c.want) {
			t.Errorf("%s: %d %s, want %s", c.more, w.Code, got, c.want)
		}
	}
}
