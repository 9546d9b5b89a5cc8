// Package watch rolls a new version of an adapter out in stages, and rolls it back where conversations with it go bad
// more often than with the version before. It is a state machine that stands in JSON between calls: it reads no clock
// and keeps no conversation.
//
// A stage gives a fraction of the new conversations to the challenger, by a keyed hash. Under the hypothesis that the
// challenger is not worse, a conversation that went bad was one of the challenger's with at most that probability,
// whatever the rate is and however it changes over the day. The test is a mixture of likelihood ratios of that
// probability (Robbins 1970, "Statistical Methods Related to the Law of the Iterated Logarithm"; over counts of arms:
// Lindon and Malek 2022, "Anytime-Valid Inference for Multinomial Count Data"). By Ville's inequality it may be looked
// at after every event.
package watch

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// Arms of a conversation.
const (
	Champion   = 0
	Challenger = 1
)

// What makes a conversation bad.
const (
	Feedback = 0 // an answer of it was rated badly
	Errors   = 1 // a request of it failed
)

var names = [...]string{Feedback: "bad feedback", Errors: "errors"}

// Outcomes. While the watch runs the outcome is empty.
const (
	Complete   = "complete"    // the challenger serves all conversations
	RolledBack = "rolled_back" // it serves none, and is rejected for good
)

// Stage is a fraction of the new conversations, until a deadline.
type Stage struct {
	Fraction float64       `json:"fraction"`
	Deadline time.Duration `json:"deadline"` // nanoseconds; 0 ends the watch when the stage is reached
}

// Settings are a tenant's settings of the watch.
type Settings struct {
	Stages []Stage `json:"stages"`
	// Small are the stages of tenants whose traffic does not bring Fill conversations to the challenger in the first
	// of Stages before its deadline.
	Small []Stage `json:"small"`
	Fill  int     `json:"fill"`
	Alpha float64 `json:"alpha"` // probability that a version that is not worse is rolled back, over the whole watch
	// A stage ends before its deadline where it is shown for both feedback and errors, with 1-Alpha, that the odds of a
	// bad conversation are not MaxRatio times as high, or that its rate is below MaxRate; but not before Least.
	MaxRatio float64       `json:"max_ratio"`
	MaxRate  float64       `json:"max_rate"`
	Least    time.Duration `json:"least"`
}

const day = 24 * time.Hour

// Defaults are the settings of a tenant that sets none.
func Defaults() Settings {
	return Settings{
		Stages: []Stage{{0.1, 3 * day}, {0.5, 3 * day}, {1, 3 * day}},
		Small:  []Stage{{0.5, 7 * day}, {1, 0}},
		Fill:   100, Alpha: 0.05, MaxRatio: 2, MaxRate: 0.02, Least: time.Hour,
	}
}

// ErrSettings is of settings that cannot be used.
var ErrSettings = errors.New("settings of the watch")

func (s *Settings) check() error {
	for name, list := range map[string][]Stage{"stages": s.Stages, "small": s.Small} {
		last := 0.0
		for _, stage := range list {
			if !(stage.Fraction > last && stage.Fraction <= 1) || stage.Deadline < 0 {
				return fmt.Errorf("%w: %s has the fraction %v after %v, until %v: give rising fractions up to 1",
					ErrSettings, name, stage.Fraction, last, stage.Deadline)
			}
			last = stage.Fraction
		}
		if last != 1 {
			return fmt.Errorf("%w: %s ends at the fraction %v: end with 1", ErrSettings, name, last)
		}
	}
	switch {
	case !(s.Alpha > 0 && s.Alpha < 0.5):
		return fmt.Errorf("%w: alpha is %v: give a probability above 0 and below 0.5", ErrSettings, s.Alpha)
	case !(s.MaxRatio > 1) || math.IsInf(s.MaxRatio, 0):
		return fmt.Errorf("%w: max_ratio is %v: give a number above 1", ErrSettings, s.MaxRatio)
	case !(s.MaxRate >= 0 && s.MaxRate < 1):
		return fmt.Errorf("%w: max_rate is %v: give a rate from 0 to below 1", ErrSettings, s.MaxRate)
	case s.Fill < 0 || s.Least < 0:
		return fmt.Errorf("%w: fill is %d and least %v: give numbers that are not negative", ErrSettings, s.Fill,
			s.Least)
	}
	return nil
}

