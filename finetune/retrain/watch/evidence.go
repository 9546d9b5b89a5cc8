package watch

import (
	"fmt"
	"math"
	"sort"

	"weft/internal/rng"
)

// ratios are how many times as high the odds of a bad conversation are in the hypotheses of the mixture.
var ratios = [...]float64{1.25, 1.5, 2, 3, 5, 10}

// raised is the probability whose odds are ratio times those of p.
func raised(p, ratio float64) float64 { return ratio * p / (ratio*p + 1 - p) }

// likelihood is the logarithm of how much more probable an event (or that it is absent) is under probability p than
// under the null hypothesis.
func likelihood(event bool, p, null float64) float64 {
	if event {
		return math.Log(p / null)
	}
	return math.Log1p(-p) - math.Log1p(-null)
}

// add counts an event, or its absence, that has at most the probability null where the challenger is not worse.
func (m *Metric) add(null float64, event bool, s *Settings) {
	if !(null > 0 && null < 1) {
		return // no rate is above it
	}
	for k, ratio := range ratios {
		m.Worse[k] += likelihood(event, raised(null, ratio), null)
	}
	m.Peak = max(m.Peak, mixture(&m.Worse))
	m.Safe += likelihood(event, null, raised(null, s.MaxRatio))
}

// remove takes back an absence that was counted too early.
func (m *Metric) remove(null float64, s *Settings) {
	if !(null > 0 && null < 1) {
		return
	}
	for k, ratio := range ratios {
		m.Worse[k] -= likelihood(false, raised(null, ratio), null)
	}
	m.Safe -= likelihood(false, null, raised(null, s.MaxRatio))
}

// mixture is the logarithm of the mean of the evidence under all ratios.
func mixture(logs *[len(ratios)]float64) float64 {
	highest := logs[0]
	for _, l := range logs {
		highest = max(highest, l)
	}
	sum := 0.0
	for _, l := range logs {
		sum += math.Exp(l - highest)
	}
	return highest + math.Log(sum/float64(len(logs)))
}

// upper is an upper bound of a rate of which bad of n events are known: with the probability level the rate is above it
// at any time, however often one looks (the mixture over all rates, Robbins 1970).
func upper(n, bad int, level float64) float64 {
	if n == 0 {
		return 1
	}
	bad = min(bad, n)
	beta := func(a, b float64) float64 {
		x, _ := math.Lgamma(a)
		y, _ := math.Lgamma(b)
		z, _ := math.Lgamma(a + b)
		return x + y - z
	}
	top := beta(float64(bad+1), float64(n-bad+1))
	low, high := float64(bad)/float64(n), 1.0
	for range 60 {
		p := (low + high) / 2
		if top-float64(bad)*math.Log(p)-float64(n-bad)*math.Log1p(-p) < math.Log(1/level) {
			low = p
		} else {
			high = p
		}
	}
	return high
}

// Worsening is the smallest worsening that the traffic of a watch would have shown in four of five such watches.
type Worsening struct {
	Metric string   `json:"metric"`
	Before float64  `json:"before"` // estimate of the champion's rate of bad conversations
	After  *float64 `json:"after"`  // the rate that would have been rolled back; null where none would
}

// String is a clause for the page of a watch.
func (d Worsening) String() string {
	if d.After == nil {
		return fmt.Sprintf("the traffic could have shown no worsening of %s", d.Metric)
	}
	return fmt.Sprintf("the traffic could have shown %s that rise from %.1f %% to %.1f %% of the conversations",
		d.Metric, 100*d.Before, 100**d.After)
}

const (
	runs   = 300  // simulated watches
	enough = 0.8  // fraction of them that must roll back
	events = 5000 // bad conversations of a watch that are simulated at most
)

// Detectable computes the worsening by simulation, over the stages in which both arms had conversations.
func (w *State) Detectable(metric int) Worsening {
	all := w.totals()
	bad := w.Metrics[metric].totals()
	d := Worsening{Metric: names[metric], Before: (float64(bad[Champion]) + 0.5) / (float64(all[Champion]) + 1)}
	const steps = 200
	at := sort.Search(steps, func(i int) bool {
		after := d.Before + (1-d.Before)*float64(i+1)/steps
		return w.power(d.Before, after) >= enough
	})
	if at < steps {
		after := d.Before + (1-d.Before)*float64(at+1)/steps
		d.After = &after
	}
	return d
}

// power is the fraction of watches with the conversations of this one that roll back where the rates are as given.
func (w *State) power(before, after float64) float64 {
	source, found := rng.New(1), 0
	limit := math.Log(1 / w.testLevel())
	for range runs {
		var m Metric
		left := events
		for k, stage := range w.Stages {
			q := stage.Fraction
			if q == 1 || m.Peak >= limit {
				break
			}
			rate := q*after + (1-q)*before
			n := w.Conversations[k][Champion] + w.Conversations[k][Challenger]
			for at := gap(source, rate); at < float64(n) && left > 0 && m.Peak < limit; at += 1 + gap(source, rate) {
				m.add(q, source.Float64() < q*after/rate, &w.Settings)
				left--
			}
		}
		if m.Peak >= limit {
			found++
		}
	}
	return float64(found) / runs
}

// gap is the number of good conversations before the next bad one.
func gap(source *rng.Source, rate float64) float64 {
	if rate >= 1 {
		return 0
	}
	return math.Floor(math.Log1p(-source.Float64()) / math.Log1p(-rate))
}
