package metrics

import "unicode/utf8"

// charOrder is the longest n-gram of characters in chrF, beta the weight of recall.
const (
	charOrder = 6
	beta      = 2
)

// chrF fills a row: for each order of characters, then of words, the n-grams of the prediction (0 if the reference has
// none), of the reference, and those that match; against the reference with the highest value.
func chrF(words int) measure {
	return func(w *worker, s *Sample, row []float64) {
		best := -1.0
		var now, chars [3 * (charOrder + 2)]float64
		for _, reference := range s.References {
			w.forget()
			w.keep(0, w.characters(reference, w.reference(0)))
			w.hyp = w.characters(s.Prediction, w.hyp[:0])
			w.triples(charOrder, now[:3*charOrder])
			if words > 0 {
				w.forget()
				w.keep(0, w.chrFWords(reference, w.reference(0)))
				w.hyp = w.chrFWords(s.Prediction, w.hyp[:0])
				w.triples(words, now[3*charOrder:3*(charOrder+words)])
			}
			if f := chrFValue(now[:len(row)], 1); f > best {
				best, chars = f, now
			}
		}
		copy(row, chars[:])
	}
}

// triples writes the counts of orders 1 to orders of w.hyp and w.refs[0].
func (w *worker) triples(orders int, out []float64) {
	var matches [charOrder]float64
	w.match(w.refs[:1], w.hyp, w.kinds, matches[:orders])
	for n := range orders {
		ref := max(0, len(w.refs[0])-n)
		hyp := max(0, len(w.hyp)-n)
		if ref == 0 {
			hyp = 0
		}
		out[3*n], out[3*n+1], out[3*n+2] = float64(hyp), float64(ref), matches[n]
	}
}

// chrFValue is the F of the mean precision and recall over the orders that both texts have.
func chrFValue(sum []float64, _ int) float64 {
	precision, recall, orders := 0.0, 0.0, 0.0
	for ; len(sum) > 0; sum = sum[3:] {
		if sum[0] > 0 && sum[1] > 0 {
			precision += sum[2] / sum[0]
			recall += sum[2] / sum[1]
			orders++
		}
	}
	if precision+recall == 0 {
		return 0
	}
	precision, recall = precision/orders, recall/orders
	// rounded step by step as sacrebleu does, since equal values decide which reference counts
	above := float64((1+beta*beta)*precision) * recall
	return 100 * (above / (float64(beta*beta*precision) + recall))
}

// chrFWords takes words between spaces without the ASCII punctuation at their end, or else at their start, which is a
// word of its own.
func (w *worker) chrFWords(text string, ids []int32) []int32 {
	w.buf = append(w.buf[:0], text...)
	for begin, end := nextWord(w.buf, 0); begin < end; begin, end = nextWord(w.buf, end) {
		b := w.buf[begin:end]
		_, size := utf8.DecodeRune(b)
		switch {
		case size == len(b):
			ids = append(ids, w.id(b))
		case kinds[b[len(b)-1]]&punctuation != 0:
			ids = append(ids, w.id(b[:len(b)-1]), w.id(b[len(b)-1:]))
		case kinds[b[0]]&punctuation != 0:
			ids = append(ids, w.id(b[:1]), w.id(b[1:]))
		default:
			ids = append(ids, w.id(b))
		}
	}
	return ids
}
