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

func TestWindowIgnoresAClockThatGoesBack(t *testing.T) {
	w := window{minute: 10, own: spend{requests: 3}}
	w.advance(time.Unix(60, 0))
	if w.minute != 10 || w.own.requests != 3 {
		t.Errorf("%+v", w)
	}
	w.advance(time.Unix(60*12, 0))
	if !w.idle() {
		t.Errorf("two minutes later: %+v", w)
	}
}
