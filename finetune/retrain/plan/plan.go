// Package plan chooses what a night trains on and what it is judged by, from a tenant's records. It is a function of
// the records up to a sequence number, whatever their order.
package plan

import (
	"errors"
	"fmt"
)

// Message is a message of a conversation.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Answer is a choice that the server generated.
type Answer struct {
	Text   string
	Finish string // "stop" where it ended by itself
}

// Feedback is feedback on a choice of a record.
type Feedback struct {
	Seq           uint64
	Choice        int
	Rating        *float64 // from 0 to 1
	Demonstration string   // the answer as a person would have written it
}

// Record is a request with its answers and feedback.
type Record struct {
	ID, Conversation, User string
	Adapter                string // digest of the version that answered; "" is the base
	Seq                    uint64
	Night                  int // number of the night after which it was recorded
	Messages               []Message
	Answers                []Answer
	Feedback               []Feedback
}

// General is a sample of the general set, which no tenant wrote.
type General struct {
	ID       string
	Messages []Message // the assistant's are targets
}

// Options are a tenant's settings and the state that nights hand on.
type Options struct {
	Seed     uint64   `json:"seed"`     // of the tenant: it never changes
	Until    uint64   `json:"until"`    // records and feedback above this sequence number are not read
	Since    uint64   `json:"since"`    // samples up to this sequence number were trained on before: they are replayed
	Night    int      `json:"night"`    // number of this night
	Adapters []string `json:"adapters"` // versions of the trained name, beside the base
	Small    uint64   `json:"small"`    // Manifest.Small of the night before; 0 at first
	Frozen   uint64   `json:"frozen"`   // Manifest.Frozen of the night before; 0 at first

	MinRating float64 `json:"min_rating"` // from which an answer is rated well
	MaxRepeat float64 `json:"max_repeat"` // fraction of an answer's 4-grams that repeat earlier ones
	MinChars  int     `json:"min_chars"`  // of a target
	MaxChars  int     `json:"max_chars"`  // of a sample
	Threshold float64 `json:"threshold"`  // Jaccard index of near duplicates
	PerUser   int     `json:"per_user"`   // samples of a user on a side that are never too many
	MaxUser   float64 `json:"max_user"`   // fraction of a side that a user may have above PerUser
	Rolling   int     `json:"rolling"`    // nights of the rolling held-out part
	Replay    float64 `json:"replay"`     // samples of earlier nights for each new one
	General   float64 `json:"general"`    // general samples for each of the tenant's
}

// Defaults are the settings of a tenant that sets none.
func Defaults() Options {
	return Options{MinRating: 0.75, MaxRepeat: 0.5, MinChars: 1, MaxChars: 100_000, Threshold: 0.8, PerUser: 10,
		MaxUser: 0.2, Rolling: 30, Replay: 1, General: 0.25}
}

// The fraction of conversations that is held out is larger while records are few.
const (
	few         = 200
	heldFew     = 0.2
	heldMany    = 0.1
	frozenLeast = 10 // held-out conversations from which on those so far are the frozen part
)

// Errors of Make.
var (
	ErrOptions = errors.New("options of the plan")
	ErrRecords = errors.New("records of the plan")
)

func (o *Options) check() error {
	for name, v := range map[string]float64{"min_rating": o.MinRating, "max_repeat": o.MaxRepeat,
		"max_user": o.MaxUser} {
		if !(v >= 0 && v <= 1) {
			return fmt.Errorf("%w: %s is %v: give a number from 0 to 1", ErrOptions, name, v)
		}
	}
	for name, v := range map[string]float64{"replay": o.Replay, "general": o.General} {
		if !(v >= 0 && v <= 1000) {
			return fmt.Errorf("%w: %s is %v: give a ratio from 0 to 1000", ErrOptions, name, v)
		}
	}
	if o.MinChars < 0 || o.MaxChars < o.MinChars || o.PerUser < 1 || o.Rolling < 1 {
		return fmt.Errorf("%w: min_chars %d, max_chars %d, per_user %d, rolling %d: give positive numbers", ErrOptions,
			o.MinChars, o.MaxChars, o.PerUser, o.Rolling)
	}
	return nil
}

// Sides and parts of a sample.
const (
	Train   = "train"
	HeldOut = "held_out"

	New     = "new"     // of this night, for training
	Replay  = "replay"  // of an earlier night, for training
	Common  = "general" // of the general set, for training
	Frozen  = "frozen"  // held out for good
	Rolling = "rolling" // held out, of the last nights
)

// Kinds of a target.
const (
	Demonstration = "demonstration"
	Rated         = "rated"
)

// Reasons why a conversation or a general sample is not used.
const (
	NoUser      = "no_user"      // it could not be forgotten
	OtherModel  = "other_model"  // no answer is of the trained name or the base
	NotRated    = "not_rated"    // no answer was rated well, and there is no demonstration
	Truncated   = "truncated"    // the answer did not end by itself
	Loop        = "loop"         // the answer repeats itself
	Length      = "length"       // the answer is too short, or the sample too long
	OfHeldOut   = "of_held_out"  // equal or near to a held-out sample
	Duplicate   = "duplicate"    // equal or near to another sample of its side
	AboveUser   = "above_user"   // more than its user may have
	Expired     = "expired"      // held out before the nights of the rolling part
	Unusable    = "unusable"     // its messages make no sample
	NotReplayed = "not_replayed" // of an earlier night, beyond the ratio
)

// Sample is a chosen sample: one line of JSON in the format of conversations, and where it came from.
type Sample struct {
	Line         []byte `json:"-"`
	Digest       string `json:"digest"` // SHA-256 of the line
	Side         string `json:"side"`
	Part         string `json:"part"`
	Kind         string `json:"kind,omitempty"` // of the last target
	Conversation string `json:"conversation,omitempty"`
	Record       string `json:"record"` // id of the record, or of the general sample
	Choice       int    `json:"choice"`
	User         string `json:"user,omitempty"`
	Seq          uint64 `json:"seq,omitempty"`
	Targets      int    `json:"targets"` // messages whose weight is not 0
}

// Dropped is a conversation, or a general sample, that is not used.
type Dropped struct {
	Conversation string `json:"conversation,omitempty"`
	Record       string `json:"record"`
	Side         string `json:"side"`
	Reason       string `json:"reason"`
	Of           string `json:"of,omitempty"` // record of the sample that it repeats
}

// Manifest says where every sample came from and why the others are not there.
type Manifest struct {
	Options Options        `json:"options"`
	Records int            `json:"records"` // that were read
	Small   uint64         `json:"small"`   // the sequence number up to which more is held out; 0 while all are
	Frozen  uint64         `json:"frozen"`  // the sequence number up to which held-out ones are the frozen part
	Held    string         `json:"held_out_version"`
	Train   []Sample       `json:"train"`
	HeldOut []Sample       `json:"held_out"`
	Dropped []Dropped      `json:"dropped"`
	Counts  map[string]int `json:"counts"` // of samples by part, and of dropped ones by reason
}
