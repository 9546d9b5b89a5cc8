package redact

import (
	"regexp"
	"strings"
	"testing"
)

var number = regexp.MustCompile(`_\d{6}\]`)

// short replaces the numbers of placeholders, which depend on the values.
func short(text string) string { return number.ReplaceAllString(text, "]") }

// What stands in JSON: the key says what a number or a token is, as a word before it would; numbers become strings.
func TestJSONKeys(t *testing.T) {
	s := newRedactor(t, Rules{}).Conversation("c")
	for in, want := range map[string]string{
		`{"phone":"2025550143","order":"2025550143"}`:                 `{"phone":"[PHONE]","order":"2025550143"}`,
		`{"mobile_number": 2025550143, "a": 4111111111111111}`:        `{"mobile_number": 2025550143, "a": "[CARD]"}`,
		`{"mobile": 12025550143, "at": 1700000000000}`:                `{"mobile": "[PHONE]", "at": 1700000000000}`,
		`{"api_key":"0123456789abcdef0123456789abcdef"}`:              `{"api_key":"[KEY]"}`,
		`{"commit":"0123456789abcdef0123456789abcdef"}`:               `{"commit":"0123456789abcdef0123456789abcdef"}`,
		`{"version":"10.2.3.4","host":"10.2.3.4"}`:                    `{"version":"10.2.3.4","host":"[IP]"}`,
		`{"x":"{\"y\":\"{\\\"z\\\":\\\"a@example.com\\\"}\"}"}`:       `{"x":"{\"y\":\"{\\\"z\\\":\\\"[EMAIL]\\\"}\"}"}`,
		`{"x":"{\"b@example.com\":\"\\u0061@example.com\"}"}`:         `{"x":"{\"b@example.com\":\"[EMAIL]\"}"}`,
		`{"x":"[4111111111111111, 5]"}`:                               `{"x":"[\"[CARD]\", 5]"}`,
		`{"x":"{\"y\": a@example.com"}`:                               `{"x":"{\"y\": [EMAIL]"}`,
		`["a\ud83d\ude00b@example.com \ud800", "\ud83d\ude00\u0041"]`: `["a😀[EMAIL] �", "\ud83d\ude00\u0041"]`,
		`["tab\tb@example.com\nx\/y\"z\\"]`:                           `["tab\t[EMAIL]\nx/y\"z\\"]`,
	} {
		if got := short(string(s.JSON([]byte(in)))); got != want {
			t.Errorf("%s\nbecame %s\nwant   %s", in, got, want)
		}
	}
}

