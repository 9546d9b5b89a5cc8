// Package schedule says when a tenant's nights begin: a cron expression in the time of a zone. It reads no clock.
//
// The expression is evaluated over the hands of a clock, and each of its times is then looked up in the zone: one that
// the zone skips is replaced by the first one behind the gap, and one that the zone repeats counts once, at its first
// occurrence.
package schedule

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // zones where the machine has none

	"github.com/robfig/cron/v3"
)

// ErrExpression is of an expression or zone that cannot be used.
var ErrExpression = errors.New("schedule")

// Schedule is the times at which nights begin.
type Schedule struct {
	hands cron.Schedule // evaluated in UTC
	zone  *time.Location
}

var parser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// maxExpression bounds what is parsed.
const maxExpression = 256

// Parse reads a cron expression of five fields, or a name such as @daily, in the time of a zone of the IANA database.
// An empty zone is UTC.
func Parse(expression, zone string) (*Schedule, error) {
	refuse := func(why string) (*Schedule, error) {
		return nil, fmt.Errorf("%w: %.80q: %s; give five fields (minute, hour, day of the month, month, day of the "+
			"week) or a name, e.g. \"0 2 * * *\" or @daily", ErrExpression, expression, why)
	}
	switch {
	case len(expression) > maxExpression:
		return refuse(fmt.Sprintf("more than %d characters", maxExpression))
	case strings.Contains(expression, "="):
		return refuse("the zone is a setting of its own")
	case strings.HasPrefix(expression, "@every"):
		return refuse("an interval has no time of day")
	case zone == "Local":
		return nil, fmt.Errorf("%w: zone Local is another one on each machine: give one such as Europe/Berlin",
			ErrExpression)
	}
	location, err := time.LoadLocation(zone)
	if err != nil {
		return nil, fmt.Errorf("%w: zone %.80q: %w; give one such as Europe/Berlin or UTC", ErrExpression, zone, err)
	}
	hands, err := parser.Parse(expression)
	if err != nil {
		return refuse(err.Error())
	}
	s := &Schedule{hands, location}
	if s.hands.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return refuse("no date has it")
	}
	return s, nil
}

// Next is the first time after another one.
func (s *Schedule) Next(after time.Time) time.Time {
	local := after.In(s.zone)
	hands := time.Date(local.Year(), local.Month(), local.Day(), local.Hour(), local.Minute(), local.Second(), 0,
		time.UTC)
	for {
		hands = s.hands.Next(hands)
		if at := s.instant(hands); at.After(after) {
			return at
		}
	}
}

// reach is more than any zone is ahead of or behind UTC, and than the day that a zone at the date line skips.
const reach = 40 * time.Hour

// instant finds when the clocks of the zone show a time, which is given as if it were UTC.
func (s *Schedule) instant(hands time.Time) time.Time {
	// the offsets that are in force around it, in order
	for at, end := hands.Add(-reach), hands.Add(reach); ; {
		local := at.In(s.zone)
		_, offset := local.Zone()
		begin, until := local.ZoneBounds()
		shown := hands.Add(-time.Duration(offset) * time.Second)
		switch last := until.IsZero() || until.After(end); {
		case !begin.IsZero() && shown.Before(begin):
			return begin.UTC() // it is skipped: the first time behind the gap
		case last || shown.Before(until):
			return shown
		}
		at = until
	}
}

// Due returns the last night that began after the one that ran last, up to now, and whether nights before it were
// missed: however many they are, one run catches up. ok is false where none has begun.
func (s *Schedule) Due(last, now time.Time) (night time.Time, missed, ok bool) {
	first := s.Next(last)
	if first.After(now) {
		return night, false, false
	}
	// Where much time has passed, look at the end of it first, in windows that grow.
	for _, back := range []time.Duration{time.Hour, 24 * time.Hour, 32 * 24 * time.Hour, 367 * 24 * time.Hour} {
		if at := now.Add(-back); at.After(first) {
			if night = s.Next(at); !night.After(now) {
				break
			}
		}
		night = first
	}
	for next := s.Next(night); !next.After(now); next = s.Next(night) {
		night = next
	}
	return night, night.After(first), true
}
