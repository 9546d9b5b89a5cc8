package adapters

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weft/internal/deadline"
)

// mustAcquireAll returns the release of all leases.
func mustAcquireAll(t *testing.T, c *Cache, vs ...Version) (release func()) {
	t.Helper()
	all, err := c.AcquireAll(context.Background(), vs...)
	if err != nil {
		t.Fatalf("%s: %v", refs(vs), err)
	}
	for i, l := range all {
		if v := l.Version(); v.Name != vs[i].Name || l.(*lease).entry.version.Digest != vs[i].Digest {
			t.Errorf("lease %d is of %s, want %s", i, l.(*lease).entry.version.Name, vs[i].Name)
		}
		l.Weights()
	}
	return func() {
		for _, l := range all {
			l.Release()
		}
	}
}

// later asks for adapters beside the test; wait ends it, with the release of what came.
func later(c *Cache, vs ...Version) (came <-chan struct{}, wait func(*testing.T) (release func())) {
	done := make(chan struct{})
	var all []Lease
	var err error
	go func() {
		defer close(done)
		all, err = c.AcquireAll(context.Background(), vs...)
	}()
	return done, func(t *testing.T) func() {
		t.Helper()
		if deadline.Receive(t, done, "the load of "+refs(vs)); err != nil {
			t.Errorf("%s: %v", refs(vs), err)
		}
		return func() {
			for _, l := range all {
				l.Release()
			}
		}
	}
}

// Combinations that could each hold what the other waits for, and single requests in between: none waits longer than
// the loads and leases before it take.
func TestCombinationsDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		m := &fakeMemory{t: t, free: 30}
		c := f.cache(CacheConfig{Memory: m, LoadTimeout: 10 * time.Second, AgeAfter: 50 * time.Millisecond,
			MaxLoads: 2})
		v := make([]Version, 6)
		for i := range v {
			v[i] = f.version(i, 10)
		}
		var wg sync.WaitGroup
		for g, mix := range [][]int{{0, 1}, {1, 0}, {2, 1, 0}, {3, 4, 5}, {0}, {5}, {4, 2}, {1, 3, 2}} {
			wg.Go(func() {
				var vs []Version
				for _, i := range mix {
					vs = append(vs, v[i])
				}
				for range 40 {
					release := mustAcquireAll(t, c, vs...)
					if m.reserved() > 30 {
						t.Errorf("%d bytes are reserved", m.reserved())
					}
					time.Sleep(time.Duration(1+g) * time.Millisecond)
					release()
				}
			})
		}
		wg.Wait()
		f.closeAll(c)
		if m.reserved() != 0 {
			t.Errorf("%d bytes are still reserved", m.reserved())
		}
	})
}

// A combination of adapters that waits holds nothing: its adapters make room for others, and come back for it.
func TestWaitingCombinationHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		c := f.cache(CacheConfig{Limit: 30, LoadTimeout: 10 * time.Second, AgeAfter: time.Second})
		a, b, used, other := f.version(1, 10), f.version(2, 20), f.version(3, 10), f.version(4, 20)
		mustAcquire(t, c, a).Release()
		l := mustAcquire(t, c, used)
		_, wait := later(c, b, a)
		time.Sleep(100 * time.Millisecond)
		mustAcquire(t, c, other).Release() // in the place of a
		if st, _ := c.State(a); st != Disk {
			t.Errorf("an adapter of a combination that waits is in state %s while another takes its memory", st)
		}
		l.Release()
		wait(t)()
		if n := f.loads.Load(); n != 5 {
			t.Errorf("%d loads, want a twice, the others once", n)
		}
		f.closeAll(c)
	})
}

// An aged mix stops new requests of what is in its way, and never of its own adapters.
func TestCombinationAgeing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		c := f.cache(CacheConfig{Limit: 30, LoadTimeout: 10 * time.Second, AgeAfter: time.Second})
		a, b, used := f.version(1, 10), f.version(2, 20), f.version(3, 10)
		own := mustAcquire(t, c, a) // before used: what takes requests least
		time.Sleep(time.Millisecond)
		l := mustAcquire(t, c, used)
		_, wait := later(c, a, b)
		time.Sleep(2 * time.Second)
		again, waitAgain := later(c, used)
		_, waitOwn := later(c, a)
		synctest.Wait()
		select {
		case <-again:
			t.Error("a new lease of an adapter in the way of an aged mix")
		default:
		}
		waitOwn(t)() // its own: no new requests are stopped
		l.Release()
		release := wait(t) // although a is in use by another
		own.Release()
		release()
		waitAgain(t)()
		f.closeAll(c)
	})
}

