// Package gate decides whether a newly trained adapter, the challenger, replaces the one that serves, the champion. It
// is a function of numbers that were measured the same night: it reads no file, no clock and no model.
//
// One metric must show a gain: the loss on held-out conversations, by a one-sided sign-flip test over conversations and
// a minimum gain. Every other rule is a limit that the challenger must not exceed.
package gate

import (
	"errors"
	"fmt"
	"math"
)

// Sources of a held-out conversation.
const (
	Demonstration = "demonstration" // an answer that a person wrote
	Rated         = "rated"         // an answer of the server that was rated well
)

// Conversation is a held-out conversation with the summed loss of its target tokens, in nats.
type Conversation struct {
	ID         string  `json:"id"`
	User       string  `json:"user"`
	Source     string  `json:"source"`
	Tokens     int     `json:"tokens"`
	Challenger float64 `json:"challenger"`
	Champion   float64 `json:"champion"`
}

// Probe is a text of the general probe, which no tenant wrote.
type Probe struct {
	Tokens     int     `json:"tokens"`
	Challenger float64 `json:"challenger"`
	Champion   float64 `json:"champion"`
}

// Answer is what both models generated for one held-out prompt.
type Answer struct {
	Challenger Generated `json:"challenger"`
	Champion   Generated `json:"champion"`
}

// Generated describes a generated answer.
type Generated struct {
	Ended   bool `json:"ended"` // by the end of turn, before the limit of tokens
	Tokens  int  `json:"tokens"`
	Repeats bool `json:"repeats"` // it runs in a loop
}

// Check is the result of one of the tenant's rules for one answer.
type Check struct {
	Name       string `json:"name"`
	Challenger bool   `json:"challenger"` // passed
	Champion   bool   `json:"champion"`
}

// Memorized is a text of the training data that the challenger repeated verbatim.
type Memorized struct {
	Sample string `json:"sample"`
	Tokens int    `json:"tokens"` // of the longest verbatim run
	Users  int    `json:"users"`  // whose conversations have the run
}

// Night is what was measured.
type Night struct {
	HeldOut   []Conversation `json:"held_out"`
	Version   string         `json:"held_out_version"` // of the held-out set
	Training  int            `json:"training"`         // conversations that the challenger was trained on
	General   []Probe        `json:"general"`
	Answers   []Answer       `json:"answers"`
	Checks    []Check        `json:"checks"` // none if the tenant has no rules
	Probed    int            `json:"probed"` // training samples whose start was completed, to find what was memorized
	Memorized []Memorized    `json:"memorized"`
	// Parity is the largest difference between a log-probability of the trainer and of the server, over Compared
	// tokens.
	Parity   float64 `json:"parity"`
	Compared int     `json:"compared"`
	// Finite says that every weight of the challenger is a finite number.
	Finite bool `json:"finite"`
	// Leaked names held-out samples that are equal or near to one for training.
	Leaked []string `json:"leaked"`
	// Base is the digest of the base that serves, TrainedOn that of the base on which the challenger was trained.
	Base      string `json:"base"`
	TrainedOn string `json:"trained_on"`
	// Replacement says that the champion must go because a person is to be forgotten: then no gain is demanded, and the
	// loss must not be worse.
	Replacement bool   `json:"replacement"`
	Seed        uint64 `json:"seed"` // of the drawn exchanges and resamples
}

// Settings are a tenant's limits.
type Settings struct {
	MinHeldOut  int     `json:"min_held_out"` // conversations
	MinUsers    int     `json:"min_users"`    // of held-out conversations
	MinTraining int     `json:"min_training"` // conversations
	Alpha       float64 `json:"alpha"`        // of the one-sided test
	MinGain     float64 `json:"min_gain"`     // fraction of the champion's loss
	MaxLoss     float64 `json:"max_loss"`     // how much the loss of a replacement may rise, as a fraction
	MaxGeneral  float64 `json:"max_general"`  // how much the loss of the general probe may rise, as a fraction
	MaxEnd      float64 `json:"max_end"`      // how much the rate of answers that end may fall
	MinLength   float64 `json:"min_length"`   // length of the answers to that of the champion's
	MaxLength   float64 `json:"max_length"`   //
	MaxRepeats  float64 `json:"max_repeats"`  // how much the rate of answers that repeat may rise
	MaxChecks   float64 `json:"max_checks"`   // how much the rate of checks that pass may fall
	MaxVerbatim int     `json:"max_verbatim"` // tokens of a single user's text that may be repeated
	MaxParity   float64 `json:"max_parity"`   // difference of a log-probability
	Resamples   int     `json:"resamples"`    // of the intervals
}

