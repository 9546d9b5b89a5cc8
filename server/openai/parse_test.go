package openai

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var testLimits = Limits{Vocab: 1000, Context: 128, MaxChoices: 64}

const hello = `"messages":[{"role":"user","content":"hi"}]`

// parse runs the parser of an API on a body.
func parse(of api, body string) (any, error) {
	if of == chatAPI {
		return ParseChat([]byte(body), testLimits)
	}
	return ParseCompletion([]byte(body), testLimits)
}

func wantInvalid(t *testing.T, err error, param, fragment string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an *Error on %q", err, param)
	}
	if e.Type != TypeInvalidRequest || e.Param != param ||
		!strings.Contains(e.Message, fragment) {
		t.Errorf("got %s param %q %q, want it on %q with %q", e.Type, e.Param, e.Message, param, fragment)
	}
}

// Every row of the table of numbers is tried at both ends of its range, just outside, and with other types.
func TestEveryNumber(t *testing.T) {
	for _, row := range numbers {
		for _, of := range []api{chatAPI, completionAPI} {
			if row.api&of == 0 {
				continue
			}
			prefix := map[api]string{chatAPI: `{"logprobs":true,` + hello, completionAPI: `{"prompt":"x"`}[of]
			try := func(v string) error {
				_, err := parse(of, fmt.Sprintf(`%s,%q:%s}`, prefix, row.name, v))
				return err
			}
			t.Run(fmt.Sprintf("%s/%d", row.name, of), func(t *testing.T) {
				// best_of must equal n, min_tokens must not exceed max_tokens: both ends are not free.
				free := row.name != "best_of" && row.name != "min_tokens"
				for _, v := range []float64{row.min, row.max} {
					if row.above && v == row.min || !free || math.Abs(v) > 1e18 {
						continue
					}
					if err := try(plain(v)); err != nil {
						t.Errorf("%v is within the range: %v", v, err)
					}
				}
				outside := []string{"1e400", "-1e400"}
				if math.Abs(row.min) < 1e18 {
					outside = append(outside, plain(row.min-1), plain(row.max+1))
				} else {
					outside = append(outside, "9223372036854775808", "-9223372036854775809")
				}
				if row.above {
					outside = append(outside, plain(row.min))
				}
				for _, v := range outside {
					wantInvalid(t, try(v), row.name, row.name+" must be")
				}
				others := []string{`"1"`, `true`, `{}`, `[1]`}
				if row.integer {
					others = append(others, "1.5")
				}
				for _, v := range others {
					wantInvalid(t, try(v), row.name, "must be")
				}
				if err := try("null"); err != nil {
					t.Errorf("null means absent: %v", err)
				}
			})
		}
	}
}

func TestEveryBoolean(t *testing.T) {
	for _, row := range booleans {
		for _, of := range []api{chatAPI, completionAPI} {
			if row.api&of == 0 {
				continue
			}
			prefix := map[api]string{chatAPI: `{` + hello, completionAPI: `{"prompt":"x"`}[of]
			for _, v := range []string{`1`, `"true"`, `{}`} {
				_, err := parse(of, fmt.Sprintf(`%s,%q:%s}`, prefix, row.name, v))
				wantInvalid(t, err, row.name, "must be true or false")
			}
			if _, err := parse(of, fmt.Sprintf(`%s,%q:true}`, prefix, row.name)); err != nil {
				t.Errorf("%s: %v", row.name, err)
			}
		}
	}
}

func TestEveryRefusal(t *testing.T) {
	asks := map[string]string{
		"response_format":   `{"type":"json_schema","json_schema":{}}`,
		"text":              `{"format":{"type":"json_schema"}}`,
		"num_beams":         "2",
		"priority":          "3",
		"tool_choice":       `"required"`,
		"modalities":        `["text","audio"]`,
		"functions":         `[{}]`,
		"logits_processors": `["x"]`,
		"suffix":            `"end"`,
	}
	for _, row := range refusals {
		for _, of := range []api{chatAPI, completionAPI} {
			if row.api&of == 0 {
				continue
			}
			prefix := map[api]string{chatAPI: `{` + hello, completionAPI: `{"prompt":"x"`}[of]
			v := asks[row.name]
			if v == "" {
				v = `true`
			}
			_, err := parse(of, fmt.Sprintf(`%s,%q:%s}`, prefix, row.name, v))
			wantInvalid(t, err, row.name, row.name+" is not served")
			if _, err := parse(of, fmt.Sprintf(`%s,%q:null}`, prefix, row.name)); err != nil {
				t.Errorf("%s null: %v", row.name, err)
			}
		}
	}
}