// What pinned adapters leave no room for is refused at once, as soon as they do; without them it comes.
func TestPinsRefuseAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		c := f.cache(CacheConfig{Limit: 30, LoadTimeout: time.Hour, AgeAfter: time.Second})
		pinned, a, b := f.version(1, 10), f.version(2, 15), f.version(3, 25)
		mustAcquire(t, c, pinned).Release()
		l := mustAcquire(t, c, a)
		waits := make(chan error, 1)
		go func() { _, err := c.Acquire(context.Background(), b); waits <- err }()
		time.Sleep(500 * time.Millisecond)
		f.source.set(pinned.Digest, true, true)
		began := time.Now()
		err, _ := deadline.Receive(t, waits, "the answer to who waits for a pinned adapter's memory")
		wants(t, "a pin comes while it waits", err, ErrPinned)
		if took := time.Since(began); took > time.Second {
			t.Errorf("the answer came after %v", took)
		}
		began = time.Now()
		_, err = c.Acquire(t.Context(), b)
		wants(t, "alone", err, ErrPinned)
		_, err = c.AcquireAll(t.Context(), f.version(4, 6), a)
		wants(t, "a combination of adapters", err, ErrPinned)
		mustAcquireAll(t, c, f.version(5, 5), a, pinned)() // the pinned one is of the combination
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("the answers came after %v", took)
		}
		l.Release()
		f.source.set(pinned.Digest, true, false)
		time.Sleep(time.Second)
		mustAcquire(t, c, b).Release()
		f.closeAll(c)
	})
}

// All or none: where one of a combination of adapters fails, is larger than it said, or its request goes, nothing is
// held afterwards.
func TestCombinationAllOrNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		c := f.cache(CacheConfig{Limit: 60, RetryAfter: time.Second, LoadTimeout: 10 * time.Second})
		good, bad, grows := f.version(1, 10), f.version(2, 10), f.version(3, 10)
		f.fail = func(v Version) error {
			if v.Digest == bad.Digest {
				return errors.New("bit 7")
			}
			return nil
		}
		f.actual = func(v Version) int64 {
			if v.Digest == grows.Digest {
				return 40
			}
			return v.Bytes
		}
		idle := func(what string) {
			t.Helper()
			synctest.Wait()
			if s := c.Stats(); s.InUse != 0 || s.Queued != 0 || s.Loading != 0 || s.Waiting != 0 {
				t.Errorf("%s: %+v", what, s)
			}
		}
		for range 2 {
			_, err := c.AcquireAll(t.Context(), good, bad)
			if !errors.Is(err, ErrLoadFailed) || !strings.Contains(err.Error(), "bit 7") {
				t.Errorf("%v", err)
			}
			idle("one fails")
		}
		mustAcquireAll(t, c, good, grows, good)()
		idle("one is larger than it says")
		if n := f.loads.Load(); n != 4 {
			t.Errorf("%d loads, want the good one's, the bad one's, and two of the one that grows", n)
		}
		f.took = time.Second
		// in the first load, in the second
		for _, after := range []time.Duration{500 * time.Millisecond, 1500 * time.Millisecond} {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			_, err := c.AcquireAll(ctx, f.version(int(after), 5), f.version(int(after)+1, 5), good)
			wants(t, "the request goes", err, context.DeadlineExceeded)
			cancel()
			time.Sleep(3 * time.Second)
			idle("the request goes")
		}
		f.closeAll(c)
	})
}

// That another tenant has loaded the same bytes is not to be seen.
func TestStateIsATenantsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		c := f.cache(CacheConfig{Limit: 30, RetryAfter: time.Minute})
		f.took = time.Second
		mine := f.version(1, 10)
		theirs := mine
		theirs.Tenant = "other"
		state := func(v Version, want State) {
			t.Helper()
			if got, why := c.State(v); got != want || (why != "") != (want == Failed) {
				t.Errorf("state %s %q for tenant %s, want %s", got, why, v.Tenant, want)
			}
		}
		_, wait := later(c, theirs)
		time.Sleep(500 * time.Millisecond)
		state(theirs, Loading)
		state(mine, Disk)
		wait(t)()
		state(theirs, Device)
		state(mine, Disk)
		mustAcquire(t, c, mine).Release()
		state(mine, Device)

		f.fail = func(Version) error { return errors.New("bit 7") }
		broken := f.version(2, 10)
		foreign := broken
		foreign.Tenant = "other"
		_, err := c.Acquire(t.Context(), foreign)
		wants(t, "broken", err, ErrLoadFailed)
		state(foreign, Failed)
		state(broken, Disk)
		_, err = c.Acquire(t.Context(), broken)
		wants(t, "broken", err, ErrLoadFailed)
		state(broken, Failed)
		f.closeAll(c)
	})
}
