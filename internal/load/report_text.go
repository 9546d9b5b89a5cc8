package load

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// ParseGoal reads ttft:500, tpot:50 and e2e:5000 in milliseconds, as vLLM's --goodput; no parts are the Goal that every
// request meets.
func ParseGoal(parts []string) (Goal, error) {
	var g Goal
	for _, p := range parts {
		name, value, ok := strings.Cut(strings.TrimSpace(p), ":")
		d, err := time.ParseDuration(value + "ms")
		to := map[string]*time.Duration{"ttft": &g.TTFT, "tpot": &g.TPOT, "e2e": &g.Latency, "e2el": &g.Latency}[name]
		if !ok || err != nil || d <= 0 || to == nil {
			return g, fmt.Errorf("%q: write ttft:MS, tpot:MS or e2e:MS", p)
		}
		*to = d
	}
	return g, nil
}

// WriteText writes r as text.
func (r *Report) WriteText(w io.Writer) {
	fmt.Fprintf(w, "%d requests, %d failed, %.2f s: %.2f requests/s, goodput %.2f requests/s (%.0f %% good)\n",
		r.Requests, r.Failed, r.Seconds, r.RequestsPerSecond, r.Goodput, 100*r.GoodFraction)
	fmt.Fprintf(w, "tokens: %d in (%d cached), %d out; %.1f out/s (%.1f steady), %.1f in and out/s\n",
		r.PromptTokens, r.CachedTokens, r.OutputTokens, r.OutputPerSecond, r.SteadyPerSecond, r.TokensPerSecond)
	if r.ShortAnswers > 0 {
		fmt.Fprintf(w, "%d answers were shorter than asked for\n", r.ShortAnswers)
	}
	fmt.Fprintf(w, "%-6s %10s %10s %10s %10s %10s\n", "ms", "mean", "median", "p90", "p99", "max")
	for _, row := range []struct {
		name string
		s    Spread
	}{{"TTFT", r.TTFT}, {"TPOT", r.TPOT}, {"ITL", r.ITL}, {"E2E", r.E2E}} {
		fmt.Fprintf(w, "%-6s %10.2f %10.2f %10.2f %10.2f %10.2f\n", row.name, row.s.Mean, row.s.Median, row.s.P90,
			row.s.P99, row.s.Max)
	}
	if r.Adapters > 0 {
		fmt.Fprintf(w, "%d different adapters were asked for\n", r.Adapters)
	}
	for i, k := range r.Keys {
		fmt.Fprintf(w,
			"key %d: %d requests, %d failed, %.1f out/s, TTFT p99 %.2f ms, TPOT p99 %.2f ms, E2E median %.2f, p99 "+
				"%.2f ms\n",
			i, k.Requests, k.Failed, k.OutputPerSecond, k.TTFT.P99, k.TPOT.P99, k.E2E.Median, k.E2E.P99)
	}
}