// TestFormats: a response_format or text without a type, or with the type text, is harmless only where it has nothing
// else that says what the answer must be.
func TestFormats(t *testing.T) {
	for format, harmless := range map[string]bool{
		`{}`: true, `null`: true, `{"type":"text"}`: true, `{"type":null}`: true,
		`{"type":"text","json_schema":null}`: true, `{"json_schema":{},"grammar":"","regex":[ ]}`: true,
		`{"json_schema":{"name":"a"}}`: false, `{"type":null,"json_schema":{"a":1}}`: false,
		`{"type":"text","json_schema":{"a":1}}`: false, `{"schema":{"a":1}}`: false, `{"zz":1}`: false,
		`{"grammar":"x"}`: false, `{"type":"text","grammar":"x"}`: false, `{"type":"json_object"}`: false,
		`{"type":""}`: false, `{"type":1}`: false, `"text"`: false, `[]`: false,
		`{"type":"text","strict":false}`: false,
	} {
		for _, of := range []api{chatAPI, completionAPI} {
			prefix := map[api]string{chatAPI: `{` + hello, completionAPI: `{"prompt":"x"`}[of]
			for name, value := range map[string]string{"response_format": format, "text": `{"format":` + format + `}`} {
				_, err := parse(of, fmt.Sprintf(`%s,%q:%s}`, prefix, name, value))
				if harmless && err != nil {
					t.Errorf("%s %s: %v", name, value, err)
				} else if !harmless {
					wantInvalid(t, err, name, name+" is not served")
				}
			}
		}
	}
}

// Lengths are in characters, as in the OpenAPI document, not in bytes.
func TestLengthsAreCharacters(t *testing.T) {
	name, stop := strings.Repeat("é", MaxNameLength), strings.Repeat("語", MaxStopLength)
	for member, value := range map[string]string{"model": name, "user": name, "adapter_id": name, "stop": stop} {
		for _, of := range []api{chatAPI, completionAPI} {
			prefix := map[api]string{chatAPI: `{` + hello, completionAPI: `{"prompt":"x"`}[of]
			if _, err := parse(of, fmt.Sprintf(`%s,%q:%q}`, prefix, member, value)); err != nil {
				t.Errorf("%s: %v", member, err)
			}
			param := strings.Replace(member, "stop", "stop[0]", 1)
			_, err := parse(of, fmt.Sprintf(`%s,%q:%q}`, prefix, member, value+"a"))
			wantInvalid(t, err, param, "characters")
		}
	}
}

