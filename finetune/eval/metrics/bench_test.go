package metrics

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// BenchmarkMetrics is the time of a pair of 25 words; scripts/python/metric_speed.py compares it with other tools.
func BenchmarkMetrics(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	words := strings.Fields("The answer of the model, in other words: an adapter was trained on 3,000 samples and " +
		"its evaluation loss (see below) fell from 2.5 to 1.9; state-of-the-art results need more than that.")
	samples := make([]Sample, 1000)
	for i := range samples {
		var hyp, ref []string
		for range 25 {
			word := words[r.IntN(len(words))]
			ref = append(ref, word)
			if r.IntN(10) < 3 {
				word = words[r.IntN(len(words))]
			}
			hyp = append(hyp, word)
		}
		samples[i] = Sample{strings.Join(hyp, " "), []string{strings.Join(ref, " ")}}
	}
	all, _ := Names()
	for _, name := range all {
		b.Run(name, func(b *testing.B) {
			sums, width := find(name).sums(Options{})
			w, row := newWorker(), make([]float64, width)
			b.ReportAllocs()
			for i := range b.N {
				clear(row)
				sums(w, &samples[i%len(samples)], row)
			}
		})
	}
}
