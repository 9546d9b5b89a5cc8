package chat

import (
	"encoding/json"
	"testing"
)

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
		if role, _ := messages[0].(*Map).Get("role"); role != "developer" {
			t.Error("the caller's message was changed")
		}
		if want := c.src[0:2] == "{#"; tmpl.UsesToolCalls() != want {
			t.Errorf("%s: UsesToolCalls %v", c.src, !want)
		}
	}
}
