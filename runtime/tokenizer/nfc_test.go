package tokenizer

import (
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/text/unicode/norm"
)

// A long run of marks is composed and ordered, and nothing is put into it.
func TestNFCOfLongRuns(t *testing.T) {
	acute, below := "\u0301", "\u0323"
	for _, c := range []struct{ name, text, want string }{
		{"no starter", strings.Repeat(acute, 60), strings.Repeat(acute, 60)},
		{"one class", "e" + strings.Repeat(acute, 60), "é" + strings.Repeat(acute, 59)},
		{"two classes", "e" + strings.Repeat(acute+below, 40),
			"ẹ" + strings.Repeat(below, 39) + strings.Repeat(acute, 40)},
		{"beside Hangul", "\u1100\u1161\u11a8 \uac00\u11a8 a" + strings.Repeat(acute, 40),
			"각 각 á" + strings.Repeat(acute, 39)},
		{"its own joiner", "\u034f" + strings.Repeat(acute, 40), "\u034f" + strings.Repeat(acute, 40)},
		{"excluded from composition", "\u0958" + strings.Repeat(acute, 40), "\u0915\u093c" + strings.Repeat(acute, 40)},
		{"short", "e\u0301", "é"},
	} {
		if got := nfc(c.text); got != c.want {
			t.Errorf("%s: %+q, want %+q", c.name, got, c.want)
		}
	}
}

// Without long runs of marks, the code for long runs gives the result of x/text.
func TestNFCOfLongRunsIsNFC(t *testing.T) {
	some := []rune(
		"aeAko\u0301\u0300\u0323\u0327\u0345\u0308 " +
			"é\u1eaf\u1100\u1161\u11a8가각\u0915\u093c\u0958\u09c7\u09be\u0f71\u0f72\u0344" +
			"\u212b\u2126\u3099か中\U0001d15e\U00011131\U00011127")
	rng := rand.New(rand.NewPCG(3, 4))
	for range 20000 {
		var b strings.Builder
		for range rng.IntN(12) {
			b.WriteRune(some[rng.IntN(len(some))])
		}
		if got, want := compose(decompose(b.String())), norm.NFC.String(b.String()); got != want {
			t.Fatalf("%+q: %+q, want %+q", b.String(), got, want)
		}
	}
}