// State is a running or finished watch. It is stored as JSON.
type State struct {
	Settings Settings  `json:"settings"`
	Stages   []Stage   `json:"stages"` // those of Settings that apply
	Stage    int       `json:"stage"`  // index of Stages
	Since    time.Time `json:"since"`  // when the stage began
	Outcome  string    `json:"outcome,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	// Conversations are those that began, by stage and arm.
	Conversations [][2]int  `json:"conversations"`
	Metrics       [2]Metric `json:"metrics"`
}

// Metric is what is known of one kind of bad conversation.
type Metric struct {
	Bad [][2]int `json:"bad"` // conversations that went bad, by the stage in which they began and by arm
	// Worse is the logarithm of the evidence that the challenger is worse, by the ratios of the mixture; Peak is the
	// highest that the mixture was.
	Worse [len(ratios)]float64 `json:"worse"`
	Peak  float64              `json:"peak"`
	// Safe is the logarithm of the evidence in this stage that its odds are not Settings.MaxRatio times as high.
	Safe float64 `json:"safe"`
	// Ceiling is an upper bound of the champion's rate, with which the challenger is compared where no conversation is
	// left to the champion.
	Ceiling float64 `json:"ceiling"`
}

// New begins a watch of a tenant that has so many new conversations a day.
func New(s Settings, perDay float64, now time.Time) (*State, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	w := &State{Settings: s, Stages: s.Stages}
	first := s.Stages[0]
	if days := first.Deadline.Hours() / 24; !(perDay*first.Fraction*days >= float64(s.Fill)) {
		w.Stages = s.Small
	}
	w.Conversations = make([][2]int, len(w.Stages))
	for m := range w.Metrics {
		w.Metrics[m].Bad = make([][2]int, len(w.Stages))
	}
	w.enter(0, now)
	return w, nil
}

// Arm chooses the arm of a new conversation. The caller remembers it with the stage for the conversation's later turns.
func (w *State) Arm(key []byte, version, conversation string) int {
	if w.Outcome == RolledBack {
		return Champion
	}
	if w.Outcome == Complete {
		return Challenger
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(version + "\x00" + conversation)) // a hash returns no error
	if float64(binary.LittleEndian.Uint64(mac.Sum(nil))>>11)*0x1p-53 < w.Stages[w.Stage].Fraction {
		return Challenger
	}
	return Champion
}

// Begin counts a conversation that began in the current stage.
func (w *State) Begin(arm int) {
	if w.Outcome != "" {
		return
	}
	w.Conversations[w.Stage][arm]++
	if w.Stages[w.Stage].Fraction == 1 && arm == Challenger {
		for m := range w.Metrics {
			w.Metrics[m].add(w.Metrics[m].Ceiling, false, &w.Settings)
		}
	}
}

// Bad counts a conversation that went bad: once for each metric. The stage is the one in which it began.
func (w *State) Bad(arm, stage, metric int) {
	if w.Outcome != "" || stage < 0 || stage >= len(w.Stages) {
		return
	}
	m := &w.Metrics[metric]
	m.Bad[stage][arm]++
	if q := w.Stages[stage].Fraction; q < 1 {
		m.add(q, arm == Challenger, &w.Settings)
		return
	}
	if arm == Challenger { // Begin counted it as a good one
		m.remove(m.Ceiling, &w.Settings)
		m.add(m.Ceiling, true, &w.Settings)
	}
}

// Advance rolls back, or ends the stage, where it is time for that; it reports whether anything changed. A clock that
// jumps ends one stage at most.
func (w *State) Advance(now time.Time) (changed bool) {
	if w.Outcome != "" {
		return false
	}
	for m := range w.Metrics {
		if w.Metrics[m].Peak >= math.Log(1/w.testLevel()) {
			bad, all := w.Metrics[m].totals(), w.totals()
			w.RollBack(fmt.Sprintf("%s in %d of %d conversations with the new version, in %d of %d with the one before",
				names[m], bad[Challenger], all[Challenger], bad[Champion], all[Champion]))
			return true
		}
	}
	stage := w.Stages[w.Stage]
	lasted := now.Sub(w.Since)
	if lasted < stage.Deadline && !(lasted >= w.Settings.Least && w.safe()) {
		return false
	}
	if w.Stage+1 < len(w.Stages) {
		w.enter(w.Stage+1, now)
	} else {
		w.complete()
	}
	return true
}

// RollBack ends the watch, as an operator may.
func (w *State) RollBack(reason string) {
	if w.Outcome == "" {
		w.Outcome, w.Reason = RolledBack, reason
	}
}

func (w *State) complete() { w.Outcome, w.Reason = Complete, "no worsening was shown" }

func (w *State) enter(stage int, now time.Time) {
	w.Stage, w.Since = stage, now
	all := w.totals()
	for m := range w.Metrics {
		w.Metrics[m].Safe = 0
		if w.Stages[stage].Fraction == 1 {
			w.Metrics[m].Ceiling = upper(all[Champion], w.Metrics[m].totals()[Champion], w.ceilingLevel())
		}
	}
	if w.Stages[stage].Fraction == 1 && w.Stages[stage].Deadline == 0 {
		w.complete()
	}
}

func (w *State) totals() [2]int  { return total(w.Conversations) }
func (m *Metric) totals() [2]int { return total(m.Bad) }

func total(list [][2]int) (sum [2]int) {
	for _, n := range list {
		sum[0], sum[1] = sum[0]+n[0], sum[1]+n[1]
	}
	return sum
}

// The probability of a wrong rollback is divided evenly between the metrics; a fifth of each is for the champion's rate
// to be above its ceiling.
func (w *State) testLevel() float64    { return w.Settings.Alpha / float64(len(names)) * 0.8 }
func (w *State) ceilingLevel() float64 { return w.Settings.Alpha / float64(len(names)) * 0.2 }

// safe says whether the stage has shown enough to end before its deadline.
func (w *State) safe() bool {
	level := w.Settings.Alpha / float64(len(names))
	for m := range w.Metrics {
		n, bad := w.Conversations[w.Stage][Challenger], w.Metrics[m].Bad[w.Stage][Challenger]
		if w.Metrics[m].Safe < math.Log(1/level) && upper(n, bad, level) > w.Settings.MaxRate {
			return false
		}
	}
	return true
}
