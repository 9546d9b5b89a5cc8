package sample

import (
	"cmp"
	"math"
	"slices"
)

// Logprobs returns the log-probability of token under the raw logits and the k largest, best first, ties by lower id.
// Computed in float64.
func Logprobs(logits []float32, token int32, k int) (float64, []Logprob) {
	largest := float32(math.Inf(-1))
	for _, l := range logits {
		largest = max(largest, l) // NaN, where there is one
	}
	var sum float64
	for _, l := range logits {
		sum += expNeg(float64(l) - float64(largest))
	}
	norm := float64(largest) + math.Log(sum)
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
