package metrics

import (
	"slices"
	"unicode"
	"unicode/utf8"
)

func strictMatch(_ *worker, s *Sample, row []float64) {
	if slices.Contains(s.References, s.Prediction) {
		row[0] = 1
	}
}

// exactMatch is 1 where the prediction equals a reference after SQuAD's normalization.
func exactMatch(w *worker, s *Sample, row []float64) {
	for _, reference := range s.References {
		w.forget()
		w.keep(0, w.normalized(reference, w.reference(0)))
		if w.hyp = w.normalized(s.Prediction, w.hyp[:0]); slices.Equal(w.hyp, w.refs[0]) {
			row[0] = 1
			return
		}
	}
}

// squadF1 is the highest F1 of the words after SQuAD's normalization, over the references.
func squadF1(w *worker, s *Sample, row []float64) {
	for _, reference := range s.References {
		w.forget()
		w.keep(0, w.normalized(reference, w.reference(0)))
		w.hyp = w.normalized(s.Prediction, w.hyp[:0])
		var same [1]float64
		w.match(w.refs[:1], w.hyp, len(w.ends), same[:])
		if same[0] > 0 {
			p, r := same[0]/float64(len(w.hyp)), same[0]/float64(len(w.refs[0]))
			row[0] = max(row[0], 2*p*r/(p+r))
		}
	}
}

// normalized takes the words of the text in small letters, without ASCII punctuation and articles.
func (w *worker) normalized(text string, ids []int32) []int32 {
	word, begin := w.buf[:0], len(ids)
	put := func() {
		if len(word) > 0 && !article(word) {
			ids = append(ids, w.id(word))
		}
		word = word[:0]
	}
	for i := range len(text) {
		c := text[i]
		switch k := kinds[c]; {
		case k&(lowerCase|digit) != 0:
			word = append(word, c)
		case k&upperCase != 0:
			word = append(word, c|0x20)
		case k&isSpace != 0:
			put()
		case k&punctuation == 0: // words may end at such a character, and yet go on
			w.buf = word
			return w.normalizedUnicode(text, ids[:begin])
		}
	}
	put()
	w.buf = word
	return ids
}

func article(word []byte) bool {
	switch string(word) {
	case "a", "an", "the":
		return true
	}
	return false
}

// normalizedUnicode is normalized for text with other characters than ASCII's printable ones. An article is one where
// letters and numbers end, but a word goes on to the next space.
func (w *worker) normalizedUnicode(text string, ids []int32) []int32 {
	w.buf = lower(w.buf[:0], text)
	out, run := w.alt[:0], 0 // where the letters and numbers at the end of out begin
	end := func() {
		if article(out[run:]) {
			out = append(out[:run], ' ')
		}
		run = len(out)
	}
	for i := 0; i < len(w.buf); {
		r, size := utf8.DecodeRune(w.buf[i:])
		switch {
		case r < utf8.RuneSelf && kinds[r]&punctuation != 0:
		case unicode.IsLetter(r) || unicode.IsNumber(r):
			out = append(out, w.buf[i:i+size]...)
		default:
			end()
			out = append(out, w.buf[i:i+size]...)
			run = len(out)
		}
		i += size
	}
	end()
	w.alt = out
	return w.split(out, ids)
}
