package jinja

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

// TestJinja2 renders what scripts/python/jinja_cases.py lists: the fixture holds Jinja2's own answers.
func TestJinja2(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "jinja2.json"))
	if err != nil {
		t.Fatal(err)
	}
	get := func(m any, key string) any { v, _ := m.(*Map).Get(key); return v }
	file := decode(t, string(data))
	now, err := time.Parse("2006-01-02T15:04:05", get(file, "now").(string))
	if err != nil {
		t.Fatal(err)
	}
	vars := map[string]any{}
	v := get(file, "variables").(*Map)
	for i := range v.Len() {
		name, x := v.At(i)
		vars[name.(string)] = x
	}
	cases := get(file, "cases").([]any)
	if len(cases) < 1000 {
		t.Fatalf("%d cases", len(cases))
	}
	for _, c := range cases {
		src := get(c, "template").(string)
		var text string
		var spans any
		tmpl, err := Parse(src)
		if err == nil {
			var got [][2]int
			text, got, err = tmpl.Render(vars, Options{Now: func() time.Time { return now }})
			if got != nil {
				list := []any{}
				for _, s := range got {
					list = append(list, []any{int64(s[0]), int64(s[1])})
				}
				spans = list
			}
		}
		switch kind := get(c, "error"); {
		case kind != nil && err == nil:
			t.Errorf("%q\ngot  %q\nwant %v", src, text, kind)
		case kind != nil && !errors.Is(err, ErrTemplate):
			t.Errorf("%q: %v does not wrap ErrTemplate", src, err)
		case kind != nil:
		case err != nil || text != get(c, "text"):
			t.Errorf("%q\ngot  %q, %v\nwant %q", src, text, err, get(c, "text"))
		case !reflect.DeepEqual(spans, get(c, "spans")):
			t.Errorf("%q: spans %v, want %v", src, spans, get(c, "spans"))
		}
	}
}
