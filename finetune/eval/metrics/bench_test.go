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
	english := pairsOf(r, words)
	characters := []rune("今天气很好我们去公园散步吧" +
		"的是不了在有人这中大为上个国说到时要就出会" +
		"可也你对生能而子那得于着下自之年过发后作里")
	for i := range words {
		words[i] = string(characters[r.IntN(len(characters)-3):][:1+r.IntN(3)])
	}
	chinese := pairsOf(r, words)
	all, _ := Names()
	for _, name := range all {
		b.Run(name, func(b *testing.B) {
			sums, width := find(name).sums(Options{})
			w, row, samples := newWorker(), make([]float64, width), english
			if strings.HasPrefix(name, "rouge-") {
				samples = chinese
			}
			b.ReportAllocs()
			for i := range b.N {
				clear(row)
				sums(w, &samples[i%len(samples)], row)
			}
		})
	}
}

// pairsOf makes texts of 25 words, of which three in ten differ.
func pairsOf(r *rand.Rand, words []string) []Sample {
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
	return samples
}
