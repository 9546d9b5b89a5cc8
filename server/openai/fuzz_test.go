package openai

import (
	"errors"
	"strings"
	"testing"
)

var seeds = []string{
	`{` + hello + `}`,
	`{"model":"m","messages":[{"role":"system","content":[{"type":"text","text":"a"}]},{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]},{"role":"tool","content":"1","tool_call_id":"x"}]}`,
	`{"prompt":["a","b"],"n":2,"stop":["x"],"logit_bias":{"1":2},"seed":1e3,"top_p":0.5}`,
	`{"prompt":[[1,2],[3]],"echo":true,"logprobs":1,"max_tokens":0}`,
	`{"prompt":"a","temperature":1e400,"stream":true,"stream_options":{"include_usage":true}}`,
	`{"prompt":"a","model":"base:name@v1","lora":[{"id":"a","scale":-0.5},{"id":"b"}]}`,
	`{"prompt":"a","adapter_id":"name@0123abcd"}`,
	`{"prompt":[1,2],"n_predict":-1,"repeat_penalty":1.1,"repeat_last_n":-1,"typical_p":0.9,"truncate_prompt_tokens":1}`,
	`{"prompt":"a","bad_words":["a"],"allowed_token_ids":[1],"logprobs":0,"logprob_token_ids":[3],"mirostat":2,"grammar":""}`,
	`{"prompt":"\ud800\u0000","stop_token_ids":[1,2]}`,
	strings.Repeat(`{"a":[`, 70),
	"{\"prompt\":\"\xc3\"}",
}

// checked fails on an error that is no *Error and on parameters outside their ranges.
func checked(t *testing.T, p *Params, err error) {
	if err != nil {
		var e *Error
		if !errors.As(err, &e) || e.Type != TypeInvalidRequest || e.Message == "" {
			t.Fatalf("not an API error: %v", err)
		}
		return
	}
	if !(p.Temperature >= 0 && p.Temperature <= 2) || !(p.TopP >= 0 && p.TopP <= 1) || p.TopK < 0 || p.N < 1 ||
		p.N > MaxChoicesOfOne || len(p.Stop) > MaxStops ||
		!(p.TypicalP >= 0 && p.TypicalP <= 1) || p.RepetitionLast < 0 || len(p.BadWords) > MaxBadWords ||
		len(p.LogprobIDs) > MaxLogprobTokenIDs || p.NoLimit && p.MaxTokens != nil ||
		!(p.RepetitionPenalty > 0) || p.Logprobs < -1 || p.Logprobs > MaxTopLogprobs || p.MaxTokens != nil &&
		*p.MaxTokens < 0 {
		t.Fatalf("out of range: %+v", p)
	}
	if len(p.LoRA) > MaxCombined || longer(p.AdapterID, MaxNameLength) || len(p.LoRA) > 0 && p.AdapterID != "" {
		t.Fatalf("adapters: %+v", p)
	}
	for _, l := range p.LoRA {
		if l.ID == "" || longer(l.ID, MaxNameLength) || !(l.Scale >= -MaxCombinationScale &&
			l.Scale <= MaxCombinationScale) {
			t.Fatalf("adapter %+v", l)
		}
	}
	for id, v := range p.LogitBias {
		if id < 0 || int(id) >= testLimits.Vocab || !(v >= -100 && v <= 100) {
			t.Fatalf("logit_bias %d: %v", id, v)
		}
	}
}

func FuzzChatBody(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseChat(data, testLimits)
		if err != nil {
			checked(t, nil, err)
			return
		}
		if len(r.Messages) == 0 {
			t.Fatal("accepted without messages")
		}
		checked(t, &r.Params, nil)
	})
}

func FuzzCompletionBody(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseCompletion(data, testLimits)
		if err != nil {
			checked(t, nil, err)
			return
		}
		if len(r.Prompts) == 0 || len(r.Prompts)*r.N > testLimits.MaxChoices {
			t.Fatalf("%d prompts, n %d", len(r.Prompts), r.N)
		}
		for _, p := range r.Prompts {
			for _, id := range p.IDs {
				if id < 0 || int(id) >= testLimits.Vocab {
					t.Fatalf("token id %d", id)
				}
			}
		}
		checked(t, &r.Params, nil)
	})
}
