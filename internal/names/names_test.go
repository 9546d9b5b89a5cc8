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

func TestCheckAdapter(t *testing.T) {
	for name, good := range map[string]bool{
		"a": true, "Support": true, "SQL-Coder_v1.2": true, "A": true, strings.Repeat("X", Max): true, "": false,
		strings.Repeat("X", Max+1): false, ".A": false, "A..B": false, "A/B": false, "É": false, "A@1": false,
		"A:B":    false,
		"\u212a": false, // the Kelvin sign, which Unicode folds to k
	} {
		err := CheckAdapter("adapter", name)
		if (err == nil) != good || err != nil && !strings.Contains(err.Error(), "of A-Z a-z 0-9") {
			t.Errorf("%q: %v", name, err)
		}
	}
	if Fold("SQL-Coder") != "sql-coder" || Fold("\u0130x") != "\u0130x" {
		t.Error("folded wrongly")
	}
}
