// Package metrics compares texts with references: exact match, F1, BLEU, chrF, ROUGE and others, with the values of the
// tools that are the reference for each; and says how sure a value, or a difference of two, is.
//
// A metric turns each sample into a few sums ([Scores]). The value over all samples is computed from the sums of the
// sums, so that resampling needs no text again.
package metrics

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// Sample is a predicted text with the references that it is compared with, at least one.
type Sample struct {
	Prediction string
	References []string
}

// Options are how texts become tokens.
type Options struct {
	// Tokenize is the tokenizer of BLEU under sacrebleu's names: 13a, intl, char, zh, none. With char and zh, ROUGE
	// and repetition count characters too. "" is 13a.
	Tokenize string
	Stemmer  bool // ROUGE compares stems of words (Porter), as rouge-score does with use_stemmer
}

// metric is a metric over texts. Its values are from 0 to 100 but for length_ratio.
type metric struct {
	name, about string
	extra       bool // not among those that are computed where none is named
	sums        func(Options) (measure, int)
	value       func(sum []float64, n int) float64
	one         func(sum []float64, n int) float64 // the value of a single sample, where it has a rule of its own
}

// measure writes the sums of a sample to row, which is zero.
type measure func(w *worker, s *Sample, row []float64)

func plain(m measure, width int) func(Options) (measure, int) {
	return func(Options) (measure, int) { return m, width }
}

var metrics = []metric{
	{name: "bleu", about: "sacrebleu's corpus BLEU", sums: bleuSums, value: corpusBLEU, one: sentenceBLEU},
	{name: "chrf", about: "sacrebleu's chrF2", sums: plain(chrF(0), 3*charOrder), value: chrFValue},
	{name: "chrf++", about: "sacrebleu's chrF2++", sums: plain(chrF(2), 3*(charOrder+2)), value: chrFValue},
	{name: "rouge1", about: "rouge-score's F of words", sums: rouge(ngramScore(1)), value: meanF},
	{name: "rouge2", about: "rouge-score's F of pairs of words", sums: rouge(ngramScore(2)), value: meanF},
	{name: "rougeL", about: "rouge-score's F of the longest common subsequence", sums: rouge(lcsScore), value: meanF},
	{name: "rougeLsum", about: "the same over lines", sums: rougeLsum, value: meanF},
	{name: "exact_match", about: "equal after SQuAD's normalization", sums: plain(exactMatch, 1), value: mean},
	{name: "f1", about: "SQuAD's F1 of words", sums: plain(squadF1, 1), value: mean},
	{name: "exact_match_strict", about: "equal as they are", extra: true, sums: plain(strictMatch, 1), value: mean},
	{name: "hf_evaluate_bleu", about: "BLEU of the library evaluate, times 100", extra: true,
		sums: evaluateSums, value: evaluateBLEU},
	{name: "rouge-1", about: "rouge_chinese's F of words", extra: true, sums: rougeChinese(1), value: meanF},
	{name: "rouge-2", about: "rouge_chinese's F of pairs of words", extra: true, sums: rougeChinese(2), value: meanF},
	{name: "rouge-l", about: "rouge_chinese's F of the longest common subsequence", extra: true,
		sums: rougeChinese(0), value: meanF},
	{name: "length_ratio", about: "characters of the predictions / of the references", extra: true,
		sums: plain(lengths, 2), value: ratio},
	{name: "repetition", about: "4-grams of a prediction that it had before", extra: true,
		sums: repetition, value: mean},
}

// Names are the metrics over texts; defaults are those that are computed where none is named.
func Names() (all, defaults []string) {
	for _, m := range metrics {
		all = append(all, m.name)
		if !m.extra {
			defaults = append(defaults, m.name)
		}
	}
	return all, defaults
}

// About says in a few words what a metric is.
func About(name string) string {
	if m := find(name); m != nil {
		return m.about
	}
	return ""
}

func find(name string) *metric {
	for i := range metrics {
		if metrics[i].name == name {
			return &metrics[i]
		}
	}
	return nil
}

// Tokenizers are the values of [Options.Tokenize].
var Tokenizers = []string{"13a", "intl", "char", "zh", "none"}

// ErrEmpty says that there is no sample to compute a metric over.
var ErrEmpty = errors.New("no samples: a metric over nothing has no value")

