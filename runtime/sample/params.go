// Package sample turns logits into tokens: penalties, temperature, top-k, top-p, min-p, logit bias, log-probabilities.
// Pure functions over one row of logits; randomness is counter-based, a function of (seed, position) only.
package sample

import "slices"

// Params are the sampling parameters of one request, already validated by the server. Order of application: logit bias,
// repetition, frequency and presence penalties, allowed tokens and bad words, temperature, top-k, typical, top-p,
// min-p.
type Params struct {
	Temperature       float64 // 0: greedy, the lowest id among the largest logits
	TopK              int     // 0: off
	TypicalP          float64 // 0 or 1: off
	TopP              float64 // 1: off
	MinP              float64 // 0: off
	RepetitionPenalty float64 // 1: off
	RepetitionLast    int     // the penalty counts the last tokens of prompt and output; 0: all of them
	PresencePenalty   float64
	FrequencyPenalty  float64
	LogitBias         map[int32]float64
	AllowedIDs        []int32   // ascending, each once; nil: every token
	BadWords          [][]int32 // no token that would complete one of these in the output, none empty
	Seed              uint64    // of this choice; the draw at output position p depends on (Seed, p) only
	Logprobs          int       // -1: none; k >= 0: the chosen token's and the k best
	LogprobIDs        []int32   // not nil: with Logprobs >= 0, of these tokens instead of the k best
}

// TopLogprobs returns what p.Logprobs and p.LogprobIDs ask for beside the log-probability of token: the k best, or
// token and LogprobIDs in their order, each once.
func (p *Params) TopLogprobs(logits []float32, token int32) (float64, []Logprob) {
	if p.LogprobIDs == nil {
		return Logprobs(logits, token, p.Logprobs)
	}
	norm := logNorm(logits)
	top := []Logprob{{Token: token, Logprob: float64(logits[token]) - norm}}
	for _, id := range p.LogprobIDs {
		if !slices.ContainsFunc(top, func(l Logprob) bool { return l.Token == id }) {
			top = append(top, Logprob{Token: id, Logprob: float64(logits[id]) - norm})
		}
	}
	return top[0].Logprob, top
}

// Logprob is one token's log-probability under the raw logits (before penalties, temperature and filters).
type Logprob struct {
	Token   int32
	Logprob float64
}
