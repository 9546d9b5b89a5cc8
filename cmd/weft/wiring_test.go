package main

import (
	"testing"

	"weft/server/chat"
	"weft/server/openai"
)

// TestPromptOfToolCalls: a conversation as the OpenAI clients send it back after a tool call.
func TestPromptOfToolCalls(t *testing.T) {
	tmpl, err := chat.Parse(`{% for m in messages %}<{{ m.role }}>{% for c in m.tool_calls or [] %}{{ c.function.name }}({% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}){% endfor %}{% endfor %}`)
	if err != nil {
		t.Fatal(err)
	}
	r := &renderer{template: tmpl}
	text, err := r.Render(&openai.ChatRequest{Messages: []byte(`[{"role":"user","content":"Weather?"},
		{"role":"assistant","content":"","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"city\":\"Rome\"}"}}]},
		{"role":"tool","tool_call_id":"1","content":"sunny"}]`)})
	if want := "<user><assistant>f(city=Rome)<tool>"; err != nil || text != want {
		t.Errorf("%q, want %q (%v)", text, want, err)
	}
}