func TestInvalidBodies(t *testing.T) {
	long := strings.Repeat("s", MaxStopLength+1)
	for _, c := range []struct {
		name     string
		api      api
		body     string
		param    string
		fragment string
	}{
		{"empty", chatAPI, ``, "", "empty"},
		{"utf-8", chatAPI, "{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}", "", "UTF-8"},
		{"syntax", chatAPI, `{"messages":`, "", "not valid JSON"},
		{"nan", chatAPI, `{"temperature":NaN,` + hello + `}`, "", "not valid JSON"},
		{"trailing", chatAPI, `{` + hello + `} x`, "", "not valid JSON"},
		{"array", chatAPI, `[1]`, "", "must be a JSON object, not an array"},
		{"string", completionAPI, `"prompt"`, "", "not a string"},
		{"deep", chatAPI, `{"x":` + strings.Repeat("[", 200000), "", "nested"},
		{"deep closed", chatAPI, `{"x":` + strings.Repeat("[", 80) + strings.Repeat("]", 80) + `}`, "", "nested"},
		{"no messages", chatAPI, `{}`, "messages", "missing"},
		{"empty messages", chatAPI, `{"messages":[]}`, "messages", "empty"},
		{"messages object", chatAPI, `{"messages":{}}`, "messages", "must be an array"},
		{"too many messages", chatAPI, `{"messages":[` + strings.Repeat("1,", MaxMessages) + `1]}`, "messages", "more than"},
		{"message string", chatAPI, `{"messages":["hi"]}`, "messages[0]", "must be an object"},
		{"no role", chatAPI, `{"messages":[{"content":"x"}]}`, "messages[0].role", "missing"},
		{"null role", chatAPI, `{"messages":[{"role":null,"content":"x"}]}`, "messages[0].role", "missing; it must be one of [system developer user assistant tool], or another of 1 to 64"},
		{"null text", chatAPI, `{"messages":[{"role":"user","content":[{"type":"text","text":null}]}]}`, "messages[0].content[0].text", "missing"},
		{"no type", chatAPI, `{"messages":[{"role":"user","content":[{"type":null,"text":"a"}]}]}`, "messages[0].content[0].type", "missing"},
		{"tool call with a null name", chatAPI, `{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":null}}]}]}`, "messages[0].tool_calls[0].function.name", "missing"},
		{"min above n_predict", completionAPI, `{"min_tokens":5,"n_predict":4,"prompt":"x"}`, "min_tokens", "more than the 4 of n_predict"},
		{"min above max_completion_tokens", chatAPI, `{"min_tokens":5,"max_tokens":9,"max_completion_tokens":4,` + hello + `}`, "min_tokens", "more than the 4 of max_completion_tokens"},
		{"best_of of a chat", chatAPI, `{"n":2,"best_of":3,` + hello + `}`, "best_of", "not served"},
		{"sequences by n_cmpl", completionAPI, `{"n_cmpl":33,"prompt":["a","b"]}`, "n", "66 sequences"},
		{"role", chatAPI, `{"messages":[{"role":"<god>","content":"x"}]}`, "messages[0].role", "<god>"},
		{"role number", chatAPI, `{"messages":[{"role":1,"content":"x"}]}`, "messages[0].role", "string"},
		{"no content", chatAPI, `{"messages":[{"role":"user"}]}`, "messages[0].content", "missing"},
		{"null content", chatAPI, `{"messages":[{"role":"user","content":null}]}`, "messages[0].content", "missing"},
		{"content number", chatAPI, `{"messages":[{"role":"user","content":1}]}`, "messages[0].content", "string or an array"},
		{"no parts", chatAPI, `{"messages":[{"role":"user","content":[]}]}`, "messages[0].content", "empty array"},
		{"part", chatAPI, `{"messages":[{"role":"user","content":[1]}]}`, "messages[0].content[0]", "object"},
		{"image", chatAPI, `{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://x"}}]}]}`, "messages[0].content[0].type", "image_url"},
		{"no text", chatAPI, `{"messages":[{"role":"user","content":[{"type":"text"}]}]}`, "messages[0].content[0].text", "missing"},
		{"name", chatAPI, `{"messages":[{"role":"user","content":"x","name":7}]}`, "messages[0].name", "string"},
		{"tool calls", chatAPI, `{"messages":[{"role":"assistant","tool_calls":[7]}]}`, "messages[0].tool_calls[0]", "object"},
		{"tool call without function", chatAPI, `{"messages":[{"role":"assistant","tool_calls":[{"id":"1"}]}]}`, "messages[0].tool_calls[0].function", "missing"},
		{"tool call of no function", chatAPI, `{"messages":[{"role":"assistant","tool_calls":[{"function":5}]}]}`, "messages[0].tool_calls[0].function", "object"},
		{"tool call without a name", chatAPI, `{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":5}}]}]}`, "messages[0].tool_calls[0].function.name", "string"},
		{"arguments of a tool call", chatAPI, `{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":5}}]}]}`, "messages[0].tool_calls[0].function.arguments", "string"},
		{"old function call", chatAPI, `{"messages":[{"role":"assistant","function_call":{}}]}`, "messages[0].function_call", "not served"},
		{"second message", chatAPI, `{"messages":[{"role":"user","content":"x"},{}]}`, "messages[1].role", "missing"},
		{"tools", chatAPI, `{"tools":[{"type":"function"}],` + hello + `}`, "tools", "not served"},
		{"tools auto", chatAPI, `{"tools":[{"type":"function"}],"tool_choice":"auto",` + hello + `}`, "tools", "not served"},
		{"tools type", chatAPI, `{"tools":[1],"tool_choice":"none",` + hello + `}`, "tools[0]", "object"},
		{"tool choice", chatAPI, `{"tool_choice":{"type":"function"},` + hello + `}`, "tool_choice", "not served"},
		{"documents", chatAPI, `{"documents":"x",` + hello + `}`, "documents", "array"},
		{"continue and add", chatAPI, `{"continue_final_message":true,"add_generation_prompt":true,` + hello + `}`, "continue_final_message", "exclude"},
		{"template vars", chatAPI, `{"chat_template_kwargs":[],` + hello + `}`, "chat_template_kwargs", "object"},
		{"reserved var", chatAPI, `{"chat_template_kwargs":{"messages":[]},` + hello + `}`, "chat_template_kwargs", "messages"},
		{"top_logprobs alone", chatAPI, `{"top_logprobs":2,` + hello + `}`, "top_logprobs", "logprobs"},
		{"logprobs number", chatAPI, `{"logprobs":1,` + hello + `}`, "logprobs", "true or false"},
		{"logprobs boolean", completionAPI, `{"prompt":"x","logprobs":true}`, "logprobs", "integer"},
		{"model", chatAPI, `{"model":1,` + hello + `}`, "model", "string"},
		{"model length", chatAPI, `{"model":"` + strings.Repeat("m", 300) + `",` + hello + `}`, "model", "longer"},
		{"stop number", chatAPI, `{"stop":1,` + hello + `}`, "stop", "string"},
		{"stop empty", chatAPI, `{"stop":"",` + hello + `}`, "stop[0]", "empty"},
		{"stop element", chatAPI, `{"stop":["a",1],` + hello + `}`, "stop[1]", "string"},
		{"stops", chatAPI, `{"stop":[` + strings.Repeat(`"a",`, MaxStops) + `"a"],` + hello + `}`, "stop", "more than 16"},
		{"stop long", chatAPI, `{"stop":"` + long + `",` + hello + `}`, "stop[0]", "longer"},
		{"stop id", chatAPI, `{"stop_token_ids":[1000],` + hello + `}`, "stop_token_ids[0]", "from 0 to 999"},
		{"bias key", chatAPI, `{"logit_bias":{"x":1},` + hello + `}`, "logit_bias", "token id"},
		{"bias keys", chatAPI, `{"logit_bias":{"x":1,"7":1,"1000":1,"-1":2},` + hello + `}`, "logit_bias", `not "-1", "1000", "x".`},
		{"bias id", chatAPI, `{"logit_bias":{"1000":1},` + hello + `}`, "logit_bias", "from 0 to 999"},
		{"bias value", chatAPI, `{"logit_bias":{"1":101},` + hello + `}`, "logit_bias", "from -100 to 100"},
		{"bias null", chatAPI, `{"logit_bias":{"1":null},` + hello + `}`, "logit_bias", "logit_bias[1] must be a number, not null"},
		{"bias text", chatAPI, `{"logit_bias":{"1":"1"},` + hello + `}`, "logit_bias", "number"},
		{"stream options", chatAPI, `{"stream_options":{"include_usage":true},` + hello + `}`, "stream_options", "stream: true"},
		{"include usage", chatAPI, `{"stream":true,"stream_options":{"include_usage":1},` + hello + `}`, "stream_options.include_usage", "true or false"},
		{"usage stats", chatAPI, `{"stream":true,"stream_options":{"continuous_usage_stats":1},` + hello + `}`, "stream_options.continuous_usage_stats", "true or false"},
		{"parallel tool calls", chatAPI, `{"tools":[{"type":"function"}],"parallel_tool_calls":true,` + hello + `}`, "parallel_tool_calls", "not served"},
		{"parallel tool calls type", chatAPI, `{"parallel_tool_calls":1,` + hello + `}`, "parallel_tool_calls", "true or false"},
		{"top_k bound", chatAPI, `{"top_k":2147483648,` + hello + `}`, "top_k", "from -1 to 2147483647"},
		{"top_k bound below", chatAPI, `{"top_k":-2,` + hello + `}`, "top_k", "from -1 to 2147483647"},
		{"seed bound", chatAPI, `{"seed":1e30,` + hello + `}`, "seed", "an integer of 64 bits"},
		{"bad words", chatAPI, `{"bad_words":"x",` + hello + `}`, "bad_words", "an array"},
		{"bad word", chatAPI, `{"bad_words":["x",""],` + hello + `}`, "bad_words[1]", "empty"},
		{"bad word number", completionAPI, `{"bad_words":[1],"prompt":"x"}`, "bad_words[0]", "string"},
		{"allowed id", chatAPI, `{"allowed_token_ids":[1000],` + hello + `}`, "allowed_token_ids[0]", "from 0 to 999"},
		{"ids without log-probabilities", chatAPI, `{"logprob_token_ids":[1],` + hello + `}`, "logprob_token_ids", "needs logprobs"},
		{"ids without log-probabilities", completionAPI, `{"logprob_token_ids":[1],"prompt":"x"}`, "logprob_token_ids", "needs logprobs"},
		{"too many ids", completionAPI, `{"logprob_token_ids":[` + strings.Repeat("1,", MaxLogprobTokenIDs) + `1],"logprobs":0,"prompt":"x"}`, "logprob_token_ids", "more than 128"},
		{"truncation to nothing", chatAPI, `{"truncate_prompt_tokens":0,` + hello + `}`, "truncate_prompt_tokens", "no prompt"},
		{"truncation side", chatAPI, `{"truncation_side":"up",` + hello + `}`, "truncation_side", `"left" or "right"`},
		{"no truncation side", chatAPI, `{"truncation_side":"",` + hello + `}`, "truncation_side", `"left" or "right"`},
		{"min above max", chatAPI, `{"min_tokens":5,"max_tokens":4,` + hello + `}`, "min_tokens", "more than the 4"},
		{"best_of", completionAPI, `{"prompt":"x","n":2,"best_of":3}`, "best_of", "not served"},
		{"no prompt", completionAPI, `{}`, "prompt", "missing"},
		{"prompt object", completionAPI, `{"prompt":{}}`, "prompt", "string or an array"},
		{"prompt empty", completionAPI, `{"prompt":[]}`, "prompt", "empty array"},
		{"prompt empty ids", completionAPI, `{"prompt":[[]]}`, "prompt[0]", "no tokens"},
		{"prompt mixed", completionAPI, `{"prompt":["a",[1]]}`, "prompt", "must have one type"},
		{"prompt mixed ids", completionAPI, `{"prompt":[1,"a"]}`, "prompt[1]", "integer"},
		{"prompt null", completionAPI, `{"prompt":[null]}`, "prompt[0]", "must be"},
		{"prompt id", completionAPI, `{"prompt":[-1]}`, "prompt[0]", "from 0 to 999"},
		{"prompt fraction", completionAPI, `{"prompt":[1.5]}`, "prompt[0]", "integer"},
		{"prompt too long", completionAPI, `{"prompt":[` + strings.Repeat("1,", 128) + `1]}`, "prompt", "128 tokens"},
		{"prompts too many", completionAPI, `{"prompt":[` + strings.Repeat(`"a",`, MaxPrompts) + `"a"]}`, "prompt", "more than"},
		{"sequences", completionAPI, `{"n":33,"prompt":["a","b"]}`, "n", "66 sequences"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parse(c.api, c.body)
			wantInvalid(t, err, c.param, c.fragment)
		})
	}
}

