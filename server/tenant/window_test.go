package tenant

import (
	"math/rand/v2"
	"testing"
	"time"
)

// An exact count over the last two fixed minutes, event by event, against the window; wait's promise holds, and no
// earlier moment would do.
func TestWindowAgainstEvents(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	start := time.Unix(60*1000, 0)
	for range 300 {
		var w window
		now := start
		events := map[int64]int64{}
		for range 30 {
			now = now.Add(time.Duration(rng.Int64N(int64(20 * time.Second))))
			w.advance(now)
			n := rng.Int64N(50)
			w.own.requests += n
			events[minuteOf(now)] += n
			prev, cur, at := events[minuteOf(now)-1], events[minuteOf(now)], elapsed(now)
			if w.ownPrev.requests != prev || w.own.requests != cur {
				t.Fatalf("window has %d and %d, the events %d and %d", w.ownPrev.requests, w.own.requests, prev, cur)
			}
			limit, need := 1+rng.Int64N(200), int64(1)
			if used(prev, cur, at)+need <= limit {
				continue
			}
			after := func(d time.Duration) int64 {
				later := w
				later.advance(now.Add(d))
				return used(later.ownPrev.requests, later.own.requests, elapsed(now.Add(d)))
			}
			d := wait(limit, need, prev, cur, at)
			if after(d+time.Millisecond)+need > limit {
				t.Fatalf("limit %d, %d and %d used at %.3f: after %v still %d", limit, prev, cur, at, d, after(d))
			}
			if d > 10*time.Millisecond && after(d-5*time.Millisecond)+need <= limit {
				t.Fatalf("limit %d, %d and %d used at %.3f: %v is too long", limit, prev, cur, at, d)
			}
			if r := rate(limit, prev, cur, at); r.Remaining != max(0, limit-used(prev, cur, at)) ||
				after(r.Reset) != 0 {
				t.Fatalf("rate %+v, then %d used", r, after(r.Reset))
			}
		}
	}
}

func TestWindowIgnoresAClockThatGoesBackALittle(t *testing.T) {
	w := window{minute: 10, at: time.Unix(60*10, 0), own: spend{requests: 3}}
	w.advance(time.Unix(60*9+59, 0))
	if w.minute != 10 || w.own.requests != 3 {
		t.Errorf("%+v", w)
	}
	w.advance(time.Unix(60*12, 0))
	if !w.idle() {
		t.Errorf("two minutes later: %+v", w)
	}
}

// TestClockThatIsSet: a clock that jumps and is set right, as read by a process without a monotonic clock, neither
// locks a tenant with a quota out beyond two minutes nor gives it more than its quota at once.
func TestClockThatIsSet(t *testing.T) {
	for _, jump := range []time.Duration{24 * time.Hour, 10 * 365 * 24 * time.Hour, 90 * time.Second, -time.Hour} {
		for _, at := range []time.Duration{0, 30 * time.Second, 59 * time.Second} { // within a minute
			c := newClock()
			c.add(at)
			a := openAccess(t, Options{Open: true, Now: c.now})
			g := must(a.Authenticate(""))
			g.Settings.RequestsPerMinute = 3
			admitted := func() (n int) {
				for ; n < 100; n++ {
					if _, _, err := a.Begin(g); err != nil {
						return n
					}
				}
				return n
			}
			if n := admitted(); n != 3 {
				t.Fatalf("%d of 3", n)
			}
			c.add(jump)
			during := admitted()
			c.add(-jump) // set right
			if n := during + admitted(); n > 3 {
				t.Errorf("a jump of %v freed %d requests of 3 a minute", jump, n)
			}
			c.add(2 * time.Minute)
			if n := admitted(); n != 3 {
				t.Errorf("two minutes after a jump of %v was set right: %d of 3 are admitted", jump, n)
			}
		}
	}
}

// TestMonotonicClock: where the time between two requests is known, a wall clock that jumps ahead frees nothing.
func TestMonotonicClock(t *testing.T) {
	now := time.Now()
	w := window{}
	w.advance(now)
	w.own.requests = 3
	w.advance(time.Now().AddDate(0, 0, 1)) // AddDate drops the monotonic clock
	if w.own.requests != 0 {
		t.Fatal("without a monotonic clock a day has passed")
	}
	w = window{minute: minuteOf(now) - 24*60, at: now, own: spend{requests: 3}} // the wall clock was a day behind
	w.advance(time.Now())
	if w.own.requests != 3 || w.minute != minuteOf(time.Now()) {
		t.Errorf("a jump of a day within a moment: %+v", w)
	}
}
