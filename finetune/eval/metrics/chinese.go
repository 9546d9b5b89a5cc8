package metrics

import (
	"bytes"
	"math/bits"
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
		return both, both + float64(w.kinds-inRef), float64(inRef)
	}
	refs, hyps := w.refs[0], w.hyp
	if n == 2 && w.kinds <= 256 { // a bit for each pair of words is less than a table
		w.pairs[0].mark(refs, w.kinds)
		w.pairs[1].mark(hyps, w.kinds)
		return w.pairs[0].count(w.pairs[1])
	}
	w.table.forget()
	key := func(ids []int32, i int) uint64 {
		k := uint64(1)
		for _, id := range ids[i : i+n] {
			k = k<<32 | uint64(id)
		}
		return k
	}
	for i := range max(0, len(refs)-n+1) {
		w.table.put(key(refs, i))
	}
	inRef := w.table.n
	w.count = zeros(w.count, int(inRef))
	for i := range max(0, len(hyps)-n+1) {
		if id := w.table.put(key(hyps, i)); id < inRef {
			w.count[id] = 1
		}
	}
	for _, c := range w.count {
		both += float64(c)
	}
	return both, both + float64(w.table.n-inRef), float64(inRef)
}

// pairSet has a bit for each pair of words.
type pairSet []uint64

// mark makes it the pairs in ids, which are numbers below kinds.
func (p *pairSet) mark(ids []int32, kinds int) {
	n := (kinds*kinds + 63) / 64
	if cap(*p) < n {
		*p = make(pairSet, n, 2*n)
	}
	*p = (*p)[:n]
	clear(*p)
	for i := 1; i < len(ids); i++ {
		at := uint(ids[i-1])*uint(kinds) + uint(ids[i])
		(*p)[at/64] |= 1 << (at % 64)
	}
}

// count returns how many pairs are in both sets, in the other, and in p.
func (p pairSet) count(other pairSet) (both, others, own float64) {
	var n [3]int
	for i, a := range p {
		b := other[i]
		n[0] += bits.OnesCount64(a & b)
		n[1] += bits.OnesCount64(b)
		n[2] += bits.OnesCount64(a)
	}
	return float64(n[0]), float64(n[1]), float64(n[2])
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
