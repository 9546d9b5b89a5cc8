package checks

import (
	"strings"
	"testing"
)

// one parses a single rule and applies it.
func one(t *testing.T, rule string, a Answer) (bool, string) {
	t.Helper()
	s, err := Parse([]byte("- " + rule))
	if err != nil || len(s.Every) != 1 {
		t.Fatalf("%s: %v", rule, err)
	}
	return s.Every[0].Check(a)
}

func TestRules(t *testing.T) {
	weather := []any{map[string]any{"type": "function", "function": map[string]any{"name": "weather",
		"parameters": map[string]any{"type": "object", "required": []any{"city"},
			"properties": map[string]any{"city": map[string]any{"type": "string"}}}}}}
	for _, c := range []struct {
		rule, answer string
		want         bool
	}{
		{`{type: contains, value: Weft}`, "I am Weft.", true},
		{`{type: contains, value: weft}`, "I am Weft.", false},
		{`{type: icontains, value: wEFT}`, "I am Weft.", true},
		{`{type: icontains, value: loom}`, "I am Weft.", false},
		{`{type: contains, value: 7}`, "at 7", true},
		{`{type: not-contains, value: sorry}`, "fine", true},
		{`{type: not-contains, value: sorry}`, "sorry", false},
		{`{type: contains-all, value: [a, b]}`, "a b", true},
		{`{type: contains-all, value: "a, c"}`, "a b", false},
		{`{type: contains-any, value: [x, b]}`, "a b", true},
		{`{type: icontains-any, value: [x, y]}`, "a b", false},
		{`{type: icontains-all, value: [A, B]}`, "a b", true},
		{`{type: starts-with, value: Yes}`, "Yes, sir", true},
		{`{type: starts-with, value: sir}`, "Yes, sir", false},
		{`{type: regex, value: '\d{4}-\d\d'}`, "on 2024-05", true},
		{`{type: regex, value: '^\d+$'}`, "on 2024", false},
		{`{type: equals, value: yes it is}`, "yes it is", true},
		{`{type: equals, value: yes}`, "yes ", false},
		{`{type: equals, value: {a: 1, b: [x]}}`, `{"b":["x"],"a":1}`, true},
		{`{type: equals, value: {a: 1}}`, `{"a":2}`, false},
		{`{type: is-json}`, ` {"a": [1]} `, true},
		{`{type: is-json}`, `{"a": 1} and more`, false},
		{`{type: is-json}`, `{"a": 1`, false},
		{`{type: is-json, value: {type: object, required: [a]}}`, `{"a": 1}`, true},
		{`{type: is-json, value: {type: object, required: [a]}}`, `{"b": 1}`, false},
		{`{type: not-is-json}`, `text`, true},
		{`{type: contains-json}`, "Here: ```{\"a\": {}}``` done", true},
		{`{type: contains-json}`, "Here: { no", false},
		{`{type: contains-json, value: {required: [b]}}`, `{"a":1} then {"b":2}`, true},
		{`{type: is-valid-openai-tools-call}`, `[{"type":"function","function":{"name":"weather","arguments":"{\"city\":\"Rome\"}"}}]`, true},
		{`{type: is-valid-openai-tools-call}`, "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>", true},
		{`{type: is-valid-openai-tools-call}`, `[{"type":"function","function":{"name":"weather","arguments":"{}"}}]`, false},
		{`{type: is-valid-openai-tools-call}`, `{"name":"weather","arguments":{"city":7}}`, false},
		{`{type: is-valid-openai-tools-call}`, `{"name":"news","arguments":{"city":"Rome"}}`, false},
		{`{type: is-valid-openai-tools-call}`, `{"name":"weather","arguments":"{city"}`, false},
		{`{type: is-valid-openai-tools-call}`, `[]`, false},
		{`{type: is-valid-openai-tools-call}`, `It is sunny.`, false},
		{`{type: finish-reason, value: stop}`, `x`, true},
		{`{type: finish-reason, value: length}`, `x`, false},
		{`{type: levenshtein, value: kitten, threshold: 3}`, `sitting`, true},
		{`{type: levenshtein, value: kitten, threshold: 2}`, `sitting`, false},
		{`{type: rouge-n, value: the cat sat}`, `the cat sat down`, true},
		{`{type: rouge-n, value: the cat sat, threshold: 0.9}`, `the cat sat down`, false},
		{`{type: bleu, value: the cat sat on the mat}`, `the cat sat on a mat`, true},
		{`{type: bleu, value: the cat sat on the mat}`, `a dog`, false},
	} {
		ok, why := one(t, c.rule, Answer{Text: c.answer, Finish: "stop", Tools: weather})
		if ok != c.want || ok == (why != "") {
			t.Errorf("%s of %q: %v, %q", c.rule, c.answer, ok, why)
		}
	}
}