func TestChatDefaultsAndValues(t *testing.T) {
	r, err := ParseChat([]byte(`{"unknown":{"x":1},"tools":[],"store":false,"temperature":null,`+hello+`}`), testLimits)
	if err != nil {
		t.Fatal(err)
	}
	if want := new(Sampling).defaults(); !reflect.DeepEqual(r.Params, want) || !r.AddGenerationPrompt ||
		r.Tools != nil {
		t.Errorf("got %+v, want %+v", r.Params, want)
	}
	r, err = ParseChat(
		[]byte(
			`{"model":"m","temperature":0.5,"top_p":0.25,"top_k":-1,"min_p":0.1,"presence_penalty":1,"frequency_penalty":-1,"repetition_penalty":1.5,
		"seed":-9223372036854775808,"n":2.0,"max_tokens":7,"max_completion_tokens":9,"min_tokens":1,
		"logit_bias":{"5":-100,"6":2.5},"stop":["a","b"],"stop_token_ids":[3],
		"ignore_eos":true,"include_stop_str_in_output":true,"skip_special_tokens":false,
		"logprobs":true,"top_logprobs":4,
		"return_token_ids":true,"stream":true,
		"stream_options":{"include_usage":true},"continue_final_message":true,"chat_template_kwargs":{"x":1},"tools":[{"b":1,"a":2}],"tool_choice":"none","response_format":{"type":"text"},`+hello+`}`,
		),
		testLimits,
	)
	if err != nil {
		t.Fatal(err)
	}
	seed, most := int64(math.MinInt64), 9
	want := Params{limitedBy: "max_completion_tokens",
		Model: "m", Temperature: 0.5, TopP: 0.25, TypicalP: 1, MinP: 0.1, repeatLast: 64,
		PresencePenalty: 1, FrequencyPenalty: -1,
		RepetitionPenalty: 1.5, Seed: &seed, N: 2, MaxTokens: &most, MinTokens: 1,
		LogitBias: map[int32]float64{5: -100, 6: 2.5}, Stop: []string{"a", "b"}, StopTokenIDs: []int32{3},
		IgnoreEOS: true, IncludeStop: true, Logprobs: 4, PromptLogprobs: -1,
		ReturnTokenIDs: true, Stream: true, IncludeUsage: true}
	if !reflect.DeepEqual(r.Params, want) {
		t.Errorf("got  %+v\nwant %+v", r.Params, want)
	}
	if r.AddGenerationPrompt || !r.ContinueFinalMessage || string(r.Tools) != `[{"b":1,"a":2}]` ||
		string(r.TemplateVars) != `{"x":1}` {
		t.Errorf("got %+v", r)
	}
}