// Pairs makes samples of predictions with one reference each. Lists of different lengths are an error.
func Pairs(predictions, references []string) ([]Sample, error) {
	if len(predictions) != len(references) {
		return nil, fmt.Errorf("%d predictions and %d references: each prediction needs its reference",
			len(predictions), len(references))
	}
	samples := make([]Sample, len(predictions))
	for i, p := range predictions {
		samples[i] = Sample{p, references[i : i+1 : i+1]}
	}
	return samples, nil
}

// Check says what is wrong with a name of a metric or a tokenizer.
func Check(names []string, o Options) error {
	if o.Tokenize != "" && !slices.Contains(Tokenizers, o.Tokenize) {
		return fmt.Errorf("tokenizer %q: one of %s", o.Tokenize, strings.Join(Tokenizers, ", "))
	}
	if len(names) == 0 {
		return errors.New("no metric is named")
	}
	all, _ := Names()
	for i, name := range names {
		if !slices.Contains(all, name) {
			return fmt.Errorf("metric %q: one of %s", name, strings.Join(all, ", "))
		}
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("metric %q is named twice", name)
		}
	}
	return nil
}

// Compute computes a metric over all samples, on all processors.
func Compute(name string, samples []Sample, o Options) (*Scores, error) {
	if err := Check([]string{name}, o); err != nil {
		return nil, err
	}
	if len(samples) == 0 {
		return nil, ErrEmpty
	}
	for i := range samples {
		if len(samples[i].References) == 0 {
			return nil, fmt.Errorf("sample %d has no reference", i+1)
		}
	}
	m := find(name)
	sums, width := m.sums(o)
	s := &Scores{Name: name, width: width, rows: make([]float64, len(samples)*width), value: m.value, one: m.one}
	parts := min(runtime.GOMAXPROCS(0), (len(samples)+63)/64)
	var wait sync.WaitGroup
	for part := range parts {
		wait.Go(func() {
			w := newWorker()
			for i := part * len(samples) / parts; i < (part+1)*len(samples)/parts; i++ {
				sums(w, &samples[i], s.row(i))
			}
		})
	}
	wait.Wait()
	return s, nil
}

// Scores are a metric's sums, a row a sample.
type Scores struct {
	Name       string
	width      int
	rows       []float64
	value, one func(sum []float64, n int) float64
}

// Means makes scores whose value is the mean of the samples' values.
func Means(name string, values []float64) (*Scores, error) {
	if len(values) == 0 {
		return nil, ErrEmpty
	}
	return &Scores{Name: name, width: 1, rows: values, value: func(sum []float64, n int) float64 {
		return sum[0] / float64(n)
	}}, nil
}

// Ratios makes scores whose value is f of the sum of the samples' first number over the sum of their second.
func Ratios(name string, samples [][2]float64, f func(float64) float64) (*Scores, error) {
	if len(samples) == 0 {
		return nil, ErrEmpty
	}
	rows := make([]float64, 0, 2*len(samples))
	for _, s := range samples {
		rows = append(rows, s[:]...)
	}
	return &Scores{Name: name, width: 2, rows: rows, value: func(sum []float64, n int) float64 {
		return f(ratio(sum, n))
	}}, nil
}

// Len is the number of samples.
func (s *Scores) Len() int { return len(s.rows) / s.width }

func (s *Scores) row(i int) []float64 { return s.rows[i*s.width : (i+1)*s.width : (i+1)*s.width] }

// Value is the metric over all samples.
func (s *Scores) Value() float64 { return s.value(s.total(), s.Len()) }

// Sample is the metric of one sample.
func (s *Scores) Sample(i int) float64 {
	if s.one != nil {
		return s.one(slices.Clone(s.row(i)), 1)
	}
	return s.value(s.row(i), 1)
}

func (s *Scores) total() []float64 {
	sum := make([]float64, s.width)
	for i := range s.Len() {
		add(sum, s.row(i))
	}
	return sum
}

func add(sum, row []float64) {
	for k, v := range row {
		sum[k] += v
	}
}

func mean(sum []float64, n int) float64 { return 100 * sum[0] / float64(n) }

// meanF is the mean of F, the third number of each row.
func meanF(sum []float64, n int) float64 { return 100 * sum[2] / float64(n) }

func ratio(sum []float64, _ int) float64 {
	if sum[1] == 0 {
		return 0
	}
	return sum[0] / sum[1]
}
