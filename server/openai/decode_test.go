package openai

import (
	"errors"
	"math"
	"strings"
	"testing"
)

type decoded struct {
	Name  string   `json:"name"`
	On    bool     `json:"on"`
	Count int64    `json:"count"`
	List  []string `json:"list"`
	Inner struct {
		Weight float64 `json:"weight"`
	} `json:"inner"`
}

// A wrong body is answered in JSON's words: which member, what was expected, what came.
func TestDecode(t *testing.T) {
	for _, c := range []struct{ at, body, param, message string }{
		{"", `{"name":7}`, "name", "name must be a string, not a number."},
		{"", `{"name":{}}`, "name", "name must be a string, not an object."},
		{"", `{"on":"yes"}`, "on", "on must be true or false, not a string."},
		{"", `{"count":1.5}`, "count", "count must be an integer, not 1.5."},
		{"", `{"count":true}`, "count", "count must be an integer, not a boolean."},
		{"", `{"count":1e99}`, "count", "count must be an integer of 64 bits, not 1e99."},
		{"", `{"list":"a"}`, "list", "list must be an array, not a string."},
		{"", `{"list":["a",2]}`, "list", "Each element of list must be a string, not a number."},
		{"", `{"inner":[]}`, "inner", "inner must be an object, not an array."},
		{"", `{"inner":{"weight":"1"}}`, "inner.weight", "inner.weight must be a number, not a string."},
		{"", `{"inner":{"weight":1e999}}`, "inner.weight", "inner.weight must be a number of ordinary size, not 1e999."},
		{"settings", `{"inner":{"weight":[]}}`, "settings.inner.weight", "settings.inner.weight must be a number, not an array."},
		{"settings", `{"nome":1}`, "settings.nome", `"nome" is not a member of settings.`},
		{"settings", `7`, "settings", "settings must be a JSON object, not a number."},
		{"", `{"nome":1}`, "nome", `"nome" is not a member of the body.`},
		{"", `{"` + strings.Repeat("k", 9000) + `":1}`, strings.Repeat("k", 37) + "...", `..." is not a member of the body.`},
		{"", `{"Name":"a"}`, "Name", `"Name" is not a member of the body.`},
		{"", `{"inner":{"Weight":1}}`, "inner.Weight", `"Weight" is not a member of inner.`},
		{"", `{"list":["a",null]}`, "list", "No element of list may be null."},
		{"", `[]`, "", "The body must be a JSON object, not an array."},
		{"", `{} {}`, "", "The body is not valid JSON"},
		{"", ``, "", "The body is empty"},
		{"", "{\"name\":\"\xff\"}", "", "not valid UTF-8"},
		{"", `{"inner":` + strings.Repeat("[", 70), "", "nested more than"},
	} {
		var v decoded
		err := Decode([]byte(c.body), c.at, &v)
		var e *Error
		if !errors.As(err, &e) || e.Type != TypeInvalidRequest || e.Param != c.param ||
			!strings.Contains(e.Message, c.message) ||
			len(e.Message) > 300 {
			t.Errorf("%.60s: %v, want %q on %q", c.body, err, c.message, c.param)
		}
	}
	v := decoded{Count: 3, List: []string{"b"}}
	if err := Decode([]byte("\ufeff"+` {"name":"a","count":null,"list":null,"inner":{"weight":2,"weight":2}} `), "",
		&v); err != nil || v.Name != "a" || v.Count != 3 || v.List == nil || v.Inner.Weight != 2 {
		t.Errorf("%+v %v", v, err)
	}
	for text, want := range map[string]int64{"1.0": 1, "2e3": 2000, "-0.0": 0, "9007199254740993": 9007199254740993,
		"-9223372036854775808": math.MinInt64} {
		if err := Decode([]byte(`{"count":`+text+`}`), "", &v); err != nil || v.Count != want {
			t.Errorf("%s: %d %v", text, v.Count, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range append(seeds, `{"name":7,"list":[1],"inner":{"weight":"x"}}`, `{"inner":{"weight":1e999}}`, `{"a.b":1,"inner":[{}]}`) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var v decoded
		err := Decode([]byte(s), "at", &v)
		var e *Error
		if err != nil &&
			(!errors.As(err, &e) || e.Type != TypeInvalidRequest || e.Message == "" ||
				strings.Contains(e.Message, "Go ")) {
			t.Fatalf("%v", err)
		}
	})
}
