package tokenizer

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// preStep is one step of a pre-tokenizer: it calls emit with the pieces of a piece, none of them empty.
type preStep func(p part, emit func(part))

// cut makes a step of a splitter.
func (s splitter) cut(p part, emit func(part)) {
	at := 0
	s(p.text, func(word string) {
		emit(p.sub(at, at+len(word)))
		at += len(word)
	})
}

// behavior is what a split does with its matches.
type behavior uint8

const (
	isolated behavior = iota
	removed
	mergedWithPrevious
	mergedWithNext
	contiguous
)

// behaviors are the names in tokenizer.json.
var behaviors = map[string]behavior{"Isolated": isolated, "Removed": removed,
	"MergedWithPrevious": mergedWithPrevious, "MergedWithNext": mergedWithNext, "Contiguous": contiguous}

// piece is bytes begin to end of a text, which a split's pattern matches or not.
type piece struct {
	begin, end int
	match      bool
}

// splitAt makes a step that splits at the matches of find, or, inverted, at what is between them.
func splitAt(find finder, how behavior, invert bool) preStep {
	return func(p part, emit func(part)) {
		if how == isolated || how == removed {
			last := 0
			out := func(begin, end int, match bool) {
				if begin < end && (how == isolated || match == invert) {
					emit(p.sub(begin, end))
				}
			}
			find(p.text, func(begin, end int) {
				out(last, begin, false)
				out(begin, end, true)
				last = end
			})
			out(last, len(p.text), false)
			return
		}
		var pieces []piece
		last := 0
		find(p.text, func(begin, end int) {
			if last != begin {
				pieces = append(pieces, piece{last, begin, invert})
			}
			pieces = append(pieces, piece{begin, end, !invert})
			last = end
		})
		if last != len(p.text) {
			pieces = append(pieces, piece{last, len(p.text), invert})
		}
		for _, q := range how.merge(pieces) {
			if q.begin < q.end {
				emit(p.sub(q.begin, q.end))
			}
		}
	}
}

// merge joins pieces.
func (b behavior) merge(pieces []piece) []piece {
	if b == mergedWithNext {
		slices.Reverse(pieces)
	}
	out, before := pieces[:0], false // whether the previous piece is a match
	for _, q := range pieces {
		join := q.match && !before
		if b == contiguous {
			join = q.match == before
		}
		before = q.match
		switch {
		case !join || len(out) == 0:
			out = append(out, q)
		case b == mergedWithNext:
			out[len(out)-1].begin = q.begin
		default:
			out[len(out)-1].end = q.end
		}
	}
	if b == mergedWithNext {
		slices.Reverse(out)
	}
	return out
}

// each is a finder of each character of a class.
func (c class) each(text string, match func(begin, end int)) {
	for i, r := range text {
		if c.has(r) {
			match(i, i+utf8.RuneLen(r))
		}
	}
}

// literal finds a text, which is not empty.
func literal(s string) finder {
	return func(text string, match func(begin, end int)) {
		for at := 0; ; at += len(s) {
			n := strings.Index(text[at:], s)
			if n < 0 {
				return
			}
			at += n
			match(at, at+len(s))
		}
	}
}

// words finds the runs of \w and of what is neither \w nor white space, of Rust's regex.
func words(text string, match func(begin, end int)) {
	kind := func(r rune) class {
		return classOf(r) & (classRustWord | classRustSpace)
	}
	for i := 0; i < len(text); {
		r, _ := utf8.DecodeRuneInString(text[i:])
		k := kind(r)
		end := run(text, i, func(r rune) bool {
			return kind(r)&classRustWord == k&classRustWord &&
				(k&classRustWord != 0 || kind(r) == k)
		})
		if k&classRustWord != 0 || k == 0 {
			match(i, end)
		}
		i = end
	}
}

// chunks cuts a text into pieces of n characters.
func chunks(n int) splitter {
	return func(text string, emit func(string)) {
		begin, count := 0, 0
		for i := range text {
			if count == n {
				emit(text[begin:i])
				begin, count = i, 0
			}
			count++
		}
		if begin < len(text) {
			emit(text[begin:])
		}
	}
}

// prefixMode is before which pieces Metaspace puts a mark.
type prefixMode uint8

const (
	prefixNever  prefixMode = iota
	prefixFirst             // before the one that begins the text
	prefixAlways            // before each
)

// prefixModes are the names in tokenizer.json.
var prefixModes = map[string]prefixMode{"never": prefixNever, "first": prefixFirst, "always": prefixAlways}

// metaspace writes spaces as mark, puts a mark before pieces that do not begin with one, and splits before each mark.
func metaspace(mark string, mode prefixMode, split bool) preStep {
	normalize, prefix := replaceSpaces(mark), prepend(mark)
	cut := splitAt(literal(mark), mergedWithNext, false)
	return func(p part, emit func(part)) {
		p = normalize(p)
		if !strings.HasPrefix(p.text, mark) && (mode == prefixAlways || mode == prefixFirst && p.zero > 0) {
			p = prefix(p)
		}
		if split {
			cut(p, emit)
		} else {
			emit(p)
		}
	}
}

// spacePrefix puts a space before pieces that do not begin with one.
func spacePrefix(p part, emit func(part)) {
	if !strings.HasPrefix(p.text, " ") {
		p = prepend(" ")(p)
	}
	emit(p)
}

// spellBytes writes each byte by its character of the byte-level alphabet.
func spellBytes(p part, emit func(part)) {
	out := part{text: spell(p.text)}
	if p.zero > 0 {
		out.zero = len(spell(p.text[:p.zero]))
	}
	emit(out)
}

func spell(s string) string {
	var b strings.Builder
	b.Grow(2 * len(s))
	for i := range len(s) {
		b.WriteRune(byteChars[s[i]])
	}
	return b.String()
}
