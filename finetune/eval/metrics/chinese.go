package metrics

import (
	"strings"
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
	text = strings.TrimRightFunc(cutSentences(text), space)
	for more := true; more; {
		var line string
		if line, text, more = strings.Cut(text, "\n"); line != "" {
			before := len(ids)
			if ids = w.spaced(line, ids); len(ids) == before {
				ids = append(ids, w.id(nil))
			}
		}
	}
	return ids
}

// cutSentences puts newlines after sentence marks. As in the library, each rule runs over what the one before wrote,
// and does not look at what it has just matched.
func cutSentences(text string) string {
	if !strings.ContainsAny(text, "。！？?…") && !strings.Contains(text, "......") {
		return text
	}
	one := func(set string) func(string) int {
		return func(s string) int {
			if r, size := utf8.DecodeRuneInString(s); size > 0 && strings.ContainsRune(set, r) {
				return size
			}
			return 0
		}
	}
	word := func(w string) func(string) int {
		return func(s string) int {
			if strings.HasPrefix(s, w) {
				return len(w)
			}
			return 0
		}
	}
	mark, closing := one("。！？?"), one("”’")
	marked := func(s string) int {
		if n := mark(s); n > 0 {
			if k := closing(s[n:]); k > 0 {
				return n + k
			}
		}
		return 0
	}
	text = cut(text, mark, "”’")
	text = cut(text, word("......"), "”’")
	text = cut(text, word("……"), "”’")
	return cut(text, marked, "，。！？?")
}

// cut puts a newline between what find finds and a character that is not in except.
func cut(text string, find func(string) int, except string) string {
	var b strings.Builder
	for i := 0; i < len(text); {
		n := find(text[i:])
		r, size := utf8.DecodeRuneInString(text[i+n:])
		switch {
		case n > 0 && size > 0 && !strings.ContainsRune(except, r):
			b.WriteString(text[i : i+n])
			b.WriteByte('\n')
			b.WriteString(text[i+n : i+n+size])
			i += n + size
		default:
			_, size = utf8.DecodeRuneInString(text[i:])
			b.WriteString(text[i : i+size])
			i += size
		}
	}
	return b.String()
}
