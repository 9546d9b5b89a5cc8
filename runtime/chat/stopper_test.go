package chat

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// naiveStop searches the whole text: the match that ends first, of those the longest.
func naiveStop(text string, stops []string, include bool) (out, stop string) {
	for end := range len(text) + 1 {
		for _, s := range stops {
			if s != "" && strings.HasSuffix(text[:end], s) && len(s) > len(stop) {
				stop = s
			}
		}
		if stop != "" {
			if include {
				return text[:end], stop
			}
			return text[:end-len(stop)], stop
		}
	}
	return text, ""
}

func checkStopper(t *testing.T, text string, stops []string, include bool, cuts func(rest int) int) {
	t.Helper()
	want, wantStop := naiveStop(text, stops, include)
	s := NewStopper(stops)
	s.IncludeStop = include
	var got strings.Builder
	gotStop, stopped := "", false
	for rest := text; rest != ""; {
		n := max(1, min(cuts(len(rest)), len(rest)))
		emit, done, stop := s.Push(rest[:n])
		rest = rest[n:]
		if utf8.ValidString(text) && !utf8.ValidString(emit) {
			t.Errorf("%q, stops %q: emitted half a character: %q", text, stops, emit)
		}
		if stopped && (emit != "" || !done || stop != gotStop) {
			t.Errorf("%q, stops %q: emitted %q after the stop", text, stops, emit)
		}
		got.WriteString(emit)
		stopped, gotStop = done, stop
		if !strings.HasPrefix(want, got.String()) {
			t.Fatalf("%q, stops %q: emitted %q, which is no prefix of %q", text, stops, got.String(), want)
		}
	}
	got.WriteString(s.Flush())
	if got.String() != want || gotStop != wantStop {
		t.Errorf("%q, stops %q, include %v: got %q (%q), want %q (%q)", text, stops, include, got.String(), gotStop,
			want, wantStop)
	}
}

func TestStopper(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		letters := []string{"a", "b", "é", "🎉", "ab"}
		word := func(n int) string {
			var b strings.Builder
			for range rng.IntN(n) {
				b.WriteString(letters[rng.IntN(len(letters))])
			}
			return b.String()
		}
		stops := []string{word(6), word(5), word(4)}[:rng.IntN(4)]
		checkStopper(t, word(40), stops, rng.IntN(2) == 0, func(int) int { return 1 + rng.IntN(4) })
	}
}

func TestStopperCases(t *testing.T) {
	for _, c := range []struct {
		text string
		stop []string
		want string
	}{
		{"hello STOP world", []string{"STOP"}, "hello "},
		{"aaab", []string{"aab"}, "a"},
		{"abcd", []string{"bcd", "bc"}, "a"},
		{"xabcd", []string{"abc", "bc"}, "x"},
		{"ababac", []string{"abac"}, "ab"},
		{"no stop", []string{"stopp"}, "no stop"},
		{"a\n\nb", []string{"\n\n"}, "a"},
		{"", []string{"x", ""}, ""},
	} {
		checkStopper(t, c.text, c.stop, false, func(int) int { return 1 })
		if got, _ := naiveStop(c.text, c.stop, false); got != c.want {
			t.Errorf("%q, stops %q: the reference says %q, want %q", c.text, c.stop, got, c.want)
		}
	}
}

// TestStopperLinear would take minutes if time grew with the square of the text or with text times stop length.
func TestStopperLinear(t *testing.T) {
	const n = 1 << 20
	s := NewStopper([]string{strings.Repeat("a", n/2) + "b", strings.Repeat("a", n/4) + "c"})
	start := time.Now()
	total := 0
	for range n {
		emit, _, _ := s.Push("a")
		total += len(emit)
	}
	total += len(s.Flush())
	if total != n {
		t.Errorf("%d bytes came out of %d", total, n)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}

func FuzzStopper(f *testing.F) {
	f.Add("hello STOP world", "STOP", "O W", uint8(3), false)
	f.Add("aaaaab", "aab", "b", uint8(1), true)
	f.Add("é🎉é", "🎉", "é", uint8(2), false)
	f.Fuzz(func(t *testing.T, text, a, b string, cut uint8, include bool) {
		if len(text) > 1000 || len(a) > 100 || len(b) > 100 || !utf8.ValidString(text) || !utf8.ValidString(a) ||
			!utf8.ValidString(b) {
			t.Skip()
		}
		checkStopper(t, text, slices.DeleteFunc([]string{a, b}, func(s string) bool { return s == "" }), include,
			func(int) int { return 1 + int(cut)%7 })
	})
}