// TestNull: null for a member of any route is the same as leaving it out, and an error within an array.
func TestNull(t *testing.T) {
	members := []string{"model", "user", "adapter_id", "lora", "logit_bias", "stop", "stop_token_ids",
		"allowed_token_ids", "logprob_token_ids", "bad_words", "truncation_side", "stream_options", "logprobs", "echo",
		"tools", "tool_choice", "documents", "continue_final_message", "add_generation_prompt", "reasoning_effort",
		"chat_template_kwargs", "return_token_strs", "unknown"}
	for _, row := range numbers {
		members = append(members, row.name)
	}
	for _, row := range booleans {
		members = append(members, row.name)
	}
	for _, row := range refusals {
		members = append(members, row.name)
	}
	members = append(members, IgnoredFields()...)
	routes := []struct {
		name, body string
		parse      func(string) (any, error)
	}{
		{"chat", hello, func(s string) (any, error) { return ParseChat([]byte(s), testLimits) }},
		{"completion", `"prompt":"x"`, func(s string) (any, error) { return ParseCompletion([]byte(s), testLimits) }},
		{"tokenize", `"prompt":"x"`, func(s string) (any, error) { return ParseTokenize([]byte(s), testLimits) }},
		{"tokenize chat", hello, func(s string) (any, error) { return ParseTokenize([]byte(s), testLimits) }},
		{"detokenize", `"tokens":[1]`, func(s string) (any, error) { return ParseDetokenize([]byte(s), testLimits) }},
	}
	for _, r := range routes {
		want, err := r.parse("{" + r.body + "}")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range members {
			if got, err := r.parse("{" + r.body + `,"` + m + `":null}`); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %s null: %+v, %v", r.name, m, got, err)
			}
		}
	}
	for _, m := range []string{"messages", "prompt", "tokens"} {
		for _, r := range routes {
			if name, _, _ := strings.Cut(r.body, ":"); name == `"`+m+`"` {
				_, err := r.parse(`{"` + m + `":null}`)
				var e *Error
				if !errors.As(err, &e) || e.Code != "missing" {
					t.Errorf("%s: %s null: %v", r.name, m, err)
				}
			}
		}
	}
	for _, m := range []string{"stop", "stop_token_ids", "allowed_token_ids", "logprob_token_ids", "bad_words", "lora",
		"prompt"} {
		if _, err := parse(completionAPI, `{"prompt":"x","logprobs":1,"`+m+`":[null]}`); err == nil {
			t.Errorf("%s: [null] is taken", m)
		}
	}
}

