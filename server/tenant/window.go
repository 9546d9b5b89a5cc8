package tenant

import (
	"math"
	"time"
)

// spend is a tenant's usage in one minute.
type spend struct{ requests, prompt, output int64 }

func (s spend) add(t spend) spend {
	return spend{s.requests + t.requests, s.prompt + t.prompt, s.output + t.output}
}

func (s spend) tokens() int64 { return s.prompt + s.output }

// window counts a tenant's usage in a sliding minute from two fixed minutes: the previous one counts by the fraction of
// it that still lies within the last 60 seconds. Fixed minutes can be stored and added up over servers.
type window struct {
	minute         int64     // of Unix time; now's
	at             time.Time // of the last advance
	own, others    spend     // of this minute: charged here, and by other servers as far as they have reported
	ownPrev, prevs spend     // of the minute before
}

func minuteOf(t time.Time) int64 { return t.Unix() / 60 }

// elapsed returns the fraction of t's minute that has passed, in [0, 1).
func elapsed(t time.Time) float64 {
	return float64(t.UnixNano()-minuteOf(t)*60e9) / 60e9
}

// clockSlack is how far times that are read almost at once may differ.
const clockSlack = 5 * time.Second

// advance moves to the minute of t. A clock that is set to an earlier or a later minute takes the counts with it: they
// end as if it had not been set.
func (w *window) advance(t time.Time) {
	passed := t.Sub(w.at) // of the monotonic clock, where both times have it: setting the clock does not change it
	set := passed < -clockSlack || t.Round(0).Sub(w.at.Round(0))-passed < -clockSlack
	w.at = t
	switch m := minuteOf(t); {
	case m < w.minute-1, m < w.minute && set, m > w.minute+1 && passed < time.Minute:
		w.minute = m
	case m <= w.minute:
	case m == w.minute+1:
		w.minute, w.ownPrev, w.prevs, w.own, w.others = m, w.own, w.others, spend{}, spend{}
	default:
		*w = window{minute: m, at: t}
	}
}

// report sets what other servers charged in a minute.
func (w *window) report(minute int64, s spend) {
	switch minute {
	case w.minute:
		w.others = s
	case w.minute - 1:
		w.prevs = s
	}
}

// idle reports whether the window counts nothing any more.
func (w *window) idle() bool {
	return w.own.add(w.others).add(w.ownPrev).add(w.prevs) == spend{}
}

// Rate is a limit per minute and what is left of it. Limit 0: no limit.
type Rate struct {
	Limit, Remaining int64
	Reset            time.Duration // until all of it is available again, if nothing more is used
}

// rate returns how much of limit is left at t, where prev and cur were used in the last minute and in this one.
func rate(limit, prev, cur int64, at float64) Rate {
	if limit == 0 {
		return Rate{}
	}
	r := Rate{Limit: limit, Remaining: max(0, limit-used(prev, cur, at))}
	switch {
	case cur > 0:
		r.Reset = minutes(2 - at)
	case prev > 0:
		r.Reset = minutes(1 - at)
	}
	return r
}

func used(prev, cur int64, at float64) int64 {
	return cur + int64(math.Ceil(float64(prev)*(1-at)))
}

// wait returns how long until need more fit in limit, if nothing else is used meanwhile; need is at most limit.
func wait(limit, need, prev, cur int64, at float64) time.Duration {
	free := float64(limit - need)
	if left := free - float64(cur); left >= 0 { // the last minute's part must fall to left
		return minutes(math.Max(0, 1-left/float64(max(prev, 1))-at))
	}
	return minutes(1 - at + 1 - free/float64(cur))
}

// minutes rounds up to a millisecond.
func minutes(m float64) time.Duration {
	return time.Duration(math.Ceil(m*60_000)) * time.Millisecond
}
