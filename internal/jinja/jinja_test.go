package jinja

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

func render(t *testing.T, src string, vars map[string]any, opt Options) string {
	t.Helper()
	tmpl, err := Parse(src)
	if err != nil {
		t.Fatalf("parse %s: %v", src, err)
	}
	text, _, err := tmpl.Render(vars, opt)
	if err != nil {
		t.Fatalf("render %s: %v", src, err)
	}
	return text
}

func decode(t *testing.T, src string) any {
	t.Helper()
	v, err := DecodeJSON([]byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestGoValues(t *testing.T) {
	vars := map[string]any{
		"messages": []any{map[string]any{"role": "user", "n": 3}},
		"tools":    []any{map[string]any{"b": json.Number("1.5"), "a": []string{"x"}}},
		"flag":     true, "maps": []map[string]any{{"k": nil}},
	}
	got := render(t, "{{ messages[0].n + 1 }}{{ tools | tojson }}{{ flag }}{{ maps }}", vars, Options{})
	if got != `4[{"a": ["x"], "b": 1.5}]True[{'k': None}]` {
		t.Errorf("got %q", got)
	}
	tmpl, _ := Parse("x")
	if _, _, err := tmpl.Render(map[string]any{"f": func() {}}, Options{}); !errors.Is(err, ErrTemplate) {
		t.Errorf("a Go function was accepted: %v", err)
	}
}

func TestQueries(t *testing.T) {
	for src, want := range map[string]bool{
		"{% for m in messages %}{{ m.content }}{% endfor %}":                                  false,
		"{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}": true,
		"{% for m in messages %}{% for p in m['content'] | selectattr('type', 'equalto', 'text') %}x{% endfor %}{% " +
			"endfor %}": true,
		"{% for m in messages %}{% set c = m.content %}{% for p in c %}x{% endfor %}{% endfor %}":          true,
		"{% for m in messages %}{% for p in m.content[1:] %}x{% endfor %}{% endfor %}":                     true,
		"{% for m in messages %}{{ m.content | trim }}{% for c in m.tool_calls %}{% endfor %}{% endfor %}": false,
	} {
		tmpl, err := Parse(src)
		if err != nil {
			t.Fatal(err)
		}
		if got := tmpl.IteratesAttribute("content"); got != want {
			t.Errorf("%s: got %v, want %v", src, got, want)
		}
		if !tmpl.Mentions("content") || tmpl.Mentions("developer") {
			t.Errorf("%s: what it mentions", src)
		}
	}
}

// TestDecodeJSONTexts compares texts of random escapes, halves of pairs and broken bytes with encoding/json.
func TestDecodeJSONTexts(t *testing.T) {
	parts := []string{"a", "plain text of some length", `\"`, `\\`, `\/`, `\b`, `\f`, `\n`, `\r`, `\t`, `\'`, `\x`, `\u0041`,
		`\u00e9`, `\uD83D`, `\ude00`, `\ud83d\ude00`, `\u12`, `\uzzzz`, `\u0000`, `\`, "é", "你", "😀", "\xff", "\xe4\xbd",
		"\xed\xa0\x80", "\x7f", "\x00", "\n", "\u2028", `"`}
	r := rand.New(rand.NewPCG(3, 4))
	valid := 0
	for range 200_000 {
		text := `"`
		for range r.IntN(7) {
			text += parts[r.IntN(len(parts))]
		}
		text += `"`
		var want string
		bad := json.Unmarshal([]byte(text), &want) != nil
		got, err := DecodeJSON([]byte(text))
		if bad != (err != nil) || !bad && got != want {
			t.Fatalf("%q: %q %v, want %q", text, got, err, want)
		}
		if !bad {
			valid++
		}
	}
	if valid < 20_000 {
		t.Errorf("only %d texts are valid", valid)
	}
}

func TestDecodeJSON(t *testing.T) {
	v := decode(t, `{"z": 1, "a": {"y": 12345678901234567890, "b": 1e2}, "z": [true, null, "\ud83d\ude00", -0.0]}`)
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"z":[true,null,"😀",-0.0],"a":{"y":12345678901234567890,"b":100.0}}`; string(out) != want {
		t.Errorf("got  %s\nwant %s", out, want)
	}
	for _, bad := range []string{"", "{", "[1,]", `{"a" 1}`, "1 2", "nul", strings.Repeat("[", 600) + strings.Repeat("]", 600), strings.Repeat("1", 5000)} {
		if _, err := DecodeJSON([]byte(bad)); err == nil {
			t.Errorf("%.20q was accepted", bad)
		}
	}
	m := NewMap()
	for i := range 50 {
		m.Set(fmt.Sprint(i), int64(i))
	}
	m.remove("3")
	if v, ok := m.Get("49"); !ok || v != int64(49) || m.Len() != 49 {
		t.Errorf("after removing a key: %v %v, %d keys", v, ok, m.Len())
	}
}
