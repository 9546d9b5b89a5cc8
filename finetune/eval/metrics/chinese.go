package metrics

import (
	"bytes"
	"slices"
	"unicode/utf8"
)

// rougeChinese is the F of the library rouge_chinese for n-grams of n words, each of which counts once, or for 0 of the
// longest common subsequence. Words are between spaces; with a tokenizer of characters they are characters. An empty
// text has F 0 (the library refuses it).
func rougeChinese(n int) func(Options) (measure, int) {
	return func(o Options) (measure, int) {
		tokens := (*worker).segmented
		if o.Tokenize == "char" || o.Tokenize == "zh" {
			tokens = (*worker).characters
		}
		return func(w *worker, s *Sample, row []float64) {
			for i, reference := range s.References {
				w.forget()
				w.keep(0, tokens(w, reference, w.reference(0)))
				w.hyp = tokens(w, s.Prediction, w.hyp[:0])
				var match, hyp, ref float64
				if n == 0 {
					match, hyp, ref = lcsScore(w)
				} else {
					match, hyp, ref = w.distinct(n)
				}
				p, r := match/max(hyp, 1), match/max(ref, 1)
				if f := 2 * (p * r / (p + r + 1e-8)); i == 0 || f > row[2] {
					row[0], row[1], row[2] = p, r, f
				}
			}
		}, 3
	}
}

// distinct counts the different n-grams of w.hyp, of w.refs[0], and of both.
func (w *worker) distinct(n int) (both, hyp, ref float64) {
	if n == 1 { // the first texts' words have the lower numbers
		inRef := 0
		for _, id := range w.refs[0] {
			inRef = max(inRef, int(id)+1)
		}
		w.count = zeros(w.count, inRef)
		for _, id := range w.hyp {
			if int(id) < inRef {
				w.count[id] = 1
			}
		}
		for _, c := range w.count {
			both += float64(c)
		}
		return both, both + float64(len(w.ends)-inRef), float64(inRef)
	}
	w.table.forget()
	key := func(ids []int32, i int) uint64 {
		k := uint64(1)
		for _, id := range ids[i : i+n] {
			k = k<<32 | uint64(id)
		}
		return k
	}
	for i := range max(0, len(w.refs[0])-n+1) {
		w.table.put(key(w.refs[0], i))
	}
	inRef := w.table.n
	w.count = zeros(w.count, int(inRef))
	for i := range max(0, len(w.hyp)-n+1) {
		if id := w.table.put(key(w.hyp, i)); id < inRef {
			w.count[id] = 1
		}
	}
	for _, c := range w.count {
		both += float64(c)
	}
	return both, both + float64(w.table.n-inRef), float64(inRef)
}

// segmented takes the words between spaces, as rouge_chinese does: a line is a sentence, lines end after sentence marks
// too, and a line of spaces only is an empty word.
func (w *worker) segmented(text string, ids []int32) []int32 {
	cut := w.cutSentences(text)
	if !bytes.Contains(cut, []byte("\n")) {
		return w.split(cut, ids)
	}
	cut = bytes.TrimRightFunc(cut, space)
	for more := true; more; {
		var line []byte
		if line, cut, more = bytes.Cut(cut, []byte("\n")); len(line) > 0 {
			before := len(ids)
			if ids = w.split(line, ids); len(ids) == before {
				ids = append(ids, w.id(nil))
			}
		}
	}
	return ids
}

// cutSentences puts newlines after sentence marks. As in the library, each rule runs over what the one before wrote,
// and does not look at what it has just matched.
func (w *worker) cutSentences(text string) []byte {
	w.buf = append(w.buf[:0], text...)
	if !w.cuts(text) {
		return w.buf
	}
	for _, rule := range []struct {
		mark   func(at []byte) int // the length of the mark that at begins with, or 0
		except []string            // what may follow without a cut
	}{
		{sentenceMark, closing},
		{func(at []byte) int { return prefix(at, "......") }, closing},
		{func(at []byte) int { return prefix(at, "……") }, closing},
		{closedMark, []string{"，", "。", "！", "？", "?"}},
	} {
		out := w.alt[:0]
		for i := 0; i < len(w.buf); {
			n := 0
			if marks[w.buf[i]] {
				n = rule.mark(w.buf[i:])
			}
			rest := w.buf[i+n:]
			if n == 0 || len(rest) == 0 ||
				slices.ContainsFunc(rule.except, func(s string) bool { return prefix(rest, s) > 0 }) {
				out = append(out, w.buf[i])
				i++
				continue
			}
			_, size := utf8.DecodeRune(rest)
			out = append(append(out, w.buf[i:i+n]...), '\n')
			out = append(out, rest[:size]...)
			i += n + size
		}
		w.buf, w.alt = out, w.buf
	}
	return w.buf
}

// cuts says whether there is a mark before the end of the text.
func (w *worker) cuts(text string) bool {
	for i := range len(text) {
		if !marks[text[i]] {
			continue
		}
		at := w.buf[i:]
		if n := max(sentenceMark(at), prefix(at, "......"), prefix(at, "……")); n > 0 && n < len(at) {
			return true
		}
	}
	return false
}

// marks are the bytes that a sentence mark begins with.
var marks = [256]bool{'?': true, '.': true, 0xe2: true, 0xe3: true, 0xef: true}

var closing = []string{"”", "’"}

func sentenceMark(at []byte) int {
	return max(prefix(at, "?"), prefix(at, "。"), prefix(at, "！"), prefix(at, "？"))
}

// closedMark is a sentence mark and a closing quotation mark.
func closedMark(at []byte) int {
	n := sentenceMark(at)
	if n == 0 {
		return 0
	}
	if k := max(prefix(at[n:], closing[0]), prefix(at[n:], closing[1])); k > 0 {
		return n + k
	}
	return 0
}

// prefix is the length of s if the text begins with it, else 0.
func prefix(text []byte, s string) int {
	if len(text) >= len(s) && string(text[:len(s)]) == s {
		return len(s)
	}
	return 0
}
