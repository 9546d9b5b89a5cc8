package server

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"weft/runtime/chat"
	"weft/server/openai"
)

// TestPromptOfToolCalls: a conversation as the OpenAI clients send it back after a tool call.
func TestPromptOfToolCalls(t *testing.T) {
	tmpl, err := chat.Parse(`{% for m in messages %}<{{ m.role }}>{% for c in m.tool_calls or [] %}{{ c.function.name }}({% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}){% endfor %}{% endfor %}`)
	if err != nil {
		t.Fatal(err)
	}
	r := NewRenderer(tmpl, nil, nil)
	text, err := r.Render(&openai.ChatRequest{Messages: []byte(`[{"role":"user","content":"Weather?"},
		{"role":"assistant","content":"","tool_calls":[{"id":"1","type":"function",
			"function":{"name":"f","arguments":"{\"city\":\"Rome\"}"}}]},
		{"role":"tool","tool_call_id":"1","content":"sunny"}]`)})
	if want := "<user><assistant>f(city=Rome)<tool>"; err != nil || text != want {
		t.Errorf("%q, want %q (%v)", text, want, err)
	}
}

// TestPromptWithoutContent: the assistant's content is null beside tool calls; templates that add it to a string would
// fail.
func TestPromptWithoutContent(t *testing.T) {
	tmpl, err := chat.Parse(chat.ChatML)
	if err != nil {
		t.Fatal(err)
	}
	r := NewRenderer(tmpl, nil, nil)
	for _, content := range []string{``, `,"content":null`, `,"content":""`} {
		text, err := r.Render(&openai.ChatRequest{Messages: []byte(`[{"role":"assistant","tool_calls":[{"id":"1","function":{"name":"f","arguments":"{}"}}]` + content + `}]`)})
		if want := "<|im_start|>assistant\n<|im_end|>\n"; err != nil || text != want {
			t.Errorf("%s: %q, want %q (%v)", content, text, want, err)
		}
	}
}

// TestRenderChoosesTemplate: a conversation with tools is rendered by the model's template for these.
func TestRenderChoosesTemplate(t *testing.T) {
	tmpl, err := chat.ParseNamed(map[string]string{"default": "plain", "tool_use": "{{ tools[0].function.name }}"})
	if err != nil {
		t.Fatal(err)
	}
	r := NewRenderer(tmpl, nil, nil)
	for tools, want := range map[string]string{"": "plain", `[{"type":"function","function":{"name":"f"}}]`: "f"} {
		req := &openai.ChatRequest{Messages: []byte(`[{"role":"user","content":"x"}]`)}
		if tools != "" {
			req.Tools = []byte(tools)
		}
		if got, err := r.Render(req); err != nil || got != want {
			t.Errorf("tools %s: %q %v, want %q", tools, got, err, want)
		}
	}
}

// TestOtherRoles: a role that is not the API's is rendered as it is, and refused where the template leaves its messages
// out.
func TestOtherRoles(t *testing.T) {
	const takesFew = `{% for m in messages %}{% if m.role == 'user' %}<u>{{ m.content }}{% elif m.role == 'critic' %}` +
		`<c>{{ m.content }}{% endif %}{% endfor %}`
	const takesParts = `{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}`
	const raises = `{% for m in messages %}{% if m.role not in ['user', 'system'] %}{{ raise_exception('no ' + m.role) }}` +
		`{% endif %}{{ m.content }}{% endfor %}`
	for _, c := range []struct{ template, messages, want, fails string }{
		{chat.ChatML, `{"role":"critic","content":"no"}`, "<|im_start|>critic\nno<|im_end|>\n", ""},
		{takesFew, `{"role":"user","content":"a"},{"role":"critic","content":"b"}`, "<u>a<c>b", ""},
		{takesFew, `{"role":"user","content":"b"},{"role":"judge","content":"b"}`, "", `the role "judge"`},
		{takesFew, `{"role":"critic","content":"b"},{"role":"judge","content":"b"}`, "", "messages[1].role"},
		{takesFew, `{"role":"system","content":"b"}`, "", "-"}, // a role of the API is the template's to leave out
		{takesParts, `{"role":"critic","content":[{"type":"text","text":"b"}]}`, "<critic>b", ""},
		{raises, `{"role":"system","content":"a"},{"role":"function","content":"b"}`, "", "no function"},
	} {
		tmpl, err := chat.Parse(c.template)
		if err != nil {
			t.Fatal(err)
		}
		text, err := NewRenderer(tmpl, nil, nil).Render(&openai.ChatRequest{Messages: []byte("[" + c.messages + "]")})
		failed := ""
		var e *openai.Error
		if errors.As(err, &e) {
			failed = e.Param + " " + e.Message
		}
		if text != c.want || (failed != "") != (c.fails != "" && c.fails != "-") ||
			c.fails != "-" && !strings.Contains(failed, c.fails) {
			t.Errorf("%s: %q, %q", c.messages, text, failed)
		}
	}
	many := ""
	for i := range maxOtherRoles + 1 {
		many += fmt.Sprintf(`,{"role":"r%d","content":"x"}`, i)
	}
	tmpl, err := chat.Parse(chat.ChatML)
	if err != nil {
		t.Fatal(err)
	}
	_, err = NewRenderer(tmpl, nil, nil).Render(&openai.ChatRequest{Messages: []byte("[" + many[1:] + "]")})
	if err == nil {
		t.Error("any number of roles is taken")
	}
}
