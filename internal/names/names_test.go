package names

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for name, good := range map[string]bool{
		"a": true, "0": true, "acme": true, "a.b_c-9": true, "a.": true, strings.Repeat("x", Max): true,
		"": false, strings.Repeat("x", Max+1): false, ".a": false, "-a": false, "_a": false, "a..b": false, "A": false,
		"a/b": false, "a b": false, "a\n": false, "é": false, "a\x00": false,
	} {
		err := Check("tenant", name)
		if (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "tenant "+Quote(name)+": 1 to 64 ") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"a\n\"é": `"a\n\"\u00e9"`, strings.Repeat("x", 80): `"` + strings.Repeat("x", 80) + `"`,
		strings.Repeat("x", 81): `"` + strings.Repeat("x", 80) + `"… (81 bytes)`,
	} {
		if got := Quote(in); got != want {
			t.Errorf("%q: %s", in, got)
		}
	}
}
