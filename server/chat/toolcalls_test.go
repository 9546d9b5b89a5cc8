package chat

import (
	"strings"
	"testing"
)

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
		v, err := DecodeJSON([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		text, err := tmpl.Render(Input{Messages: ObjectArguments(v.([]any))})
		if err != nil || text != c.want {
			t.Errorf("%s: %q, want %q (%v)", c.function, text, c.want, err)
		}
		if again, _ := DecodeJSON([]byte(in)); !equal(v, again) {
			t.Errorf("%s: the messages were changed", c.function)
		}
	}
	odd, _ := DecodeJSON([]byte(`[5,{},{"tool_calls":null},{"tool_calls":[5,{},{"function":5}]}]`))
	if got := ObjectArguments(odd.([]any)); !equal(any(got), odd) {
		t.Errorf("got %v, want %v", got, odd)
	}
}