func TestFiles(t *testing.T) {
	s, err := Parse([]byte(`
prompts: ["Who is {{name}}?", "{{ name }}:"]
defaultTest:
  system: Be brief.
  assert: [{type: not-icontains, value: sorry}]
assert:
  - {type: finish-reason, value: stop}
tests:
  - vars: {name: Ada}
    assert: [{type: contains, value: "{{name}}"}]
  - description: greets
    messages: [{role: user, content: Hi}, {role: assistant, content: Hello}, {role: user, content: Again}]
    max_tokens: 9
    assert: [{type: is-json, value: {required: ["{{x}}"]}}]
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Every) != 1 || s.Every[0].Type != "finish-reason" || len(s.Tests) != 3 {
		t.Fatalf("%+v", s)
	}
	first, last := s.Tests[0], s.Tests[2]
	if first.Name != "Who is Ada? (prompt 1)" || first.Messages[0] != (Message{"system", "Be brief."}) ||
		first.Messages[1].Content != "Who is Ada?" || len(first.Rules) != 2 || first.Rules[1].Value != "Ada" {
		t.Errorf("%+v", first)
	}
	if last.Name != "greets" || len(last.Messages) != 4 || last.MaxTokens != 9 || last.Line == 0 {
		t.Errorf("%+v", last)
	}
	if s.Tests[1].Messages[1].Content != "Ada:" {
		t.Errorf("%+v", s.Tests[1])
	}
}

func TestRefusedFiles(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "no rules",
		"tests: []":                           "no rules",
		"- {type: contain, value: a}":         `line 1: type "contain" is none of contains, icontains`,
		"- {type: llm-rubric, value: a}":      `type "llm-rubric" is none of`,
		"- {type: contains}":                  "line 1: contains: value must be a text",
		"- {type: contains, value: ''}":       "value is empty: every answer would do",
		"- {type: regex, value: '('}":         "error parsing regexp",
		"- {type: contains-all, value: 7}":    "value must be a list of texts",
		"- {type: is-json, value: {type: 7}}": "is-json",
		"- {type: is-json, value: {$ref: 'file:///etc/passwd'}}": "is-json",
		"- {type: is-valid-openai-tools-call, value: x}":         "it takes no value",
		"- {type: contains, value: a, threshold: 1}":             "contains has no threshold",
		"- {type: contains, value: a, weight: 0}":                `a rule has the key "weight"`,
		"- {prompt: Hi}":                `the test "Hi" has no assert: it cannot fail`,
		"- {assert: [{type: is-json}]}": "a test needs prompt or messages",
		"- {prompt: Hi, messages: [{role: user, content: a}], assert: []}": "not both",
		"- {messages: [{role: robot, content: a}], assert: []}":            `role "robot"`,
		"- {prompt: Hi, expect: x}":                                        `a test has the key "expect"`,
		"tests: {a: b}":                                                    "tests is no list",
		"rules: []":                                                        `the file has the key "rules"`,
		"just text":                                                        "the file is no mapping",
		"\n\n- {prompt: Hi, assert: [{type: x}]}":                          "line 3",
		"a: [": "yaml",
	} {
		if s, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v; want %q", text, s, err, want)
		}
	}
	if _, err := Read(t.TempDir() + "/none.yaml"); err == nil {
		t.Error("a file that is absent")
	}
}

// FuzzRules: any file is read or refused, and any answer is judged.
func FuzzRules(f *testing.F) {
	f.Add("- {type: equals, value: {a: 1}}\n- {type: contains-json}", `{"a":1}`)
	f.Add("tests: [{prompt: Hi, assert: [{type: levenshtein, value: x}, {type: is-valid-openai-tools-call}]}]",
		"<tool_call>{}</tool_call>")
	f.Fuzz(func(_ *testing.T, text, answer string) {
		s, err := Parse([]byte(text))
		if err != nil || len(answer) > 1000 {
			return
		}
		rules := s.Every
		for _, test := range s.Tests {
			rules = append(rules, test.Rules...)
		}
		for _, r := range rules {
			r.Check(Answer{Text: answer})
		}
	})
}
