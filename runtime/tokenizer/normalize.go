package tokenizer

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// form is one of Unicode's normalization forms.
type form struct {
	compat, compose bool
	changes         class // a text without these characters is in the form already
}

var (
	formNFC  = form{compose: true, changes: notNFC}
	formNFD  = form{changes: notNFD}
	formNFKC = form{compat: true, compose: true, changes: notNFKC}
	formNFKD = form{compat: true, changes: notNFKD}
)

// Hangul syllables and their parts, whose decomposition follows a rule (Unicode 12, §3.12).
const (
	hangulS, hangulL, hangulV, hangulT = 0xac00, 0x1100, 0x1161, 0x11a7
	hangulLs, hangulVs, hangulTs       = 19, 21, 28
	hangulCount                        = hangulLs * hangulVs * hangulTs
)

// mark is a character and the rank of its combining class, 0 for those that begin a group.
type mark struct {
	r    rune
	rank uint8
}

// apply returns s in the form. It works on the characters that may change, each with the one before, which they may be
// composed with, up to the next that does not change: nothing combines across its beginning.
func (f form) apply(s string) string {
	var b strings.Builder
	done, before := 0, 0 // what is written, and the character before i
	for i := 0; i < len(s); {
		r, n := rune(s[i]), 1
		if r >= utf8.RuneSelf {
			r, n = utf8.DecodeRuneInString(s[i:])
		}
		if r < 0xa0 || !f.changes.has(r) {
			before, i = i, i+n
			continue
		}
		end := run(s, i, f.changes.has)
		b.WriteString(s[done:before])
		b.WriteString(f.whole(s[before:end]))
		done, before, i = end, end, end
	}
	if done == 0 {
		return s
	}
	b.WriteString(s[done:])
	return b.String()
}

func (f form) whole(s string) string {
	t := tables
	marks := make([]mark, 0, len(s))
	for _, r := range s {
		marks = f.decompose(marks, t, r)
	}
	for i := 0; i < len(marks); {
		end := i
		for end < len(marks) && marks[end].rank > 0 {
			end++
		}
		if end-i > 1 {
			slices.SortStableFunc(marks[i:end], func(a, b mark) int { return int(a.rank) - int(b.rank) })
		}
		i = end + 1
	}
	if f.compose {
		marks = compose(marks, t)
	}
	var b strings.Builder
	b.Grow(len(s))
	for _, m := range marks {
		b.WriteRune(m.r)
	}
	return b.String()
}

func (f form) decompose(out []mark, t *characters, r rune) []mark {
	if at := r - hangulS; at >= 0 && at < hangulCount {
		out = append(out, mark{r: hangulL + at/(hangulVs*hangulTs)}, mark{r: hangulV + at/hangulTs%hangulVs})
		if at%hangulTs > 0 {
			out = append(out, mark{r: hangulT + at%hangulTs})
		}
		return out
	}
	text, ok := "", false
	if f.compat {
		text, ok = t.compat[r]
	}
	if !ok {
		text, ok = t.canonical[r]
	}
	if !ok {
		return append(out, mark{r, t.combining[r]})
	}
	for _, r := range text {
		out = append(out, mark{r, t.combining[r]})
	}
	return out
}

// compose joins each starter with the marks after it, unless another mark of the same or a higher class is between,
// and with a starter right after it.
func compose(in []mark, t *characters) []mark {
	out, starter := in[:0], -1
	for _, m := range in {
		if starter >= 0 && (starter == len(out)-1 || out[len(out)-1].rank < m.rank) {
			if r, ok := t.pair(out[starter].r, m.r); ok {
				out[starter].r = r
				continue
			}
		}
		if m.rank == 0 {
			starter = len(out)
		}
		out = append(out, m)
	}
	return out
}

// pair returns the character that two characters compose to.
func (t *characters) pair(a, b rune) (rune, bool) {
	if l, v := a-hangulL, b-hangulV; l >= 0 && l < hangulLs && v >= 0 && v < hangulVs {
		return hangulS + (l*hangulVs+v)*hangulTs, true
	}
	if s, tail := a-hangulS, b-hangulT; s >= 0 && s < hangulCount && s%hangulTs == 0 && tail > 0 && tail < hangulTs {
		return a + tail, true
	}
	r, ok := t.compose[[2]rune{a, b}]
	return r, ok
}

// part is a piece of a text on its way to the model. Its first zero bytes stem from the first character of the whole
// text: Metaspace's scheme "first" asks for that.
type part struct {
	text string
	zero int
}

// sub returns bytes begin to end of p.
func (p part) sub(begin, end int) part {
	return part{p.text[begin:end], max(0, min(p.zero, end)-begin)}
}

// partOf is the piece run of a text of which it begins at begin, and whose first zero bytes are those of its first
// character. The text itself is not kept.
func partOf(run string, begin, zero int) part { return part{run, min(max(zero-begin, 0), len(run))} }

// normStep is one step of a normalizer.
type normStep func(part) part

// mapped makes a step of a function that treats each character by itself or with its neighbours.
func mapped(f func(string) string) normStep {
	return func(p part) part {
		out := f(p.text)
		if out == p.text {
			return p
		}
		zero := 0
		if p.zero > 0 {
			if head := f(p.text[:p.zero]); strings.HasPrefix(out, head) {
				zero = len(head)
			} else {
				_, zero = utf8.DecodeRuneInString(out)
			}
		}
		return part{out, zero}
	}
}

// prepend puts text before what is not empty.
func prepend(text string) normStep {
	return func(p part) part {
		if p.text == "" {
			return p
		}
		if p.zero > 0 {
			p.zero += len(text)
		}
		p.text = text + p.text
		return p
	}
}

// replace puts content in the place of each match.
func replace(find finder, content string) normStep {
	return func(p part) part {
		if p.text == "" { // in which the library looks for nothing, not even for the empty string
			return p
		}
		var b strings.Builder
		begin, zero, whole := 0, 0, true // whole: all that is written stems from the first character
		write := func(text string, first int) {
			b.WriteString(text)
			if whole {
				zero += min(len(text), first)
				whole = first >= len(text)
			}
		}
		find(p.text, func(at, end int) {
			write(p.text[begin:at], max(p.zero-begin, 0))
			first := 0
			if p.zero > 0 && end <= p.zero { // what is put in belongs to the last character that it replaces
				first = len(content)
			}
			write(content, first)
			begin = end
		})
		if begin == 0 && b.Len() == 0 {
			return p
		}
		write(p.text[begin:], max(p.zero-begin, 0))
		return part{b.String(), zero}
	}
}

// replaceSpaces is replace of spaces, without a search.
func replaceSpaces(content string) normStep {
	return func(p part) part {
		return part{strings.ReplaceAll(p.text, " ", content), len(strings.ReplaceAll(p.text[:p.zero], " ", content))}
	}
}

// strip removes white space at the ends.
func strip(left, right bool) normStep {
	return func(p part) part {
		if left {
			text := strings.TrimLeftFunc(p.text, classRustSpace.has)
			p = part{text, max(0, p.zero-(len(p.text)-len(text)))}
		}
		if right {
			p.text = strings.TrimRightFunc(p.text, classRustSpace.has)
			p.zero = min(p.zero, len(p.text))
		}
		return p
	}
}

// lower is Rust's lower case of each character by itself.
func lower(s string) string {
	t := tables
	var b strings.Builder
	for _, r := range s {
		if to, ok := t.lower[r]; ok {
			b.WriteString(to)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
