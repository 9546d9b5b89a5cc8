package metrics

import (
	"bytes"
	"slices"
	"unicode"
	"unicode/utf8"

	"weft/internal/jinja"
)

func strictMatch(_ *worker, s *Sample, row []float64) {
	if slices.Contains(s.References, s.Prediction) {
		row[0] = 1
	}
}

// exactMatch is 1 where the prediction equals a reference after SQuAD's normalization.
func exactMatch(w *worker, s *Sample, row []float64) {
	for _, reference := range s.References {
		if w.differ(s.Prediction, reference) {
			continue
		}
		w.forget()
		w.keep(0, w.normalized(reference, w.reference(0)))
		if w.hyp = w.normalized(s.Prediction, w.hyp[:0]); slices.Equal(w.hyp, w.refs[0]) {
			row[0] = 1
			return
		}
	}
}

// differ says whether the two texts have another normalized word before either has a character beyond printable ASCII;
// else they must be compared whole.
func (w *worker) differ(a, b string) bool {
	for {
		var known bool
		if w.buf, a, known = nextNormal(w.buf[:0], a); !known {
			return false
		}
		if w.alt, b, known = nextNormal(w.alt[:0], b); !known {
			return false
		}
		if !bytes.Equal(w.buf, w.alt) {
			return true
		}
		if len(w.buf) == 0 {
			return false
		}
	}
}

// nextNormal appends the next normalized word to word, and returns what follows it; not known is one with a character
// beyond printable ASCII.
func nextNormal(word []byte, text string) (_ []byte, rest string, known bool) {
	for i := range len(text) {
		if small := latinBytes[text[i]]; small != 0 {
			word = append(word, small)
			continue
		}
		switch k := kinds[text[i]]; {
		case k&isSpace != 0:
			if len(word) > 0 && !article(word) {
				return word, text[i+1:], true
			}
			word = word[:0]
		case k&punctuation == 0:
			return word[:0], "", false
		}
	}
	if article(word) {
		word = word[:0]
	}
	return word, "", true
}

// squadF1 is the highest F1 of the words after SQuAD's normalization, over the references.
func squadF1(w *worker, s *Sample, row []float64) {
	for _, reference := range s.References {
		w.forget()
		w.keep(0, w.normalized(reference, w.reference(0)))
		w.hyp = w.normalized(s.Prediction, w.hyp[:0])
		var same [1]float64
		w.match(w.refs[:1], w.hyp, w.kinds, same[:])
		if same[0] > 0 {
			p, r := same[0]/float64(len(w.hyp)), same[0]/float64(len(w.refs[0]))
			row[0] = max(row[0], 2*p*r/(p+r))
		}
	}
}

// normalized takes the words of the text in small letters, without ASCII punctuation and articles.
func (w *worker) normalized(text string, ids []int32) []int32 {
	buf := w.room(len(text))
	from, begin, end := 0, 0, 0 // of the word: where it begins in the text; where it is in buf
	for i := range len(text) {
		c := squadBytes[text[i]]
		buf[end] = c
		switch {
		case c > squadOther:
			end++
		case c == squadSpace:
			if word := buf[begin:end]; len(word) > 3 || len(word) > 0 && !article(word) {
				ids = append(ids, w.id(word))
			}
			from, begin = i+1, end
		case c == squadOther:
			return w.normalizedAny(text[from:], ids)
		}
	}
	return w.endWord(ids, buf[begin:end], 0)
}

// What bytes become in SQuAD's normalization: small letters and digits, or one of these.
const (
	squadNone  = iota // punctuation
	squadSpace        // between words
	squadOther        // normalizedAny knows
)

var squadBytes = func() (b [256]byte) {
	for c, k := range kinds {
		switch {
		case latinBytes[c] != 0:
			b[c] = latinBytes[c]
		case k&isSpace != 0:
			b[c] = squadSpace
		case k&punctuation == 0:
			b[c] = squadOther
		}
	}
	return b
}()

// normalizedAny is normalized for texts of any characters. An article ends where letters and numbers end, and divides
// what is around it; a word goes on to the next space.
func (w *worker) normalizedAny(text string, ids []int32) []int32 {
	before := len(ids)
	word, run := w.buf[:0], 0 // where the letters and numbers at the word's end begin
	for i := 0; i < len(text); {
		c, r, size := squadBytes[text[i]], rune(0), 1
		if c == squadOther {
			if r, size = utf8.DecodeRuneInString(text[i:]); space(r) {
				c = squadSpace
			}
		}
		i += size
		switch {
		case c > squadOther:
			word = append(word, c)
		case c == squadNone:
		case c == squadSpace:
			ids, word, run = w.endWord(ids, word, run), word[:0], 0
		case foreign(r):
			return w.normalizedAny(jinja.Lower(text), ids[:before])
		case unicode.IsLetter(r) || unicode.IsNumber(r):
			word = utf8.AppendRune(word, unicode.ToLower(r))
		default:
			if article(word[run:]) {
				ids, word = w.endWord(ids, word, run), word[:0]
			}
			word = utf8.AppendRune(word, r)
			run = len(word)
		}
	}
	ids = w.endWord(ids, word, run)
	w.buf = word
	return ids
}

// endWord appends a word without the article that it may end with.
func (w *worker) endWord(ids []int32, word []byte, run int) []int32 {
	if article(word[run:]) {
		word = word[:run]
	}
	if len(word) > 0 {
		ids = append(ids, w.id(word))
	}
	return ids
}

func article(word []byte) bool {
	switch string(word) {
	case "a", "an", "the":
		return true
	}
	return false
}
