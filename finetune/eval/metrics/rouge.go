package metrics

import (
	"math/bits"
	"strings"
)

// A row of ROUGE is precision, recall and F against the reference with the highest F.

// scorer compares w.hyp with w.refs[0]: it returns how many tokens or n-grams match, and how many there are of each.
type scorer func(w *worker) (match, hyp, ref float64)

// rouge compares tokens: words as rouge-score has them, or characters.
func rouge(score scorer) func(Options) (measure, int) {
	return func(o Options) (measure, int) {
		tokens := rougeTokens(o)
		return func(w *worker, s *Sample, row []float64) {
			for i, reference := range s.References {
				w.forget()
				w.keep(0, tokens(w, reference, w.reference(0)))
				w.hyp = tokens(w, s.Prediction, w.hyp[:0])
				keepBest(row, i, score, w)
			}
		}, 3
	}
}

func keepBest(row []float64, i int, score scorer, w *worker) {
	match, hyp, ref := score(w)
	p, r := match/max(hyp, 1), match/max(ref, 1)
	f := 0.0
	if p+r > 0 {
		f = 2 * p * r / (p + r)
	}
	if i == 0 || f > row[2] {
		row[0], row[1], row[2] = p, r, f
	}
}

func ngramScore(n int) scorer {
	return func(w *worker) (float64, float64, float64) {
		var out [2]float64
		w.match(w.refs[:1], w.hyp, w.kinds, out[:n])
		return out[n-1], float64(max(0, len(w.hyp)-n+1)), float64(max(0, len(w.refs[0])-n+1))
	}
}

func lcsScore(w *worker) (float64, float64, float64) {
	return float64(w.length(w.refs[0], w.hyp, w.kinds)), float64(len(w.hyp)), float64(len(w.refs[0]))
}

// rougeLsum compares lines: tokens of a reference's line that are in its longest common subsequence with any line of
// the prediction, each token at most as often as in either text.
func rougeLsum(o Options) (measure, int) {
	tokens := rougeTokens(o)
	return func(w *worker, s *Sample, row []float64) {
		for i, reference := range s.References {
			w.forget()
			w.keep(0, w.linesOf(0, reference, tokens))
			w.hyp = w.linesOf(1, s.Prediction, tokens)
			keepBest(row, i, lsumScore, w)
		}
	}, 3
}

// linesOf sets w.lines[side] to the tokens of each line, and returns all of them.
func (w *worker) linesOf(side int, text string, tokens tokenizer) []int32 {
	lines, all := w.lines[side][:0], w.flat[side][:0]
	for more := true; more; {
		var line string
		if line, text, more = strings.Cut(text, "\n"); line != "" {
			begin := len(all)
			all = tokens(w, line, all)
			lines = append(lines, all[begin:len(all):len(all)])
		}
	}
	w.lines[side], w.flat[side] = lines, all
	return all
}

func lsumScore(w *worker) (float64, float64, float64) {
	refs, hyps := w.lines[0], w.lines[1]
	if len(refs) == 1 && len(hyps) == 1 {
		return lcsScore(w)
	}
	for side := range w.counts {
		w.counts[side] = zeros(w.counts[side], w.kinds)
		for _, t := range w.flat[side] {
			w.counts[side][t]++
		}
	}
	hits := 0
	for _, ref := range refs {
		if cap(w.seen) < len(ref) {
			w.seen = make([]bool, 2*len(ref))
		}
		seen := w.seen[:len(ref)]
		clear(seen)
		for _, hyp := range hyps {
			w.mark(ref, hyp, w.kinds, seen)
		}
		for i, t := range ref {
			if seen[i] && w.counts[0][t] > 0 && w.counts[1][t] > 0 {
				hits++
				w.counts[0][t]--
				w.counts[1][t]--
			}
		}
	}
	return float64(hits), float64(len(w.flat[1])), float64(len(w.flat[0]))
}

// lcs finds longest common subsequences by words of 64 bits (Hyyrö 2004): bit i of a column is 0 where a common
// subsequence with the first i+1 tokens of a is longer than with the first i.
type lcs struct {
	masks   []uint64 // per token of the vocabulary, the places in a that hold it
	column  []uint64
	columns []uint64
}

// length is the length of the longest common subsequence of a and b.
func (l *lcs) length(a, b []int32, vocabulary int) int {
	l.run(a, b, vocabulary, false)
	return l.rises(len(a))
}

func (l *lcs) rises(n int) int {
	total := 0
	for _, v := range l.column[:(n+63)/64] {
		total += bits.OnesCount64(^v)
	}
	return total // bits beyond a stay 1
}

// run leaves the last column, and with keep all of them, the first of no token of b.
func (l *lcs) run(a, b []int32, vocabulary int, keep bool) {
	words := (len(a) + 63) / 64
	if need := vocabulary * words; len(l.masks) < need {
		l.masks = make([]uint64, 2*need)
	}
	if len(l.column) < words {
		l.column = make([]uint64, 2*words)
	}
	for i, t := range a {
		l.masks[int(t)*words+i/64] |= 1 << (i % 64)
	}
	v := l.column[:words]
	for k := range v {
		v[k] = ^uint64(0)
	}
	l.columns = l.columns[:0]
	if keep {
		l.columns = append(l.columns, v...)
	}
	if words == 1 {
		one := v[0]
		for _, t := range b {
			m := one & l.masks[t]
			one = (one + m) | (one &^ m)
			if keep {
				l.columns = append(l.columns, one)
			}
		}
		v[0] = one
	} else {
		for _, t := range b {
			var carry uint64
			for k, mask := range l.masks[int(t)*words : (int(t)+1)*words] {
				m := v[k] & mask
				var sum uint64
				sum, carry = bits.Add64(v[k], m, carry)
				v[k] = sum | v[k]&^m
			}
			if keep {
				l.columns = append(l.columns, v...)
			}
		}
	}
	for _, t := range a {
		clear(l.masks[int(t)*words : (int(t)+1)*words])
	}
}

// mark marks the tokens of a that are in the longest common subsequence with b which rouge-score chooses: from the end,
// equal tokens are taken; else b is shortened where that keeps the length and shortening a does not; else a.
func (l *lcs) mark(a, b []int32, vocabulary int, seen []bool) {
	words := (len(a) + 63) / 64
	l.run(a, b, vocabulary, true)
	rises := func(i, j int) bool { return l.columns[j*words+i/64]>>(i%64)&1 == 0 }
	for i, j := len(a), len(b); i > 0 && j > 0; {
		switch {
		case a[i-1] == b[j-1]:
			seen[i-1] = true
			i, j = i-1, j-1
		case rises(i-1, j):
			j--
		default:
			i--
		}
	}
}
