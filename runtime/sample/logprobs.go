package sample

import (
	"cmp"
	"math"
	"slices"
)

// Logprobs returns the log-probability of token under the raw logits and the k largest, best first, ties by lower id.
// Computed in float64.
func Logprobs(logits []float32, token int32, k int) (float64, []Logprob) {
	norm := logNorm(logits)
	k = min(max(k, 0), len(logits))
	top := make([]Logprob, 0, k+1)
	for i, l := range logits {
		if k == 0 || len(top) == k && float64(l) <= top[k-1].Logprob {
			continue
		}
		e := Logprob{Token: int32(i), Logprob: float64(l)}
		at, _ := slices.BinarySearchFunc(top, e, func(a, b Logprob) int {
			return cmp.Or(cmp.Compare(b.Logprob, a.Logprob), cmp.Compare(a.Token, b.Token))
		})
		top = slices.Insert(top, at, e)[:min(len(top)+1, k)]
	}
	for i := range top {
		top[i].Logprob -= norm
	}
	return float64(logits[token]) - norm, top
}

// logNorm returns the logarithm of the sum of all e^logit; NaN where a logit is NaN.
func logNorm(logits []float32) float64 {
	largest := float32(math.Inf(-1))
	for _, l := range logits {
		largest = max(largest, l) // NaN, where there is one
	}
	var sum float64
	for _, l := range logits {
		sum += expNeg(float64(l) - float64(largest))
	}
	return float64(largest) + math.Log(sum)
}

// expNeg(z) = e^z for z <= 0 within 3e-12 of its value, 0 below the smallest normal number. Sampling computes one for
// every token of the vocabulary, so math.Exp would be too slow: e^z = 2^(k/128) * e^r with |r| <= ln2/256, the first
// term from a table, the second by its Taylor polynomial of degree 3 (remainder r^4/24).
func expNeg(z float64) float64 {
	if !(z > expNegLeast) {
		return 0
	}
	k := int64(z*(expNegSteps/math.Ln2) - 0.5)
	r := z - float64(k)*(math.Ln2/expNegSteps)
	p := 1 + r*(1+r*(0.5+r*(1.0/6)))
	return p * math.Float64frombits(expNegTable[k&(expNegSteps-1)]+uint64(k>>7)<<52)
}

const (
	expNegSteps = 128  // 1 << 7
	expNegLeast = -708 // e^-708 is about 3e-308
)

// expNegTable has the bits of 2^(i/128).
var expNegTable = func() (t [expNegSteps]uint64) {
	for i := range t {
		t[i] = math.Float64bits(math.Exp2(float64(i) / expNegSteps))
	}
	return t
}()
