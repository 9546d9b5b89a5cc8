package jinja

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
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
		if got := render(t, src, nil, Options{}); got != want {
			t.Errorf("%s\ngot  %q\nwant %q", src, got, want)
		}
	}
}

// TestLazyLoopFilter: the body changes what the loop's own condition sees for the next item.
func TestLazyLoopFilter(t *testing.T) {
	src := "{% set ns = namespace(done=false) %}{% for x in [1, 2, 3] if not ns.done %}{{ x }}{% if x == 2 %}{% set " +
		"ns.done = true %}{% endif %}{% endfor %}"
	if got := render(t, src, nil, Options{}); got != "12" {
		t.Errorf("got %q, want 12", got)
	}
}

func TestStrftime(t *testing.T) {
	now := func() time.Time { return time.Date(2024, 1, 7, 0, 5, 9, 123456000, time.UTC) }
	src := "{{ strftime_now('%e|%-m|%I:%M %p|%U|%W|%V|%G|%u|%w|%f|%D|%F %T|%c|%x|%X|%_H|%q|%Z|%%') }}"
	if got, want := render(t, src, nil,
		Options{Now: now}),
		" 7|1|12:05 AM|01|01|01|2024|7|0|123456|01/07/24|2024-01-07 00:05:09|Sun Jan  7 00:05:09 "+
			"2024|01/07/24|00:05:09| 0|%q||%"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
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
