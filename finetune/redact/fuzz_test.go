package redact

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func fuzzRules() Rules {
	return Rules{Names: []string{"Anna Schmidt", "王小明", "O'Brien"},
		Rules: []Rule{{"ticket", `T-\d+`}, {"line", `(?m)^x.*$`}, {"v", `v`}}}
}

// Any text: redacting twice changes nothing, no find stays, finds are in order and within the text, valid UTF-8 stays
// valid; JSON stays JSON with the same keys.
func FuzzRedact(f *testing.F) {
	for _, row := range readLabelled(f) {
		f.Add(row.Text)
	}
	for _, s := range []string{"\xff\xfe@\x80.com", "a@b.c@d.ef", "[EMAIL_1][PHONE_", `{"a":["\ud800 a@example.com",-0.1e5]}`,
		"v1.2.3.4v", "+49 30 23125 00141111111111111111", "[KEY_123456][V_1]x", `"\u0061@example.com"`, "::::::1::",
		"-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY----------BEGIN PRIVATE KEY-----",
		"\u200b@\u200b.\u200b"} {
		f.Add(s)
	}
	r := newRedactor(f, fuzzRules())
	f.Fuzz(func(t *testing.T, text string) {
		end := 0
		for _, find := range r.Find(text) {
			if find.Start < end || find.End <= find.Start || find.End > len(text) || !r.kinds[find.Kind] {
				t.Fatalf("%+v behind %d in %q", find, end, text)
			}
			end = find.End
		}
		s := r.Conversation("c")
		once := s.Text(text)
		if twice := s.Text(once); twice != once {
			t.Errorf("%q became %q and then %q", text, once, twice)
		}
		if left := r.Find(once); len(left) > 0 {
			t.Errorf("%q became %q, where %+v is left", text, once, left)
		}
		if utf8.ValidString(text) && !utf8.ValidString(once) {
			t.Errorf("%q became %q", text, once)
		}
		raw := s.JSON([]byte(text))
		if json.Valid([]byte(text)) {
			if !json.Valid(raw) {
				t.Errorf("%q became %q", text, raw)
			}
			if a, b := keys(t, text), keys(t, string(raw)); a != b {
				t.Errorf("keys %q became %q", a, b)
			}
		}
		if twice := s.JSON(raw); string(twice) != string(raw) {
			t.Errorf("%q became %q and then %q", text, raw, twice)
		}
		quoted, err := json.Marshal(map[string]string{"k": text})
		if err != nil {
			t.Fatal(err)
		}
		var back map[string]string
		if err := json.Unmarshal(s.JSON(quoted), &back); err != nil {
			t.Errorf("%s: %v", quoted, err)
		}
	})
}

// keys returns the keys of JSON text in their order.
func keys(t *testing.T, text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '"' {
			continue
		}
		end := stringEnd([]byte(text), i)
		if isKey([]byte(text), end) {
			b.WriteString(text[i:end])
		}
		i = end - 1
	}
	return b.String()
}