// Defaults are the limits of a tenant that sets none.
func Defaults() Settings {
	return Settings{MinHeldOut: 10, MinUsers: 3, MinTraining: 40, Alpha: 0.01, MinGain: 0.01, MaxLoss: 0.05,
		MaxGeneral: 0.02, MaxEnd: 0.05, MinLength: 0.5, MaxLength: 2, MaxRepeats: 0.05, MaxChecks: 0.02,
		MaxVerbatim: 49, MaxParity: 0.05, Resamples: 1000}
}

// Errors of Judge.
var (
	ErrSettings = errors.New("settings of the gate")
	ErrNight    = errors.New("measurements of the night")
)

func (s *Settings) check() error {
	fraction := func(name string, v float64) error {
		if !(v >= 0 && v < 1) {
			return fmt.Errorf("%w: %s is %v: give a fraction from 0 to below 1", ErrSettings, name, v)
		}
		return nil
	}
	err := errors.Join(fraction("min_gain", s.MinGain), fraction("max_loss", s.MaxLoss),
		fraction("max_general", s.MaxGeneral), fraction("max_end", s.MaxEnd), fraction("max_repeats", s.MaxRepeats),
		fraction("max_checks", s.MaxChecks))
	switch {
	case err != nil:
		return err
	case !(s.Alpha > 0 && s.Alpha <= 0.5):
		return fmt.Errorf("%w: alpha is %v: give a probability above 0, at most 0.5", ErrSettings, s.Alpha)
	case s.MinHeldOut < 1 || s.MinUsers < 1 || s.MinTraining < 1:
		return fmt.Errorf("%w: min_held_out, min_users and min_training are %d, %d and %d: give at least 1",
			ErrSettings, s.MinHeldOut, s.MinUsers, s.MinTraining)
	case !(s.MinLength >= 0 && s.MinLength < s.MaxLength) || math.IsInf(s.MaxLength, 0):
		return fmt.Errorf("%w: min_length is %v and max_length %v: give two ratios, the lower one first", ErrSettings,
			s.MinLength, s.MaxLength)
	case s.MaxVerbatim < 0 || !(s.MaxParity >= 0):
		return fmt.Errorf("%w: max_verbatim is %d and max_parity %v: give numbers that are not negative",
			ErrSettings, s.MaxVerbatim, s.MaxParity)
	case s.Resamples < 100 || s.Resamples > 100_000:
		return fmt.Errorf("%w: resamples is %d: give 100 to 100000", ErrSettings, s.Resamples)
	}
	return nil
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// check refuses measurements that cannot be paired, or that a broken champion made. A challenger's numbers may be
// anything: that is what the gate is for.
func (n *Night) check() error {
	seen, all := map[string]bool{}, 0.0
	for _, c := range n.HeldOut {
		switch {
		case c.ID == "" || seen[c.ID]:
			return fmt.Errorf("%w: held-out conversation %q is empty or stands twice", ErrNight, c.ID)
		case c.User == "":
			return fmt.Errorf("%w: held-out conversation %q has no user", ErrNight, c.ID)
		case c.Source != Demonstration && c.Source != Rated:
			return fmt.Errorf("%w: held-out conversation %q: source %q is neither %s nor %s", ErrNight, c.ID, c.Source,
				Demonstration, Rated)
		case c.Tokens < 1 || !finite(c.Champion) || c.Champion < 0:
			return fmt.Errorf("%w: held-out conversation %q: the champion's loss is %v over %d tokens", ErrNight, c.ID,
				c.Champion, c.Tokens)
		}
		seen[c.ID] = true
		all += c.Champion
	}
	if len(n.HeldOut) > 0 && all == 0 {
		return fmt.Errorf("%w: the champion's loss on all held-out conversations is 0: no gain is possible", ErrNight)
	}
	for i, p := range n.General {
		if p.Tokens < 1 || !finite(p.Champion) || p.Champion <= 0 {
			return fmt.Errorf("%w: text %d of the general probe: the champion's loss is %v over %d tokens", ErrNight,
				i+1, p.Champion, p.Tokens)
		}
	}
	for i, a := range n.Answers {
		if a.Challenger.Tokens < 0 || a.Champion.Tokens < 0 {
			return fmt.Errorf("%w: answer %d has a negative length", ErrNight, i+1)
		}
	}
	return nil
}
