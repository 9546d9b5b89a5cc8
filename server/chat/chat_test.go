package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
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
	v, err := DecodeJSON([]byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestLanguage holds what Python's jinja2 3.1 printed for the same text.
func TestLanguage(t *testing.T) {
	for src, want := range map[string]string{
		"{{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ -3 | abs }} {{ 1 + 2 is odd }} {{ 1 ~ 2 + 3 if false else 4 }}": "64 4 3 1 4",
		"{{ 7.5 // 2 }} {{ -7 // 2 }} {{ 7 % -3 }} {{ 5.5 % -2 }} {{ 10 ** -1 }} {{ 9 ** 0.5 }}":            "3.0 -4 -2 -0.5 0.1 3.0",
		"{{ 9223372036854775807 + 1 }} {{ -9223372036854775807 - 2 }} {{ 2 ** 70 // 3 }} {{ True + 1 }}":    "9223372036854775808 -9223372036854775809 393530540239137101141 2",
		"{{ 2.675 | round(2) }} {{ 2 | round }} {{ 25 | round(-1) }} {{ 1.1 | round(0, 'ceil') }}":          "2.67 2 20 2.0",
		"{{ 'a\tb\rc\n' | tojson }} {{ 'a b c'.split(None, 1) }} {{ ' a b '.rsplit(None, 1) }}":             `"a\tb\nc\n" ['a', 'b c'] [' a', 'b']`,
		"{{ [3, 1, 2] | sort | first }}{{ {'b': 1, 'a': 2} | dictsort | map('first') | join }}":             "1ab",
		"{% for x in [1, 2, 3] if x > 3 %}{{ x }}{% else %}none{% endfor %}":                                "none",
		"{% for x in [1] %}{% continue %}{% else %}else{% endfor %}":                                        "else",
		"{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}":         "12 13 1",
		"{% macro m(a, b=a ~ 'x') %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(b=2, a=3) }}":                "11x32",
		"{% set ns = namespace(a=1) %}{% set ns.a, b = 5, 6 %}{{ ns.a }}{{ b }}":                            "56",
		"{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}":                             "123",
		"{{ '{0:>5}|{1:<4}|{2:^5}|{x:05.1f}|{{}}|{3:,}'.format('a', 'b', 'c', 1234567, x=3.14159) }}":       "    a|b   |  c  |003.1|{}|1,234,567",
		"{{ '%05d|%-5s|%+.2f|%x|%%|%(a)s' % {'a': 1} if false else '%05d|%-5s|%+.2f|%x|%%' % (42, 'ab', " +
			"3.14159, 255) }}": "00042|ab   |+3.14|ff|%",
		"{{ 'x' if undef is undefined }}{{ undef | default('d') }}{{ undef | list }}{{ [undef] }}":            "xd[][Undefined]",
		"{{ 'foo-bar BAZ' | title }} {{ \"they're\".title() }} {{ 'a,b' | replace(',', '\\n') | indent(2) }}": "Foo-Bar Baz They'Re a\n  b",
		"{{ 'abcdefgh'[1:-1:2] }} {{ 'héllo'[::-1] }} {{ [1, 2, 3][-2:] }} {{ 'abc'[5] is defined }}":         "bdf olléh [2, 3] False",
		"{{ range(10, 0, -3) | list }} {{ range(5)[1:3] | list }} {{ (1, 2) + (3,) }} {{ [1] * 2 }}":          "[10, 7, 4, 1] [1, 2] (1, 2, 3) [1, 1]",
		"{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{% set j = joiner('|') %}{{ j() " +
			"}}x{{ j() }}y": "abax|y",
		"{%- with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}{% print 1, 2 %}":                        "12False12",
		"{% block x %}b{% endblock %}{% raw %}{{ y }}{% endraw %}":                                                     "b{{ y }}",
		"{{ {'a': {'b': [1, {'c': 2}]}}['a'].b[1].c }}{{ {'items': 1}.items is callable }}{{ {'items': 1}['items'] }}": "2True1",
	} {
		if got := render(t, src, Input{}); got != want {
			t.Errorf("%s\ngot  %q\nwant %q", src, got, want)
		}
	}
}

// TestLazyLoopFilter: the body changes what the loop's own condition sees for the next item.
func TestLazyLoopFilter(t *testing.T) {
	src := "{% set ns = namespace(done=false) %}{% for x in [1, 2, 3] if not ns.done %}{{ x }}{% if x == 2 %}{% set " +
		"ns.done = true %}{% endif %}{% endfor %}"
	if got := render(t, src, Input{}); got != "12" {
		t.Errorf("got %q, want 12", got)
	}
}

func TestStrftime(t *testing.T) {
	now := func() time.Time { return time.Date(2024, 1, 7, 0, 5, 9, 123456000, time.UTC) }
	src := "{{ strftime_now('%e|%-m|%I:%M %p|%U|%W|%V|%G|%u|%w|%f|%D|%F %T|%c|%x|%X|%_H|%q|%Z|%%') }}"
	if got, want := render(t, src,
		Input{Now: now}),
		" 7|1|12:05 AM|01|01|01|2024|7|0|123456|01/07/24|2024-01-07 00:05:09|Sun Jan  7 00:05:09 "+
			"2024|01/07/24|00:05:09| 0|%q||%"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestReasoningNames(t *testing.T) {
	for _, key := range reasoningKeys {
		in := Input{Messages: []any{decode(t, `{"role": "assistant", "content": null, "`+key+`": "hm"}`)}}
		src := "{{ messages[0].reasoning }}{{ messages[0].thinking }}{{ messages[0].reasoning_content }}{{ " +
			"'content' in messages[0] }}"
		if got := render(t, src, in); got != "hmhmhmFalse" {
			t.Errorf("%s: got %q", key, got)
		}
		if m := in.Messages[0].(*Map); m.Len() != 3 {
			t.Errorf("the caller's message was changed: %v", m.keys)
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
		if _, err := tmpl.Render(in); !errors.Is(err, ErrTemplate) {
			t.Errorf("%s: got %v, want an ErrTemplate", name, err)
		}
	}
}

func TestGoValues(t *testing.T) {
	in := Input{
		Messages: []any{map[string]any{"role": "user", "n": 3}},
		Tools:    []any{map[string]any{"b": json.Number("1.5"), "a": []string{"x"}}},
		Vars:     map[string]any{"flag": true, "maps": []map[string]any{{"k": nil}}},
	}
	if got := render(t, "{{ messages[0].n + 1 }}{{ tools | tojson }}{{ flag }}{{ maps }}", in); got != `4[{"a": ["x"], "b": 1.5}]True[{'k': None}]` {
		t.Errorf("got %q", got)
	}
	tmpl, _ := Parse("x")
	if _, err := tmpl.Render(Input{Vars: map[string]any{"f": func() {}}}); !errors.Is(err, ErrTemplate) {
		t.Errorf("a Go function was accepted: %v", err)
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
	if c, _ := msgs[0].(*Map).Get("content"); reflect.TypeOf(c) != reflect.TypeOf([]any{}) {
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
