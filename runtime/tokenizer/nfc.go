package tokenizer

import (
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// joiner is the character that x/text inserts into runs of more than 30 combining marks (UAX 15's stream-safe text);
// the NFC of other implementations has no such limit.
const joiner = "\u034f"

// nfc is Unicode's canonical composition.
func nfc(s string) string {
	out := norm.NFC.String(s)
	if strings.Count(out, joiner) == strings.Count(s, joiner) || !utf8.ValidString(s) {
		return out
	}
	return compose(decompose(s))
}

// mark is a rune, its combining class, and whether a preceding rune may absorb it.
type mark struct {
	r     rune
	class uint8
	joins bool
}

// decompose returns the runes of s in canonical order. Hangul syllables stay composed, which does not affect
// composition.
func decompose(s string) []mark {
	var out []mark
	add := func(part string) {
		for at, r := range part {
			p := norm.NFC.PropertiesString(part[at:])
			out = append(out, mark{r, p.CCC(), !p.BoundaryBefore()})
		}
	}
	for len(s) > 0 {
		p := norm.NFD.PropertiesString(s)
		if d := p.Decomposition(); d != nil {
			add(string(d))
		} else {
			add(s[:p.Size()])
		}
		s = s[p.Size():]
	}
	for i := 0; i < len(out); {
		end := i
		for end < len(out) && out[end].class > 0 {
			end++
		}
		slices.SortStableFunc(out[i:end], func(a, b mark) int { return int(a.class) - int(b.class) })
		i = end + 1
	}
	return out
}

// compose joins each starter with the rune after it: a mark unless another of its class is between them, a starter if
// nothing is between them.
func compose(in []mark) string {
	out, starter := in[:0], -1
	for _, m := range in {
		if starter >= 0 && m.joins && (starter == len(out)-1 || out[len(out)-1].class < m.class) {
			pair := norm.NFC.String(string([]rune{out[starter].r, m.r}))
			if r, size := utf8.DecodeRuneInString(pair); size == len(pair) {
				out[starter].r = r
				continue
			}
		}
		if m.class == 0 {
			starter = len(out)
		}
		out = append(out, m)
	}
	var b strings.Builder
	for _, m := range out {
		b.WriteRune(m.r)
	}
	return b.String()
}
