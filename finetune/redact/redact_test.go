package redact

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

var secret = []byte("0123456789abcdef0123456789abcdef")

func newRedactor(t testing.TB, rules Rules) *Redactor {
	t.Helper()
	r, err := New(Options{Rules: rules, Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The same value has the same placeholder within a conversation, also in another process, and another one in another
// conversation, under another key and for another value.
func TestPlaceholdersAreStable(t *testing.T) {
	r := newRedactor(t, Rules{})
	const text = "Mail alice@example.com, ALICE@example.com or bob@example.com."
	got := r.Conversation("c1").Text(text)
	m := regexp.MustCompile(`^Mail (\[EMAIL_\d{6}\]), (\[EMAIL_\d{6}\]) or (\[EMAIL_\d{6}\])\.$`).FindStringSubmatch(got)
	if m == nil || m[1] != m[2] || m[1] == m[3] {
		t.Fatalf("%s", got)
	}
	again := newRedactor(t, Rules{Names: []string{"Carol"}}).Conversation("c1")
	if s := again.Text("bob@example.com"); s != m[3] {
		t.Errorf("in another process %s, was %s", s, m[3])
	}
	other, err := New(Options{Secret: []byte("another secret of 32 bytes ......")})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Scope{r.Conversation("c2"), r.Conversation(""), other.Conversation("c1")} {
		if s.Text("bob@example.com") == m[3] {
			t.Errorf("the number of another conversation or key is equal")
		}
	}
	if n := r.Counts()[Email]; n != 5 {
		t.Errorf("%d counted, 5 were replaced", n)
	}
}

// Placeholders that a user wrote stay, and what was redacted is not redacted again; nothing hides in one.
func TestTypedPlaceholders(t *testing.T) {
	s := newRedactor(t, Rules{Rules: []Rule{{"ticket", `T-\d+`}, {"all", `secret.*`}}}).Conversation("c")
	for _, text := range []string{"[EMAIL_1] wrote", "[TICKET_999999][EMAIL_2]", "[ALL_1] [EMAIL_1"} {
		if got := s.Text(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	got := s.Text("secret [EMAIL_1] T-1 a@example.com")
	if !regexp.MustCompile(`^\[ALL_\d{6}\]\[EMAIL_1\] \[TICKET_\d{6}\] \[EMAIL_\d{6}\]$`).MatchString(got) {
		t.Errorf("%s", got)
	}
	if again := s.Text(got); again != got {
		t.Errorf("%s became %s", got, again)
	}
}

// JSON stays JSON: keys, numbers, order and spaces stay byte for byte, JSON within strings is JSON afterwards.
func TestJSON(t *testing.T) {
	s := newRedactor(t, Rules{}).Conversation("c")
	e := s.Text("a@example.com")
	for in, want := range map[string]string{
		`{"a@example.com": "a@example.com", "n":1.50}`: `{"a@example.com": "` + e + `", "n":1.50}`,
		`["x\u0061", "\u0061\u0040example.com"]`:       `["x\u0061", "` + e + `"]`,
		`{"arguments":"{\"to\":\"a@example.com\", \"n\":[1,2]}"}`: `{"arguments":"{\"to\":\"` + e +
			`\", \"n\":[1,2]}"}`,
		`"a@example.com"`:             `"` + e + `"`,
		`{"broken": "a@example.com"`:  `{"broken": "` + e + `"`,
		`{"html":"<a@example.com>&"}`: `{"html":"<` + e + `>&"}`,
		` [ ] `:                       ` [ ] `,
	} {
		if got := string(s.JSON([]byte(in))); got != want {
			t.Errorf("%s\nbecame %s\nwant   %s", in, got, want)
		}
	}
}

// Rules that cannot hold are refused, and the error names them.
func TestRulesAreChecked(t *testing.T) {
	good, err := ParseRules([]byte("names: [Anna Schmidt, 王小明]\n" +
		"rules:\n- name: ticket\n  pattern: 'T-\\d+'\nleave: [ip]\n"))
	if err != nil || len(good.Names) != 2 || good.Rules[0].Pattern != `T-\d+` || good.Leave[0] != "ip" {
		t.Errorf("%+v, %v", good, err)
	}
	if empty, err := ParseRules(nil); err != nil || len(empty.Names) != 0 {
		t.Errorf("an empty file: %v", err)
	}
	for text, say := range map[string]string{
		"nmaes: [x]":  "field nmaes not found",
		"names: x":    "cannot unmarshal",
		"names: ['']": "name 1 is empty",
		"names: [" + strings.Repeat("x", 101) + "]":    "name 1 has 101 bytes, 100 are allowed",
		"rules: [{name: a b, pattern: x}]":             `rule 1: name "a b": write 1 to 32 letters`,
		"rules: [{name: a}]":                           "rule a: the pattern is empty",
		"rules: [{name: a, pattern: '('}]":             "rule a: error parsing regexp: missing closing )",
		"rules: [{name: a, pattern: 'x*'}]":            `rule a: the pattern "x*" matches the empty text`,
		"rules: [{name: a, pattern: x, flags: i}]":     "field flags not found",
		"leave: [mail]":                                `leave: "mail" is none of key, email`,
		"names: [a]\n---\nnames: [b]":                  "more than one YAML document",
		"names: [" + strings.Repeat("a,", 1<<19) + "]": "the rules have",
	} {
		if _, err := ParseRules([]byte(text)); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%.40q: %v, want %q", text, err, say)
		}
	}
	if _, err := New(Options{Secret: []byte("short")}); err == nil {
		t.Error("a short secret is taken")
	}
	if b, err := json.Marshal(good); err != nil || !strings.Contains(string(b), `"names":["Anna Schmidt"`) {
		t.Errorf("%s, %v", b, err)
	}
}