// TestPeersFields: members of llama.cpp and vLLM, what they mean here, and which of two counts.
func TestPeersFields(t *testing.T) {
	plain, most := new(Sampling).defaults(), 5
	for _, c := range []struct {
		members string
		want    func(*Params)
	}{
		{`"n_predict":5`, func(p *Params) { p.MaxTokens = &most }},
		{`"n_predict":5.0,"max_tokens":7,"max_completion_tokens":8`, func(p *Params) { p.MaxTokens = &most }},
		{`"n_predict":-1,"max_tokens":7`, func(p *Params) { p.NoLimit = true }},
		{`"n_predict":null,"max_tokens":5`, func(p *Params) { p.MaxTokens = &most }},
		{`"repeat_penalty":1.5`, func(p *Params) { p.RepetitionPenalty, p.RepetitionLast = 1.5, 64 }},
		{`"repeat_penalty":1.5,"repeat_last_n":3`, func(p *Params) { p.RepetitionPenalty, p.RepetitionLast = 1.5, 3 }},
		{`"repeat_penalty":1.5,"repeat_last_n":-1`, func(p *Params) { p.RepetitionPenalty = 1.5 }},
		{`"repeat_penalty":1.5,"repeat_last_n":0`, func(*Params) {}},
		{`"repeat_penalty":1.5,"repetition_penalty":1.5`,
			func(p *Params) { p.RepetitionPenalty, p.RepetitionLast = 1.5, 64 }},
		{`"repeat_penalty":1,"repetition_penalty":1.25`, func(p *Params) { p.RepetitionPenalty = 1.25 }},
		{`"repetition_penalty":1.25,"repeat_last_n":3`, func(p *Params) { p.RepetitionPenalty = 1.25 }},
		{`"n_cmpl":2`, func(p *Params) { p.N = 2 }},
		{`"n_cmpl":2,"n":3,"best_of":2`, func(p *Params) { p.N = 2 }},
		{`"typical_p":0.25`, func(p *Params) { p.TypicalP = 0.25 }},
		{`"allowed_token_ids":[7,1.0,7]`, func(p *Params) { p.AllowedIDs = []int32{1, 7} }},
		{`"allowed_token_ids":[],"bad_words":[],"logprob_token_ids":[]`, func(*Params) {}},
		{`"bad_words":["a"," b"]`, func(p *Params) { p.BadWords = []string{"a", " b"} }},
		{`"truncate_prompt_tokens":-1,"truncation_side":"left"`,
			func(p *Params) { p.TruncatePrompt = new(-1) }},
		{`"truncate_prompt_tokens":5,"truncation_side":"right"`,
			func(p *Params) { p.TruncatePrompt, p.KeepFirst = &most, true }},
		{`"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}`,
			func(p *Params) { p.Stream, p.IncludeUsage, p.ContinuousUsage = true, true, true }},
		{`"stream":true,"stream_options":{"continuous_usage_stats":true}`, func(p *Params) { p.Stream = true }},
	} {
		for _, of := range []api{chatAPI, completionAPI} {
			prefix := map[api]string{chatAPI: `{` + hello, completionAPI: `{"prompt":"x"`}[of]
			r, err := parse(of, prefix+","+c.members+"}")
			if err != nil {
				t.Errorf("%s: %v", c.members, err)
				continue
			}
			got, want := *r.(interface{ Shared() *Params }).Shared(), plain
			c.want(&want)
			if of == completionAPI {
				want.AddSpecialTokens = true
				if want.MaxTokens == nil && !want.NoLimit {
					want.MaxTokens = new(DefaultCompletionTokens)
				}
			}
			got.repeatPenalty, got.repeatLast, want.repeatLast, got.limitedBy, got.bestOf = 0, 0, 0, "", 0
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s:\n got %+v\nwant %+v", c.members, got, want)
			}
		}
	}
}

// TestHarmlessValues: constraints and members of other servers whose value changes nothing are neither refused nor
// reported.
func TestHarmlessValues(t *testing.T) {
	for _, members := range []string{
		`"grammar":"","json_schema":{},"regex":"","ebnf":"","format":"","structural_tag":"","guided_json":{ }`,
		`"grammar":null,"json_schema":null,"format":null,"reasoning_format":null,"thinking_token_budget":null`,
		`"reasoning_format":"none"`, `"reasoning_format":"auto"`, `"thinking_token_budget":-1`, `"response_format":{}`,
		`"response_format":{"type":null}`, `"parallel_tool_calls":true`, `"parallel_tool_calls":false,"tools":[]`,
		`"parallel_tool_calls":true,"tools":[{"type":"function"}],"tool_choice":"none"`, `"priority":0.0`,
		`"samplers":[],"mirostat":0,"mirostat_tau":5,"mirostat_eta":0.1,"dry_multiplier":0.0,"dry_base":1.75`,
		`"dry_sequence_breakers":["x"],"xtc_probability":0,"xtc_threshold":0.1,"top_n_sigma":-1,"dynatemp_range":0`,
		`"min_characters":0,"min_keep":0,"n_probs":0,"spaces_between_special_tokens":true,"adaptive_target":-1`,
		`"reasoning_budget_tokens":-1,"reasoning_budget_message":"","grammar_lazy":false,"grammar_triggers":[]`,
		`"generation_prompt":"","preserved_tokens":[],"reasoning_control":false,"backend_sampling":false`,
		`"thinking":{"type":"disabled"},"reasoning":{},"stop_sequences":[],"suppress_tokens":[],"bad_words_ids":[]`,
		`"num_beams":1,"do_sample":true,"length_penalty":1.0,"best_of":1,"num_predict":-1,"rep_pen":1,"cfg_scale":1`,
		`"text":{"format":{"type":"text"},"verbosity":"medium"},"lark":"","json_object":false,"rep_pen_range":300`,
		`"guided_decoding_backend":"","guided_whitespace_pattern":"","text":{}`,
		`"mirostat":null,"samplers":null,"verbosity":"medium","cache_prompt":true,"id_slot":-1,"anything":7`,
	} {
		r, err := parse(chatAPI, `{`+hello+","+members+"}")
		if err != nil {
			t.Errorf("%s: %v", members, err)
		} else if got := r.(*ChatRequest).Ignored; got != nil {
			t.Errorf("%s: %v is reported", members, got)
		}
	}
}

