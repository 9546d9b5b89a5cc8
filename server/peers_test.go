package server

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"

	"weft/runtime/sample"
	"weft/server/openai"
)

// tokenLists are the lists of one choice that clients zip.
type tokenLists struct {
	text, finish string
	ids          []int32
	logprobs     []string // token and log-probability
}

// parts returns the lists of each choice of an answer, or of the chunks of a stream, by chunk.
func parts(t *testing.T, body string) map[int][]tokenLists {
	t.Helper()
	out := map[int][]tokenLists{}
	for _, ev := range strings.Split(body, "\n\n") {
		data := strings.TrimPrefix(ev, "data: ")
		if data == "" || data == "[DONE]" || data[0] == ':' {
			continue
		}
		var doc struct {
			Choices []struct {
				Index          int
				Text           string
				Message, Delta struct{ Content, Role string }
				FinishReason   string  `json:"finish_reason"`
				TokenIDs       []int32 `json:"token_ids"`
				Logprobs       *struct {
					Content []openai.TokenLogprob
					Tokens  []string
					Values  []float64 `json:"token_logprobs"`
				}
			}
		}
		if err := json.Unmarshal([]byte(data), &doc); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		for _, ch := range doc.Choices {
			l := tokenLists{text: ch.Text + ch.Message.Content + ch.Delta.Content, finish: ch.FinishReason,
				ids: ch.TokenIDs}
			if ch.Logprobs != nil {
				for _, c := range ch.Logprobs.Content {
					l.logprobs = append(l.logprobs, fmt.Sprint(c.Token, " ", float64(c.Logprob)))
				}
				for i, token := range ch.Logprobs.Tokens {
					l.logprobs = append(l.logprobs, fmt.Sprint(token, " ", ch.Logprobs.Values[i]))
				}
			}
			if ch.Delta.Role != "" && (l.ids != nil || l.logprobs != nil) {
				t.Errorf("the role's chunk has %+v", l)
			}
			out[ch.Index] = append(out[ch.Index], l)
		}
	}
	return out
}

// TestTokenIDsHaveLogprobs: with return_token_ids each id has its log-probability, in every chunk; chunks add up to the
// whole answer; without return_token_ids log-probabilities end where the text ends.
func TestTokenIDsHaveLogprobs(t *testing.T) {
	for _, c := range []struct {
		reply, params string
		ids           int // with return_token_ids
		plain         int // log-probabilities without
	}{
		{"ab", ``, 3, 2},
		{"abcdef", `,"stop":"cd"`, 4, 2},
		{"abcdef", `,"stop":"cd","include_stop_str_in_output":true`, 4, 4},
		{"abcdef", `,"stop":["xy","f"],"min_tokens":3`, 6, 5},
		{"abcdef", `,"stop_token_ids":[99]`, 3, 2},
		{"abcdef", `,"stop_token_ids":[99],"include_stop_str_in_output":true`, 3, 3},
		{"abcdef", `,"max_tokens":3`, 3, 3},
		{"aé", `,"max_tokens":2`, 2, 2},
		{"éa", ``, 4, 3},
		{"", ``, 1, 0},
		{"ab", `,"ignore_eos":true,"max_tokens":4`, 4, 4},
		{"ab", `,"ignore_eos":true,"max_tokens":4,"skip_special_tokens":false`, 4, 4},
	} {
		s := newTest(t, &fakeEngine{reply: c.reply})
		for path, body := range map[string]string{
			"/v1/chat/completions": `"logprobs":true,"n":2,` + hi, "/v1/completions": `"prompt":"x","logprobs":0,"n":2`,
		} {
			for _, want := range []struct {
				more          string
				ids, logprobs int
			}{{"", 0, c.plain}, {`,"return_token_ids":true`, c.ids, c.ids}} {
				body := `{` + body + c.params + want.more
				whole := parts(t, post(s, path, body+"}").Body.String())
				chunks := parts(t, post(s, path, body+`,"stream":true}`).Body.String())
				for i := range 2 {
					w := whole[i][0]
					if len(w.ids) != want.ids || len(w.logprobs) != want.logprobs {
						t.Errorf("%s %s: %d ids, %d log-probabilities; want %d and %d", path, body, len(w.ids),
							len(w.logprobs), want.ids, want.logprobs)
					}
					var sum tokenLists
					for _, l := range chunks[i] {
						if want.ids > 0 && len(l.ids) != len(l.logprobs) {
							t.Errorf("%s %s: a chunk has %+v", path, body, l)
						}
						sum.text += l.text
						sum.finish += l.finish
						sum.ids = append(sum.ids, l.ids...)
						sum.logprobs = append(sum.logprobs, l.logprobs...)
					}
					if fmt.Sprint(sum) != fmt.Sprint(w) {
						t.Errorf("%s %s: chunks are\n%+v, the whole is\n%+v", path, body, sum, w)
					}
				}
			}
		}
	}
}

