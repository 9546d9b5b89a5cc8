package load

import (
	"math"
	"slices"
	"time"
)

// Spread summarizes durations in milliseconds; percentiles are interpolated between the closest ranks.
type Spread struct {
	Mean   float64 `json:"mean"`
	Median float64 `json:"median"`
	P90    float64 `json:"p90"`
	P99    float64 `json:"p99"`
	Max    float64 `json:"max"`
}

// Goal is a service level objective: a request is good where it meets each goal that is set.
type Goal struct{ TTFT, TPOT, Latency time.Duration }

func (g Goal) met(o *Outcome) bool {
	return (g.TTFT == 0 || o.TTFT <= g.TTFT) && (g.TPOT == 0 || o.TPOT() <= g.TPOT) &&
		(g.Latency == 0 || o.Latency <= g.Latency)
}

// Report is a run in vLLM's terms: TTFT to the first token, TPOT per output token after it (one value a request), ITL
// between successive chunks, goodput as requests a second that met the goal.
type Report struct {
	Requests          int     `json:"requests"`
	Failed            int     `json:"failed"`
	FirstError        string  `json:"first_error,omitempty"`
	Seconds           float64 `json:"seconds"`
	PromptTokens      int     `json:"prompt_tokens"`
	CachedTokens      int     `json:"cached_tokens"`
	OutputTokens      int     `json:"output_tokens"`
	ShortAnswers      int     `json:"short_answers"` // answers with fewer tokens than requested
	RequestsPerSecond float64 `json:"requests_per_second"`
	OutputPerSecond   float64 `json:"output_tokens_per_second"`
	// SteadyPerSecond counts the middle 80 % of all chunks: without ramp-up and tail.
	SteadyPerSecond float64 `json:"steady_output_tokens_per_second"`
	TokensPerSecond float64 `json:"total_tokens_per_second"`
	Goodput         float64 `json:"goodput_requests_per_second"`
	GoodFraction    float64 `json:"good_share"`
	TTFT            Spread  `json:"ttft_ms"`
	TPOT            Spread  `json:"tpot_ms"`
	ITL             Spread  `json:"itl_ms"`
	E2E             Spread  `json:"e2e_ms"`
	Adapters        int     `json:"adapters,omitempty"` // distinct ones that were asked for
	Keys            []Key   `json:"keys,omitempty"`     // where there were several, by number
}

// Key is the part of a run that used one API key.
type Key struct {
	Requests        int     `json:"requests"`
	Failed          int     `json:"failed"`
	OutputTokens    int     `json:"output_tokens"`
	OutputPerSecond float64 `json:"output_tokens_per_second"`
	TTFT            Spread  `json:"ttft_ms"`
	TPOT            Spread  `json:"tpot_ms"`
	E2E             Spread  `json:"e2e_ms"`
}

// Summarize makes the report of a run that took the given time.
func Summarize(outcomes []Outcome, took time.Duration, goal Goal) Report {
	r := Report{Requests: len(outcomes), Seconds: took.Seconds()}
	var ttft, tpot, itl, e2e []time.Duration
	var stamps []time.Time
	good := 0
	for i := range outcomes {
		o := &outcomes[i]
		if o.Err != nil {
			if r.Failed++; r.FirstError == "" {
				r.FirstError = o.Err.Error()
			}
			continue
		}
		r.PromptTokens, r.CachedTokens, r.OutputTokens = r.PromptTokens+o.PromptTokens, r.CachedTokens+o.Cached,
			r.OutputTokens+o.OutputTokens
		ttft, itl, e2e = append(ttft, o.TTFT), append(itl, o.ITL...), append(e2e, o.Latency)
		if o.OutputTokens > 1 {
			tpot = append(tpot, o.TPOT())
		}
		if o.OutputTokens < o.wantOutput {
			r.ShortAnswers++
		}
		if goal.met(o) {
			good++
		}
		at := o.firstChunk
		stamps = append(stamps, at)
		for _, d := range o.ITL {
			at = at.Add(d)
			stamps = append(stamps, at)
		}
	}
	r.TTFT, r.TPOT, r.ITL, r.E2E = spread(ttft), spread(tpot), spread(itl), spread(e2e)
	if s := r.Seconds; s > 0 {
		r.RequestsPerSecond, r.Goodput = float64(r.Requests-r.Failed)/s, float64(good)/s
		r.OutputPerSecond, r.TokensPerSecond = float64(r.OutputTokens)/s, float64(r.OutputTokens+r.PromptTokens)/s
	}
	r.GoodFraction = float64(good) / float64(max(r.Requests, 1))
	r.SteadyPerSecond = steady(stamps, r.OutputTokens)
	r.Adapters, r.Keys = distinct(outcomes), byKey(outcomes, r.Seconds)
	return r
}

// distinct counts the adapters that were requested; each key has its own.
func distinct(outcomes []Outcome) int {
	seen := map[[2]int]bool{}
	for i := range outcomes {
		if o := &outcomes[i]; o.Adapter >= 0 {
			seen[[2]int{o.Key, o.Adapter}] = true
		}
	}
	return len(seen)
}

// byKey returns the parts of a run with several keys.
func byKey(outcomes []Outcome, seconds float64) []Key {
	n := 0
	for i := range outcomes {
		n = max(n, outcomes[i].Key+1)
	}
	if n < 2 {
		return nil
	}
	keys := make([]Key, n)
	ttft, tpot, e2e := make([][]time.Duration, n), make([][]time.Duration, n), make([][]time.Duration, n)
	for i := range outcomes {
		o := &outcomes[i]
		k := &keys[o.Key]
		if k.Requests++; o.Err != nil {
			k.Failed++
			continue
		}
		k.OutputTokens += o.OutputTokens
		ttft[o.Key], e2e[o.Key] = append(ttft[o.Key], o.TTFT), append(e2e[o.Key], o.Latency)
		if o.OutputTokens > 1 {
			tpot[o.Key] = append(tpot[o.Key], o.TPOT())
		}
	}
	for i := range keys {
		k := &keys[i]
		k.TTFT, k.TPOT, k.E2E = spread(ttft[i]), spread(tpot[i]), spread(e2e[i])
		if seconds > 0 {
			k.OutputPerSecond = float64(k.OutputTokens) / seconds
		}
	}
	return keys
}

func steady(stamps []time.Time, tokens int) float64 {
	if len(stamps) < 100 {
		return 0
	}
	slices.SortFunc(stamps, time.Time.Compare)
	lo, hi := len(stamps)/10, len(stamps)*9/10
	perChunk := float64(tokens) / float64(len(stamps))
	return float64(hi-lo) * perChunk / stamps[hi].Sub(stamps[lo]).Seconds()
}

func spread(d []time.Duration) Spread {
	if len(d) == 0 {
		return Spread{}
	}
	slices.Sort(d)
	var sum time.Duration
	for _, v := range d {
		sum += v
	}
	ms := func(d float64) float64 { return math.Round(d/1e3) / 1e3 }
	return Spread{Mean: ms(float64(sum) / float64(len(d))), Median: ms(Percentile(d, 50)), P90: ms(Percentile(d, 90)),
		P99: ms(Percentile(d, 99)), Max: ms(float64(d[len(d)-1]))}
}

// Percentile of an ascending slice, in nanoseconds.
func Percentile(sorted []time.Duration, p float64) float64 {
	k := float64(len(sorted)-1) * p / 100
	lo := int(k)
	hi := min(lo+1, len(sorted)-1)
	return float64(sorted[lo]) + float64(sorted[hi]-sorted[lo])*(k-float64(lo))
}
