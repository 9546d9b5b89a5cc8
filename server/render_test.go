package server

import (
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