// TestIDsWithoutLogprobs: return_token_ids alone adds no log-probabilities.
func TestIDsWithoutLogprobs(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "éa"})
	for _, stream := range []string{"false", "true"} {
		body := post(s, "/v1/completions", `{"prompt":"x","return_token_ids":true,"stream":`+stream+`}`).Body.String()
		var ids []int32
		for _, l := range parts(t, body)[0] {
			ids = append(ids, l.ids...)
			if l.logprobs != nil {
				t.Errorf("%s", body)
			}
		}
		if !slices.Equal(ids, []int32{195, 169, 97, fakeEOS}) {
			t.Errorf("ids %v", ids)
		}
	}
}

// TestNoIDs: an answer without tokens has an empty list of them where they are asked for.
func TestNoIDs(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "a"})
	for body, want := range map[string]bool{`{"prompt":"x","max_tokens":0,"return_token_ids":true}`: true,
		`{"prompt":"x","max_tokens":0,"echo":true,"return_token_ids":true}`: true,
		`{"prompt":"x","n_predict":0,"return_token_ids":true}`:              true, `{"prompt":"x","max_tokens":0}`: false} {
		w := post(s, "/v1/completions", body)
		if got := strings.Contains(w.Body.String(), `"token_ids":[]`); w.Code != 200 || got != want {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	w := post(s, "/v1/chat/completions", `{"n_predict":0,"return_token_ids":true,`+hi+`}`)
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"token_ids":[]`) {
		t.Errorf("a chat: %d %s", w.Code, w.Body)
	}
}

// TestContinuousUsage: each chunk of a choice has the choice's figures so far, the last chunk those of the request.
func TestContinuousUsage(t *testing.T) {
	s := newTest(t, &fakeEngine{reply: "abc"})
	for path, body := range map[string]string{
		"/v1/chat/completions": `"n":2,"max_tokens":2,` + hi, "/v1/completions": `"prompt":"xyz","n":2,"max_tokens":2`,
	} {
		w := post(s, path, `{"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true},`+body+`}`)
		got := map[int][]int{}
		var last openai.Usage
		for ev := range strings.SplitSeq(w.Body.String(), "\n\n") {
			var doc struct {
				Choices []struct{ Index int }
				Usage   *openai.Usage
			}
			if data := strings.TrimPrefix(ev, "data: "); data == "" || data == "[DONE]" {
				continue
			} else if err := json.Unmarshal([]byte(data), &doc); err != nil || doc.Usage == nil {
				t.Fatalf("%s: %v", data, err)
			}
			if last = *doc.Usage; last.PromptTokens != 4 || last.TotalTokens != 4+last.CompletionTokens {
				t.Errorf("%s: %s", path, ev)
			}
			for _, ch := range doc.Choices {
				got[ch.Index] = append(got[ch.Index], last.CompletionTokens)
			}
		}
		for i := range 2 {
			if n := got[i]; len(n) < 3 || !slices.IsSorted(n) || n[len(n)-1] != 2 || !slices.Contains(n, 1) {
				t.Errorf("%s: choice %d has %v", path, i, n)
			}
		}
		if last.CompletionTokens != 4 {
			t.Errorf("%s: in the end %+v", path, last)
		}
	}
}

// TestIgnoredFields: members that other servers know are named in a header, counted and logged; all others, and
// harmless values, are not.
func TestIgnoredFields(t *testing.T) {
	var log strings.Builder
	s := newTest(t, &fakeEngine{reply: "a"}, logTo(&log))
	metric := func(field string) string {
		return `weft:request_fields_ignored_total{field="` + field + `"} `
	}
	w := post(s, "/v1/chat/completions", `{"mirostat":2,"mirostat_tau":5,"dry_multiplier":0,"nobody":1,"samplers":["x"],`+hi+`}`)
	if got := w.Header().Get("X-Weft-Ignored-Fields"); w.Code != 200 || got != "samplers,mirostat,mirostat_tau" {
		t.Errorf("%d, header %q", w.Code, got)
	}
	w = post(s, "/v1/completions", `{"prompt":"x","stream":true,"mirostat":1,"min_characters":3}`)
	if got := w.Header().Get("X-Weft-Ignored-Fields"); got != "mirostat,min_characters" {
		t.Errorf("stream: header %q", got)
	}
	w = post(s, "/v1/completions", `{"prompt":"x","mirostat":0,"nobody":1}`)
	if _, ok := w.Header()["X-Weft-Ignored-Fields"]; ok {
		t.Errorf("header %q", w.Header())
	}
	text := get(s, "/metrics").Body.String()
	for field, n := range map[string]string{"mirostat": "2", "mirostat_tau": "1", "min_characters": "1",
		"dry_base": "0"} {
		if !strings.Contains(text, metric(field)+n+"\n") {
			t.Errorf("no %s%s", metric(field), n)
		}
	}
	if strings.Contains(text, "nobody") || !strings.Contains(log.String(), "ignored_fields") {
		t.Errorf("an unknown name is counted, or the log lacks the fields: %s", &log)
	}
}

// TestPeersEngineRequest: what the members of llama.cpp and vLLM ask of the engine.
func TestPeersEngineRequest(t *testing.T) {
	e := &fakeEngine{reply: "a"}
	s := newTest(t, e)
	ask := func(members string) sample.Params {
		t.Helper()
		e.reqs = nil
		if w := post(s, "/v1/completions", `{"prompt":"0123456789",`+members+`}`); w.Code != 200 {
			t.Fatalf("%s: %d %s", members, w.Code, w.Body)
		}
		return e.reqs[0].Sampling
	}
	p := ask(`"typical_p":0,"repeat_penalty":1.5,"bad_words":["<eos>"," ab"],"allowed_token_ids":[3,1],"logprobs":0,
		"logprob_token_ids":[5,6]`)
	if !(p.TypicalP > 0 && p.TypicalP < 1e-6) || p.RepetitionPenalty != 1.5 || p.RepetitionLast != 64 ||
		!slices.Equal(p.AllowedIDs, []int32{1, 3}) || !slices.Equal(p.LogprobIDs, []int32{5, 6}) || p.Logprobs != 0 ||
		fmt.Sprint(p.BadWords) != "[[257] [97 98]]" {
		t.Errorf("%+v", p)
	}
	if p := ask(`"n":1`); p.TypicalP != 1 || p.RepetitionPenalty != 1 || p.BadWords != nil || p.AllowedIDs != nil {
		t.Errorf("defaults: %+v", p)
	}
	if w := post(s, "/v1/completions", `{"prompt":"x","bad_words":["a","  "]}`); w.Code != http.StatusBadRequest ||
		!strings.Contains(w.Body.String(), "bad_words[1] has no token") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for members, want := range map[string]int{`"n_predict":7`: 7, `"n_predict":-1`: 64 - 11, `"n_predict":0`: 0,
		`"n_predict":2147483647`: 64 - 11} {
		if ask(members); e.reqs[0].MaxTokens != want {
			t.Errorf("%s: %d tokens, want %d", members, e.reqs[0].MaxTokens, want)
		}
	}
	if w := post(s, "/v1/chat/completions", `{"n_predict":0,`+hi+`}`); w.Code != 200 ||
		!strings.Contains(w.Body.String(), `"completion_tokens":0`) {
		t.Errorf("n_predict 0: %d %s", w.Code, w.Body)
	}
}

// TestTruncation: the prompt's last tokens are kept, or its first; -1 leaves room for max_tokens; echo shows what is
// left.
func TestTruncation(t *testing.T) {
	e := &fakeEngine{reply: "a"}
	s := newTest(t, e)
	long := strings.Repeat("x", 8*80) + "yz"
	ids := strings.Repeat("120,", 100) + "121,122"
	for _, c := range []struct {
		body      string
		n         int
		last, max int
	}{
		{`"prompt":"` + long + `","truncate_prompt_tokens":5,"echo":true`, 5, 'z', 16},
		{`"prompt":"` + long + `","truncate_prompt_tokens":5,"truncation_side":"right"`, 5, 'x', 16},
		{`"prompt":"` + long + `","truncate_prompt_tokens":-1,"max_tokens":10`, 54, 'z', 10},
		{`"prompt":"` + long + `","truncate_prompt_tokens":-1,"max_tokens":63`, 1, 'z', 63},
		{`"prompt":"` + long + `","truncate_prompt_tokens":-1,"n_predict":-1`, 63, 'z', 1},
		{`"prompt":"` + long + `","truncate_prompt_tokens":60`, 60, 'z', 4},
		{`"prompt":[` + ids + `],"truncate_prompt_tokens":3`, 3, 'z', 16},
		{`"prompt":"yz","truncate_prompt_tokens":3`, 3, 'z', 16},
		{`"prompt":"yz","truncate_prompt_tokens":30`, 3, 'z', 16},
	} {
		e.reqs = nil
		w := post(s, "/v1/completions", `{`+c.body+`}`)
		if w.Code != 200 {
			t.Errorf("%d %s", w.Code, w.Body)
			continue
		}
		if r := e.reqs[0]; len(r.Prompt) != c.n || r.Prompt[c.n-1] != int32(c.last) || r.MaxTokens != c.max {
			t.Errorf("%.40s...: %d tokens %v, at most %d", c.body, len(r.Prompt), r.Prompt, r.MaxTokens)
		}
		if strings.Contains(c.body, "echo") && !strings.Contains(w.Body.String(), `"text":"xxxyza"`) {
			t.Errorf("echo: %s", w.Body)
		}
	}
	for member, prompt := range map[string]string{`"max_tokens":64`: long, `"n_predict":100`: "yz"} {
		name, _, _ := strings.Cut(member[1:], `"`)
		wantError(t, post(s, "/v1/completions", `{"prompt":"`+prompt+`","truncate_prompt_tokens":-1,`+member+`}`), 400,
			"truncate_prompt_tokens", name)
	}
	w := post(s, "/v1/completions", `{"prompt":"`+long+`","truncate_prompt_tokens":64}`)
	if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "context_length_exceeded") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestPeersOnTheRealEngine: the members change the text as their names say.
func TestPeersOnTheRealEngine(t *testing.T) {
	s, _ := realServer(t)
	const ask = `{"prompt":"Once upon a time","temperature":0,"max_tokens":12,"return_token_ids":true,"logprobs":1`
	plain := complete(t, s, ask+`}`).Choices[0]
	first, third := plain.IDs[0], plain.IDs[2]

	for _, id := range complete(t, s, ask+fmt.Sprintf(`,"allowed_token_ids":[%d,%d]}`, first, third)).Choices[0].IDs {
		if id != first && id != third {
			t.Errorf("token %d is not allowed", id)
		}
	}
	word := strings.TrimSpace(strings.Trim(plain.Text, ",. \n"))
	word, _, _ = strings.Cut(word, " ")
	if got := complete(t, s, ask+`,"bad_words":["`+word+`"]}`).Choices[0].Text; word == "" || strings.Contains(got, " "+word) {
		t.Errorf("%q has the bad word %q; without it was %q", got, word, plain.Text)
	}
	label := complete(t, s, ask+fmt.Sprintf(`,"logprob_token_ids":[%d,%d,%d],"return_tokens_as_token_ids":true}`, third,
		first, third)).Choices[0].Logprobs
	keys := slices.Sorted(maps.Keys(label.TopLogprobs[0]))
	want := slices.Sorted(slices.Values([]string{fmt.Sprint("token_id:", first), fmt.Sprint("token_id:", third)}))
	if !slices.Equal(keys, want) || label.TopLogprobs[0][fmt.Sprint("token_id:", first)] != *label.TokenLogprobs[0] ||
		*label.TokenLogprobs[0] != *plain.Logprobs.TokenLogprobs[0] || math.IsInf(label.TopLogprobs[0][want[1]], 0) {
		t.Errorf("%v, want %v", label.TopLogprobs[0], want)
	}
	all := complete(t, s, ask+`,"max_tokens":40,"repeat_penalty":5,"repeat_last_n":-1}`).Choices[0].IDs
	if short := complete(t, s, ask+`,"max_tokens":40,"repeat_penalty":5,"repeat_last_n":1}`).Choices[0].IDs; slices.Equal(short, all) {
		t.Errorf("the window changes nothing: %v", all)
	}
	same := complete(t, s, ask+`,"max_tokens":40,"repetition_penalty":5}`).Choices[0].IDs
	if !slices.Equal(all, same) {
		t.Errorf("all tokens: %v, want %v", all, same)
	}
	for members, want := range map[string]string{
		`"allowed_token_ids":[7],"stop_token_ids":[7],"min_tokens":1`:               "No token",
		`"allowed_token_ids":[7],"stop_token_ids":[7],"min_tokens":1,"stream":true`: "No token",
	} {
		w := post(s, "/v1/completions", `{"prompt":"Once",`+members+`}`)
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), want) ||
			w.Header().Get("Content-Type") != "application/json" || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s: %d %s %s", members, w.Code, w.Header(), w.Body)
		}
		wantError(t, w, 400, "allowed_token_ids", "No token may be generated: allowed_token_ids, bad")
	}
}