// TestIgnored: each member of the table is reported where its value changes something, and no unknown name is.
func TestIgnored(t *testing.T) {
	for _, row := range passed {
		body := `"prompt":"x",` + fmt.Sprintf("%q:%q", row.name, "something")
		want := []string{row.name}
		if row.with != "" {
			body += fmt.Sprintf(",%q:2", row.with)
			want = []string{row.with, row.name}
		}
		r, err := parse(completionAPI, "{"+body+`,"nobody":1}`)
		if err != nil || !slices.Equal(r.(*CompletionRequest).Ignored, want) {
			t.Errorf("%s: %+v, %v", row.name, r, err)
		}
	}
	all := IgnoredFields()
	for _, name := range all {
		if slices.ContainsFunc(refusals, func(r refusal) bool { return r.name == name }) {
			t.Errorf("%s is both refused and passed over", name)
		}
	}
	if n := len(strings.Join(all, ",")); n > 2048 {
		t.Errorf("all names have %d bytes, too many for a header", n)
	}
}

func TestPromptForms(t *testing.T) {
	for _, c := range []struct {
		body string
		want []Prompt
	}{
		{`"a"`, []Prompt{{Text: "a"}}},
		{`""`, []Prompt{{Text: ""}}},
		{`["a","b"]`, []Prompt{{Text: "a"}, {Text: "b"}}},
		{` [ 1 , 2.0 ]`, []Prompt{{IDs: []int32{1, 2}}}},
		{`[[1,2],[3]]`, []Prompt{{IDs: []int32{1, 2}}, {IDs: []int32{3}}}},
		{`["[1,\"]"]`, []Prompt{{Text: `[1,"]`}}},
	} {
		r, err := ParseCompletion([]byte(`{"prompt":`+c.body+`}`), testLimits)
		if err != nil || !reflect.DeepEqual(r.Prompts, c.want) {
			t.Errorf("%s: %+v, %v; want %+v", c.body, r, err, c.want)
		}
	}
	r, err := ParseCompletion([]byte(`{"prompt":"a","echo":true,"logprobs":3,"max_tokens":0}`), testLimits)
	if err != nil || r.PromptLogprobs != 3 || *r.MaxTokens != 0 || !r.AddSpecialTokens {
		t.Errorf("scoring: %+v, %v", r, err)
	}
}

