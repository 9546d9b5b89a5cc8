// Package sample turns logits into tokens: penalties, temperature, top-k, top-p, min-p, logit bias, log-probabilities.
// Pure functions over one row of logits; randomness is counter-based, a function of (seed, position) only.
package sample

// Params are the sampling parameters of one request, already validated by the server. Order of application: logit bias,
// repetition, frequency and presence penalties, temperature, top-k, top-p, min-p.
type Params struct {
	Temperature       float64 // 0: greedy, the lowest id among the largest logits
	TopK              int     // 0: off
	TopP              float64 // 1: off
	MinP              float64 // 0: off
	RepetitionPenalty float64 // 1: off
	PresencePenalty   float64
	FrequencyPenalty  float64
	LogitBias         map[int32]float64
	Seed              uint64 // of this choice; the draw at output position p depends on (Seed, p) only
	Logprobs          int    // -1: none; k >= 0: the chosen token's and the k best
}

// Logprob is one token's log-probability under the raw logits (before penalties, temperature and filters).
type Logprob struct {
	Token   int32
	Logprob float64
}
