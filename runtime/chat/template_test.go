package chat

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"weft/internal/jinja"
)

func render(t *testing.T, src string, in Input) string {
	t.Helper()
	tmpl, err := Parse(src)
	if err != nil {
		t.Fatalf("parse %s: %v", src, err)
	}
	text, err := tmpl.Render(in)
	if err != nil {
		t.Fatalf("render %s: %v", src, err)
	}
	return text
}

func decode(t *testing.T, src string) any {
	t.Helper()
	v, err := jinja.DecodeJSON([]byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestReasoningNames(t *testing.T) {
	for _, key := range reasoningKeys {
		in := Input{Messages: []any{decode(t, `{"role": "assistant", "content": null, "`+key+`": "hm"}`)}}
		src := "{{ messages[0].reasoning }}{{ messages[0].thinking }}{{ messages[0].reasoning_content }}{{ " +
			"'content' in messages[0] }}"
		if got := render(t, src, in); got != "hmhmhmFalse" {
			t.Errorf("%s: got %q", key, got)
		}
		if m := in.Messages[0].(*jinja.Map); m.Len() != 3 {
			t.Errorf("the caller's message was changed: %v", m)
		}
	}
}

func TestContinueFinalMessage(t *testing.T) {
	msgs := decode(t, `[{"role": "user", "content": "Q"}, {"role": "assistant", "content": [{"type": "text", "text": "one "}, {"type": "image"}]}]`).([]any)
	src := "{% for m in messages %}[{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ " +
		"p.text }}{% endfor %}{% endif %}]{% endfor %}"
	if got := render(t, src, Input{Messages: msgs, ContinueFinalMessage: true}); got != "[Q][one " {
		t.Errorf("got %q", got)
	}
	tmpl, err := Parse("{% for m in messages %}{{ m.role }}{% endfor %}")
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]Input{
		"text not shown": {Messages: msgs, ContinueFinalMessage: true},
		"no messages":    {ContinueFinalMessage: true},
		"both":           {Messages: msgs, ContinueFinalMessage: true, AddGenerationPrompt: true},
		"no text":        {Messages: []any{decode(t, `{"role": "assistant"}`)}, ContinueFinalMessage: true},
	} {
		if _, err := tmpl.Render(in); !errors.Is(err, jinja.ErrTemplate) {
			t.Errorf("%s: got %v, want an.ErrTemplate", name, err)
		}
	}
}

func TestFlattenText(t *testing.T) {
	msgs := decode(t, `[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, {"role": "user", "content": "c"}]`).([]any)
	flat, err := FlattenText(msgs)
	if err != nil {
		t.Fatal(err)
	}
	if got := render(t, "{% for m in messages %}[{{ m.content }}]{% endfor %}",
		Input{Messages: flat}); got != "[a\nb][c]" {
		t.Errorf("got %q", got)
	}
	if c, _ := msgs[0].(*jinja.Map).Get("content"); reflect.TypeOf(c) != reflect.TypeOf([]any{}) {
		t.Errorf("the caller's message was changed to %v", c)
	}
	for _, bad := range []string{`[{"content": [{"type": "image_url", "image_url": {}}]}]`, `[{"content": [1]}]`, `[{"content": [{"text": 1}]}]`} {
		if _, err := FlattenText(decode(t, bad).([]any)); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestIteratesContent(t *testing.T) {
	for src, want := range map[string]bool{
		ChatML: false,
		"{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}": true,
		"{% for m in messages %}{% for p in m['content'] | selectattr('type', 'equalto', 'text') %}x{% endfor %}{% " +
			"endfor %}": true,
		"{% for m in messages %}{% set c = m.content %}{% for p in c %}x{% endfor %}{% endfor %}":          true,
		"{% for m in messages %}{{ m.content | trim }}{% for c in m.tool_calls %}{% endfor %}{% endfor %}": false,
	} {
		tmpl, err := Parse(src)
		if err != nil {
			t.Fatal(err)
		}
		if got := tmpl.IteratesContent(); got != want {
			t.Errorf("%s: got %v, want %v", src, got, want)
		}
	}
}

func TestAdapt(t *testing.T) {
	const in = `[{"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
		{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":"{\"x\":1}"}}]}]`
	for _, c := range []struct{ src, want string }{
		{`{{ messages[0].role }}`, `[{"role":"system","content":"a\nb"},{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":{"x":1}}}]}]`},
		{`{# developer #}{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{{ m.tool_calls }}{% endfor %}`,
			`[{"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},` +
				`{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":{"x":1}}}]}]`},
	} {
		tmpl, err := Parse(c.src)
		if err != nil {
			t.Fatal(err)
		}
		messages := decodeList(t, json.RawMessage(in))
		got, err := tmpl.Adapt(messages)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := json.Marshal(got); err != nil || string(text) != c.want {
			t.Errorf("%s:\n%s\nwant\n%s (%v)", c.src, text, c.want, err)
		}
		if role, _ := messages[0].(*jinja.Map).Get("role"); role != "developer" {
			t.Error("the caller's message was changed")
		}
		if want := c.src[0:2] == "{#"; tmpl.UsesToolCalls() != want {
			t.Errorf("%s: UsesToolCalls %v", c.src, !want)
		}
	}
}

// TestObjectArguments renders calls as the API has them through a template that prints arguments as templates of
// released models do.
func TestObjectArguments(t *testing.T) {
	tmpl, err := Parse(`{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.name }}:{{ c.function.arguments | tojson }};{% endfor %}{% endfor %}`)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ function, want string }{
		{`{"name":"f","arguments":"{\"z\": 1, \"a\": [\"é\", 2.50]}"}`, `f:{"z": 1, "a": ["é", 2.5]};`},
		{`{"name":"f","arguments":{"z":1}}`, `f:{"z": 1};`},
		{`{"name":"f","arguments":""}`, `f:{};`},
		{`{"name":"f","arguments":null}`, `f:{};`},
		{`{"name":"f"}`, `f:{};`},
		{`{"name":"f","arguments":"[1]"}`, `f:"[1]";`},
		{`{"name":"f","arguments":"{\"cut"}`, `f:"{\"cut";`},
		{`{"name":"f","arguments":"` + strings.Repeat("[", 1000) + `"}`, `f:"` + strings.Repeat("[", 1000) + `";`},
	} {
		in := `[{"role":"assistant","content":"","tool_calls":[{"id":"1","function":` + c.function + `}]}]`
		v, err := jinja.DecodeJSON([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		text, err := tmpl.Render(Input{Messages: ObjectArguments(v.([]any))})
		if err != nil || text != c.want {
			t.Errorf("%s: %q, want %q (%v)", c.function, text, c.want, err)
		}
		if again, _ := jinja.DecodeJSON([]byte(in)); !reflect.DeepEqual(v, again) {
			t.Errorf("%s: the messages were changed", c.function)
		}
	}
	odd, _ := jinja.DecodeJSON([]byte(`[5,{},{"tool_calls":null},{"tool_calls":[5,{},{"function":5}]}]`))
	if got := ObjectArguments(odd.([]any)); !reflect.DeepEqual(any(got), odd) {
		t.Errorf("got %v, want %v", got, odd)
	}
}

// TestNamedTemplates: which of a model's templates is for a conversation.
func TestNamedTemplates(t *testing.T) {
	in := Input{Messages: []any{}}
	for _, c := range []struct {
		sources     map[string]string
		plain, tool string
	}{
		{map[string]string{"default": "d"}, "d", "d"},
		{map[string]string{"default": "d", "tool_use": "t", "rag": "{{"}, "d", "t"},
		{map[string]string{"tool_use": "t"}, "", "t"},
		{map[string]string{"rag": "r"}, "", ""},
	} {
		tmpl, err := ParseNamed(c.sources)
		if err != nil {
			t.Fatal(err)
		}
		for tools, want := range map[bool]string{false: c.plain, true: c.tool} {
			got, err := tmpl.For(tools).Render(in)
			if got != want || (err == nil) != (want != "") {
				t.Errorf("%v, tools %v: %q %v, want %q", c.sources, tools, got, err, want)
			}
		}
	}
	if _, err := ParseNamed(map[string]string{"default": "d", "tool_use": "{{"}); err == nil {
		t.Error("a damaged template is taken")
	}
}