// Spellings that look the same to a reader are found, and the whole of them is replaced.
func TestFolding(t *testing.T) {
	s := newRedactor(t, Rules{Names: []string{"Anna Schmidt"}}).Conversation("c")
	for in, want := range map[string]string{
		"a\u200bb@exa\u00admple.com\u200b!":               "[EMAIL]\u200b!",
		"ａ@ｅｘａｍｐｌｅ．ｃｏｍ，":                                  "[EMAIL]，",
		"４１１１ １１１１\u30001111\u20091111":                   "[CARD]",
		"+٤٩ ٣٠ ٢٣١٢٥ ٠٠١":                                "[PHONE]",
		"\U0001D7DA\U0001D7D8\U0001D7DA 555\u20110143 is": "[PHONE] is",
		`text {"m":"a\u0040example\u002ecom"} more`:       `text {"m":"[EMAIL]"} more`,
		"Anna\u00a0Schmidt, An\u200dna Schmidt":           "[NAME], [NAME]",
		"１９２．０．２．１":                                       "[IP]",
		"–\u200b@\u200b–":                                 "–\u200b@\u200b–",
		"caf\u00e9 – 5 – \u0665 \u2026":                   "caf\u00e9 – 5 – \u0665 \u2026",
	} {
		if got := short(s.Text(in)); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

// Two spellings of one value have one placeholder; two values have two.
func TestSameValue(t *testing.T) {
	s := newRedactor(t, Rules{Names: []string{"Anna Schmidt"}}).Conversation("c")
	for _, same := range [][]string{
		{"+1 202 555 0143", "(202) 555-0143", "202.555.0143", "１-202-555-0143"},
		{"+86 138 0013 8000", "13800138000", "138-0013-8000"},
		{"+49 30 23125 001", "0049 30 23125001"},
		{"4111 1111 1111 1111", "4111111111111111", "4111-1111-1111-1111"},
		{"GB82 WEST 1234 5698 7654 32", "GB82WEST12345698765432", "gb82west12345698765432"},
		{"A@Example.com", "a@example.COM"},
		{"Anna  Schmidt", "ANNA SCHMIDT"},
		{"2001:db8::1", "2001:DB8:0:0:0:0:0:1"},
		{"11000019900307771x"},
	} {
		first := ""
		for i, text := range same {
			got := s.Text(text)
			if i == 0 {
				first = got
			}
			if got != first || i > 0 && !strings.HasPrefix(got, "[") {
				t.Errorf("%q became %q, %q became %q", same[0], first, text, got)
			}
		}
	}
	if a, b := s.Text("202 555 0143"), s.Text("202 555 0144"); a == b {
		t.Errorf("two numbers have the placeholder %s", a)
	}
}

// Finds that overlap become one, of the kind of the longest, and no part of either stays.
func TestOverlaps(t *testing.T) {
	s := newRedactor(t, Rules{Rules: []Rule{{"who", `by \S+`}, {"inner", `exam`}, {"line", `(?m)^all .*$`},
		{"long", `x+y`}, {"tail", `yz+`}}}).
		Conversation("c")
	for in, want := range map[string]string{
		"by a@example.com.":                "[WHO]",
		"x@example.com and exam":           "[EMAIL] and [INNER]",
		"all of a@example.com, 4111\nnext": "[LINE]\nnext",
		"= xxxxxxyzz =":                    "= [LONG] =",
		"= xyzzzzz =":                      "= [TAIL] =",
		"stand by aaaaaaaaaa@example.com":  "stand [WHO]",
	} {
		if got := short(s.Text(in)); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

// Kinds that a tenant leaves stay, and the others do not change.
func TestLeave(t *testing.T) {
	const text = "a@example.com 192.0.2.1 4111111111111111 Anna sk-" + "Ab3dEf6hIj9kLm2nOp5qRs8t"
	for leave, want := range map[string]string{
		"":                "[EMAIL] [IP] [CARD] [NAME] [KEY]",
		"email,Card,NAME": "a@example.com [IP] 4111111111111111 Anna [KEY]",
		"key,ip":          "[EMAIL] 192.0.2.1 [CARD] [NAME] sk-Ab3dEf6hIj9kLm2nOp5qRs8t",
	} {
		rules := Rules{Names: []string{"anna"}}
		if leave != "" {
			rules.Leave = strings.Split(leave, ",")
		}
		s := newRedactor(t, rules).Conversation("c")
		if got := short(s.Text(text)); got != want {
			t.Errorf("leave %q: %q, want %q", leave, got, want)
		}
	}
}

// What docs/redaction.md says about text that may be one thing or another.
func TestDecisions(t *testing.T) {
	const digest = "0123456789abcdef0123456789abcdef01234567"
	const uuid = "f47ac10b-58cc-4372-a567-0e02b2c3d479"
	s := newRedactor(t, Rules{}).Conversation("c")
	for in, want := range map[string]string{
		"a list 1.2.3.4 of parts":           "a list 1.2.3.4 of parts",
		"ping 1.1.1.1":                      "ping [IP]",
		"version 10.2.3.4":                  "version 10.2.3.4",
		"127.0.0.1 and ::1":                 "127.0.0.1 and ::1",
		"commit " + digest:                  "commit " + digest,
		"secret " + digest:                  "secret [KEY]",
		"id " + uuid:                        "id " + uuid,
		"api key: " + uuid:                  "api key: [KEY]",
		"order 13800138000, 13800138000":    "order 13800138000, 13800138000",
		"2025550143 or tel. 2025550143":     "2025550143 or tel. [PHONE]",
		"[PHONE_13800138000] is no number":  "[PHONE_[PHONE]] is no number",
		"https://me:pw@example.com/x?y@z.w": "https://me:[KEY]@example.com/x?y@z.w",
		"\\nbob@example.com\\n":             "\\n[EMAIL]\\n",
	} {
		if got := short(s.Text(in)); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}
