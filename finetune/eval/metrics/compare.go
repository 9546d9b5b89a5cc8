package metrics

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"weft/internal/rng"
)

// Interval is a value with the bounds of its 95 % interval.
type Interval struct {
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// Comparison is the difference of a metric between two systems over the same samples, the first minus the second.
type Comparison struct {
	Metric string `json:"metric"`
	Interval
	BootstrapP float64 `json:"bootstrap_p"` // sacrebleu's paired bootstrap test
	SignFlipP  float64 `json:"sign_flip_p"` // see SignFlip
	Exact      bool    `json:"exact"`       // SignFlipP is over every exchange, not over some that were drawn
}

// Confidence is the fraction of resamples within an interval.
const Confidence = 0.95

// ErrUnpaired says that two systems cannot be compared sample by sample.
var ErrUnpaired = errors.New("two systems can be compared over the same samples and the same metric only")

// Draw returns resamples of n samples: for each, n indices drawn with replacement. The seed decides them.
func Draw(resamples, n int, seed uint64) [][]int32 {
	source := rng.New(seed)
	out := make([][]int32, resamples)
	for r := range out {
		out[r] = make([]int32, n)
		for i := range out[r] {
			out[r][i] = int32(source.Below(uint64(n)))
		}
	}
	return out
}

// Resampled are the values over resamples.
func (s *Scores) Resampled(resamples [][]int32) []float64 {
	values := make([]float64, len(resamples))
	sum := make([]float64, s.width)
	for r, indices := range resamples {
		clear(sum)
		for _, i := range indices {
			add(sum, s.row(int(i)))
		}
		values[r] = s.value(sum, len(indices))
	}
	return values
}

// Interval is the value over all samples with its bootstrap interval.
func (s *Scores) Interval(resamples [][]int32) Interval {
	return interval(s.Value(), s.Resampled(resamples))
}

func interval(value float64, values []float64) Interval {
	if len(values) == 0 {
		return Interval{value, value, value}
	}
	slices.Sort(values)
	return Interval{value, percentile(values, (1-Confidence)/2), percentile(values, (1+Confidence)/2)}
}

// percentile interpolates between the sorted values.
func percentile(sorted []float64, p float64) float64 {
	at := p * float64(len(sorted)-1)
	low := int(at)
	if low+1 == len(sorted) {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

// Compare compares two systems over the same samples: the difference with its paired bootstrap interval, and two tests.
func Compare(a, b *Scores, resamples [][]int32, seed uint64) (*Comparison, error) {
	if a.Name != b.Name || len(a.rows) != len(b.rows) {
		return nil, fmt.Errorf("%s of %d samples, %s of %d samples: %w", a.Name, a.Len(), b.Name, b.Len(), ErrUnpaired)
	}
	c := &Comparison{Metric: a.Name}
	real, values := difference(a, b, resamples)
	c.BootstrapP = bootstrapP(real, values)
	c.Interval = interval(real, values)
	c.SignFlipP, c.Exact = SignFlip(a, b, seed)
	return c, nil
}

// Difference is the first system's value minus the second's with its paired bootstrap interval.
func Difference(a, b *Scores, resamples [][]int32) Interval {
	return interval(difference(a, b, resamples))
}

func difference(a, b *Scores, resamples [][]int32) (real float64, values []float64) {
	values = a.Resampled(resamples)
	for r, v := range b.Resampled(resamples) {
		values[r] -= v
	}
	return a.Value() - b.Value(), values
}

// bootstrapP is the p-value of sacrebleu's paired bootstrap test: how often a resample's difference, after subtracting
// the mean of all differences, exceeds the real one.
func bootstrapP(real float64, differences []float64) float64 {
	mean := 0.0
	for _, d := range differences {
		mean += math.Abs(d)
	}
	mean /= float64(max(1, len(differences)))
	beyond := 0
	for _, d := range differences {
		if math.Abs(d)-mean > math.Abs(real) {
			beyond++
		}
	}
	return float64(beyond+1) / float64(len(differences)+1)
}

// Limits of SignFlip.
const (
	exactSamples = 16            // samples that differ, up to which every exchange is tried
	exchanges    = 10_000        // drawn beyond that,
	exchangeWork = 1_000_000_000 // or fewer, so that no more numbers than this are added,
	exchangesMin = 200           // but at least these
)

// SignFlip is the p-value of the hypothesis that the two systems are alike: how often exchanging their results on some
// of the samples makes a difference at least as large as the real one. For a mean this flips signs of the differences.
// Exact are values over every exchange: with at most 16 samples that differ, and for a mean whose differences all have
// one size, such as exact match. Otherwise exchanges are drawn, the real one among them.
func SignFlip(a, b *Scores, seed uint64) (p float64, exact bool) {
	return exchangeTest(a, b, seed, 1,
		func(d, real float64) bool { return math.Abs(d) >= math.Abs(real)-rounding(real) },
		func(plus, minus int) float64 { return min(1, 2*binomial(plus+minus, min(plus, minus))) })
}

// SignFlipBelow is the p-value of the hypothesis that the first system's value is not below the second's: how often
// exchanging their results on some of the samples makes it lower by at least the real difference. Exchanges are drawn
// as for SignFlip, but only until it is certain that p is above enough; p is then the fraction among those that were
// drawn (Besag and Clifford 1991, "Sequential Monte Carlo p-values").
func SignFlipBelow(a, b *Scores, seed uint64, enough float64) (p float64, exact bool) {
	return exchangeTest(a, b, seed, enough, func(d, real float64) bool { return d <= real+rounding(real) },
		func(plus, minus int) float64 { return binomial(plus+minus, plus) })
}

// rounding is how much sums may have lost in their last digits.
func rounding(real float64) float64 { return 1e-9 * max(1, math.Abs(real)) }

// exchangeTest counts the exchanges whose difference is as extreme as the real one. sided is p where a is higher in
// plus and b in minus samples, by the same amount.
func exchangeTest(a, b *Scores, seed uint64, enough float64, extreme func(d, real float64) bool,
	sided func(plus, minus int) float64) (p float64, exact bool) {
	var differ []int
	for i := range a.Len() {
		if !slices.Equal(a.row(i), b.row(i)) {
			differ = append(differ, i)
		}
	}
	if len(differ) == 0 {
		return 1, true
	}
	x := newExchange(a, b, differ)
	if x.plus+x.minus > 0 {
		return sided(x.plus, x.minus), true
	}
	real, count := x.difference(), 0
	if len(differ) <= exactSamples {
		all := 1 << (len(differ) - 1) // the last sample stays: exchanging all changes the sign only
		for code := range all {
			if code > 0 { // Gray code: one exchange each
				x.flip(bits.TrailingZeros(uint(code)))
			}
			d := x.difference()
			if extreme(d, real) {
				count++
			}
			if extreme(-d, real) {
				count++
			}
		}
		return float64(count) / float64(2*all), true
	}
	source := rng.New(seed)
	draws := min(exchanges, max(exchangesMin, exchangeWork/(len(differ)*a.width)))
	count = 1
	for draw := range draws {
		var coins uint64
		for k := range differ {
			if k%64 == 0 {
				coins = source.Uint64()
			}
			if coins>>(k%64)&1 == 1 {
				x.flip(k)
			}
		}
		if extreme(x.difference(), real) {
			count++
		}
		if float64(count) > enough*float64(draws+1) {
			return float64(count) / float64(draw+2), false
		}
	}
	return float64(count) / float64(draws+1), false
}

// exchange holds the sums of two systems while results are exchanged.
type exchange struct {
	a, b        *Scores
	differ      []int
	exchanged   []bool
	sumA, sumB  []float64
	plus, minus int // samples in which a, or b, is higher, if all differences of a mean have one size
}

func newExchange(a, b *Scores, differ []int) *exchange {
	x := &exchange{a: a, b: b, differ: differ, exchanged: make([]bool, len(differ)), sumA: a.total(), sumB: b.total()}
	if a.width != 1 {
		return x
	}
	size := math.Abs(a.row(differ[0])[0] - b.row(differ[0])[0])
	for _, i := range differ {
		d := a.row(i)[0] - b.row(i)[0]
		switch {
		case d == size:
			x.plus++
		case d == -size:
			x.minus++
		default:
			x.plus, x.minus = 0, 0
			return x
		}
	}
	return x
}

func (x *exchange) difference() float64 {
	n := x.a.Len()
	return x.a.value(x.sumA, n) - x.b.value(x.sumB, n)
}

// flip exchanges the results on a sample that differs, or undoes that.
func (x *exchange) flip(k int) {
	a, b := x.a.row(x.differ[k]), x.b.row(x.differ[k])
	if x.exchanged[k] {
		a, b = b, a
	}
	x.exchanged[k] = !x.exchanged[k]
	for i := range a {
		d := b[i] - a[i]
		x.sumA[i] += d
		x.sumB[i] -= d
	}
}

// binomial is the probability that at most k of n coins show heads.
func binomial(n, k int) float64 {
	logChoose := func(k int) float64 {
		all, _ := math.Lgamma(float64(n + 1))
		some, _ := math.Lgamma(float64(k + 1))
		rest, _ := math.Lgamma(float64(n - k + 1))
		return all - some - rest - float64(n)*math.Ln2
	}
	p := 0.0
	for i := range k + 1 {
		p += math.Exp(logChoose(i))
	}
	return min(p, 1)
}
