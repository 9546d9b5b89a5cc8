package jinja

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"
)

var templateSeeds = []string{
	"{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] }}{%- endfor %}",
	"a {%- if x -%} b {% endif %}", "{% for a, b in d.items() recursive %}{{ loop(b) }}{% else %}{% endfor %}",
	"{% macro f(a, b=1) %}{{ caller(a) }}{% endmacro %}{% call(x) f(1) %}{% endcall %}",
	"{% set ns = namespace(a=1) %}{% set ns.a = messages | map(attribute='role') | list %}{{ ns.a | " +
		"tojson(indent=2) }}", "{{ 'a%s' % (1,) ~ [1, 2][::-1] | sort | join(',') }}",
	"{% generation %}{{ m['content'] }}{% endgeneration %}{# c #}{% raw %}{{{% endraw %}",
	"{{ '\\u00e9\\x41\\n' 'b' if a is not none and b in c or not d else e.f[1:2].g(*h, **i) }}",
	"{% filter upper | indent(2) %}x{% endfilter %}{% with a = 1 %}{{ a ** 2 // 3 % 4 }}{% endwith %}",
	"{{ messages | groupby('role') | batch(2, 'x') | list }}",
	"{{ '{:>{w}}'.format('a', w=5) }}{{ 1.5e3 | round(1) }}{{ x.y.__class__ }}",
	"{% for i in range(10**9) %}{% endfor %}{{ 'a' * 10**9 }}",
}

func FuzzParse(f *testing.F) {
	for _, s := range templateSeeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		if _, err := Parse(src); err != nil && !errors.Is(err, ErrTemplate) {
			t.Errorf("%q: %v does not wrap ErrTemplate", src, err)
		}
	})
}

func FuzzRender(f *testing.F) {
	for _, s := range templateSeeds {
		f.Add(s)
	}
	messages, err := DecodeJSON([]byte(`[{"role": "system", "content": "é"}, {"role": "user", "content": [{"type": "text", "text": "a\nb"}]}, {"role": "tool", "n": 1.5}]`))
	if err != nil {
		f.Fatal(err)
	}
	lim := Limits{Time: time.Second, MaxSteps: 100_000, MaxOutput: 1 << 16, MaxAlloc: 1 << 22}
	f.Fuzz(func(t *testing.T, src string) {
		tmpl, err := ParseLimits(src, lim)
		if err != nil {
			return
		}
		vars := map[string]any{"messages": messages, "x": 1, "d": map[string]any{"k": "v"}}
		start := time.Now()
		text, spans, err := tmpl.Render(vars, Options{})
		if d := time.Since(start); d > 20*lim.Time {
			t.Errorf("%q took %v", src, d)
		}
		if err != nil && !errors.Is(err, ErrTemplate) {
			t.Errorf("%q: %v does not wrap ErrTemplate", src, err)
		}
		if len(text) > lim.MaxOutput {
			t.Errorf("%q: %d bytes", src, len(text))
		}
		again, _, err2 := tmpl.Render(vars, Options{})
		if (err == nil) != (err2 == nil) || text != again {
			t.Errorf("%q: a second rendering differs", src)
		}
		for _, s := range spans {
			if s[0] > s[1] || s[0] < 0 {
				t.Errorf("%q: span %v", src, s)
			}
		}
	})
}

func FuzzDecodeJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5,-0,"\u00e9\ud83d"],"a":null}`, "[[[]]]", "1e999", "-", "\"\xff\"", "123456789012345678901234567890"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := DecodeJSON(data)
		if valid := json.Valid(data); valid != (err == nil) && !errors.Is(err, ErrLimit) {
			t.Fatalf("%q: valid %v, got %v", data, valid, err)
		}
		var want any
		if err != nil || json.Unmarshal(data, &want) != nil {
			return
		}
		out, err := json.Marshal(v)
		if err != nil {
			t.Fatalf("%q: marshal: %v", data, err)
		}
		var got any
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%q: written as %q: %v", data, out, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %v, want %v", data, got, want)
		}
	})
}
