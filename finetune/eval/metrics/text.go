package metrics

import "unicode/utf8"

// lengths counts the characters of the prediction and of the reference whose length is closest.
func lengths(_ *worker, s *Sample, row []float64) {
	hyp, ref := utf8.RuneCountInString(s.Prediction), -1
	for _, reference := range s.References {
		if n := utf8.RuneCountInString(reference); ref < 0 || closest(hyp, ref, n) {
			ref = n
		}
	}
	row[0], row[1] = float64(hyp), float64(ref)
}

// repetition is the fraction of the prediction's 4-grams that occurred before in it, over words, or characters beyond
// ASCII.
func repetition(Options) (measure, int) {
	return func(w *worker, s *Sample, row []float64) {
		w.forget()
		w.hyp = w.mixed(s.Prediction, w.hyp[:0])
		grams := len(w.hyp) - 3
		if grams < 2 {
			return
		}
		w.keep(0, append(w.reference(0), w.hyp...))
		var out [4]float64
		w.match(w.refs[:1], nil, w.kinds, out[:])
		row[0] = 1 - float64(w.table.n)/float64(grams)
	}, 1
}