func TestTokenizeBodies(t *testing.T) {
	for body, param := range map[string]string{
		`{}`: "prompt", `{"prompt":1}`: "prompt", `{"prompt":"x",` + hello + `}`: "prompt", `{"messages":[]}`: "messages", `{"prompt":"x","add_special_tokens":1}`: "add_special_tokens",
		`{"chat_template":"x",` + hello + `}`: "chat_template", `{"chat_template":"x","prompt":"x"}`: "chat_template",
		`{"tools":5,"prompt":"x"}`: "tools", `{"tools":[1],` + hello + `}`: "tools[0]",
		`{"documents":{},"prompt":"x"}`: "documents", `{"chat_template_kwargs":[],"prompt":"x"}`: "chat_template_kwargs",
		`{"add_generation_prompt":1,"prompt":"x"}`:    "add_generation_prompt",
		`{"continue_final_message":"x","prompt":"x"}`: "continue_final_message",
		`{"reasoning_effort":1,"prompt":"x"}`:         "reasoning_effort",
		`{"tool_choice":5,"prompt":"x"}`:              "tool_choice", `{"tool_choice":"required",` + hello + `}`: "tool_choice",
		`{"return_token_strs":"x","prompt":"x"}`: "return_token_strs", `{"model":1,"prompt":"x"}`: "model",
	} {
		_, err := ParseTokenize([]byte(body), testLimits)
		wantInvalid(t, err, param, "")
	}
	r, err := ParseTokenize([]byte(`{"tools":[{}],`+hello+`}`), testLimits)
	if err != nil || r.Chat == nil || r.AddSpecialTokens || r.Chat.Tools == nil {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := ParseTokenize([]byte(`{"prompt":"x","return_token_strs":true}`), testLimits); err != nil ||
		!r.AddSpecialTokens ||
		!r.ReturnTokenStrs {
		t.Errorf("%+v, %v", r, err)
	}
	_, err = ParseDetokenize([]byte(`{"tokens":[1000]}`), testLimits)
	wantInvalid(t, err, "tokens[0]", "from 0 to 999")
	_, err = ParseDetokenize([]byte(`{}`), testLimits)
	wantInvalid(t, err, "tokens", "missing")
	if r, err := ParseDetokenize([]byte(`{"tokens":[1,2]}`), testLimits); err != nil ||
		!slices.Equal(r.Tokens, []int32{1, 2}) {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestWire(t *testing.T) {
	top := TopLogprobs{{Token: "a\"<", Logprob: -0.5}, {Token: "a\"<", Logprob: -1},
		{Token: "b", Logprob: Logprob(math.Inf(-1))}}
	empty := ""
	for _, c := range []struct {
		v    any
		want string
	}{
		{top, `{"a\"<":-0.5,"b":-9999}`},
		{TopLogprobs(nil), `null`},
		{ErrorBody{Invalid("n", "", "bad")}, `{"error":{"message":"bad","type":"invalid_request_error","param":"n","code":null}}`},
		{Delta{Role: "assistant", Content: &empty}, `{"role":"assistant","content":""}`},
		{ChatChunk{Choices: []ChatChunkChoice{}, Usage: json.RawMessage("null")}, `{"id":"","object":"","created":0,"model":"","choices":[],"usage":null}`},
	} {
		if got, err := Marshal(c.v); err != nil || string(got) != c.want {
			t.Errorf("got %s, %v; want %s", got, err, c.want)
		}
	}
}

// A model's own defaults are those of requests that state nothing; what a request states counts.
func TestSamplingDefaults(t *testing.T) {
	own, err := ParseGenerationConfig([]byte("\ufeff" + `{"temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.05,
		"repetition_penalty": 1.05, "max_new_tokens": 7, "do_sample": false, "eos_token_id": [1, 2]}`))
	if err != nil {
		t.Fatal(err)
	}
	limits := testLimits
	limits.Sampling = own
	chat := func(members string) *ChatRequest {
		r, err := ParseChat([]byte(`{"messages":[{"role":"user","content":"x"}]`+members+`}`), limits)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, p := range []*Params{&chat("").Params, &chat(`,"temperature":null,"top_k":null`).Params} {
		if p.Temperature != 0.6 || p.TopP != 0.9 || p.TopK != 20 || p.MinP != 0.05 || p.RepetitionPenalty != 1.05 ||
			p.MaxTokens != nil {
			t.Errorf("%+v", p)
		}
	}
	p := chat(`,"temperature":0,"top_p":1,"top_k":-1,"min_p":0,"repetition_penalty":1,"max_tokens":30`)
	if p.Temperature != 0 || p.TopP != 1 || p.TopK != 0 || p.MinP != 0 || p.RepetitionPenalty != 1 ||
		*p.MaxTokens != 30 {
		t.Errorf("%+v", p)
	}
	c, err := ParseCompletion([]byte(`{"prompt":"x"}`), limits)
	if err != nil || c.MaxTokens != nil || c.TopK != 20 {
		t.Errorf("%+v, %v", c, err)
	}
	empty, err := ParseGenerationConfig([]byte(`{"temperature": null, "top_k": null, "do_sample": true}`))
	if err != nil || empty != (Sampling{}) {
		t.Errorf("%+v, %v", empty, err)
	}
	for text, say := range map[string]string{
		`{"temperature": 2.5}`: "temperature must be from 0 to 2, not 2.5", `{"top_p": -1}`: "top_p must be",
		`{"top_k": 1.5}`: "top_k must be an integer", `{"min_p": "a"}`: "min_p must be a number",
		`{"repetition_penalty": 0}`: "repetition_penalty must be above 0", `{"max_new_tokens": 0}`: "max_new_tokens must be",
		`[]`: "cannot unmarshal", `{`: "unexpected end",
	} {
		if _, err := ParseGenerationConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: %v, want %q", text, err, say)
		}
	}
}

// Parts of OpenAI's other APIs hold text, too: templates see them as text parts.
func TestTextParts(t *testing.T) {
	for content, want := range map[string]string{
		`"a"`:                                       `"a"`,
		`[{"type":"text","text":"a","x":1}]`:        `[{"type":"text","text":"a","x":1}]`,
		`[{"type":"input_text","text":"a"}]`:        `[{"type":"text","text":"a"}]`,
		`[{"type":"output_text","text":"\u00e9"} ]`: `[{"type":"text","text":"\u00e9"}]`,
		`[{"type":"text","text":"a"}, {"refusal":"no","type":"refusal"}]`: `[{"type":"text","text":"a"},{"type":"text","text":"no"}]`,
	} {
		r, err := ParseChat(
			[]byte(
				"\ufeff"+`{"messages":[ {"role":"user","content":"q"} ,{"content":[],"role":"assistant", "content" : `+
					content+` ,"name":"n"}]}`,
			),
			testLimits,
		)
		if err != nil {
			t.Errorf("%s: %v", content, err)
			continue
		}
		var got []struct{ Content json.RawMessage }
		if err := json.Unmarshal(r.Messages, &got); err != nil || len(got) != 2 || string(got[0].Content) != `"q"` ||
			string(got[1].Content) != want {
			t.Errorf("%s: %s, %v", content, r.Messages, err)
		}
	}
	for content, param := range map[string]string{
		`[{"type":"input_text"}]`:               "messages[0].content[0].text",
		`[{"type":"refusal","text":"a"}]`:       "messages[0].content[0].refusal",
		`[{"type":"input_image","text":"a"}]`:   "messages[0].content[0].type",
		`[{"type":"output_text","text":["a"]}]`: "messages[0].content[0].text",
	} {
		_, err := ParseChat([]byte(`{"messages":[{"role":"user","content":`+content+`}]}`), testLimits)
		var e *Error
		if !errors.As(err, &e) || e.Param != param {
			t.Errorf("%s: %v, want an error of %s", content, err, param)
		}
	}
}
