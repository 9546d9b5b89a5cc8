// Package sample turns logits into tokens: penalties, temperature, top-k, top-p, min-p, logit bias, log-probabilities.
// Pure functions over one row of logits; randomness is counter-based, a function of (seed, position) alone.
package sample

// Params are the sampling parameters of one request, already validated at the edge.
// Order of application: logit bias, repetition, frequency and presence penalties, temperature, top-k, top-p, min-p.
type Params struct {
	Temperature       float64 // 0: greedy, the lowest id among the largest logits
	TopK              int     // 0: off
	TopP              float64 // 1: off
	MinP              float64 // 0: off
	RepetitionPenalty float64 // 1: off
	PresencePenalty   float64
	FrequencyPenalty  float64
	LogitBias         map[int32]float64
	Seed              uint64 // of this choice; the draw at output position p depends on (Seed, p) alone
	Logprobs          int    // -1: none; k >= 0: the chosen token's and the k best
}

// Logprob is one token's log-probability under the raw logits (before penalties, temperature and filters).
type Logprob struct {
	Token   int32
	Logprob float64
}

// uniform returns a number in [0, 1) that depends on seed and counter alone: two rounds of the SplitMix64 finalizer
// (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", §3) over both, so that neighbouring
// counters and seeds are unrelated.
func uniform(seed, counter uint64) float64 {
	x := mix(seed + 0x9e3779b97f4a7c15)
	x = mix(x ^ mix(counter+0x9e3779b97f4a7c15))
	return float64(x>>11) / (1 << 53)
}

func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// ChoiceSeed derives the seed of the i-th choice of a request, so that n choices differ and choice 0 equals a lone
// request.
func ChoiceSeed(seed uint64, i int) uint64 {
	if i == 0 {
		return seed
	}
	return mix(seed ^ mix(uint64(i)))
}
