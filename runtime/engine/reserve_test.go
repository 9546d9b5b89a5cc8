package engine

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"weft/internal/deadline"
	"weft/runtime/device"
)

// reserver uses the engine's memory as a cache of adapters does: what it has reserved is idle, and can be reclaimed, or
// in use, and cannot.
type reserver struct {
	idle bool

	mu                  sync.Mutex
	held                int64
	reserved, reclaimed int // calls that succeeded
}

func (b *reserver) useIdle(plan func(int64) int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.idle {
		plan(0)
		return
	}
	if used := plan(b.held); used > 0 {
		b.held -= used
		b.reclaimed++
	}
}

// run reserves and releases at random until stop is called.
func (b *reserver) run(t *testing.T, e *Engine, rng *rand.Rand) (stop func()) {
	end, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		for {
			select {
			case <-end:
				return
			case <-time.After(20 * time.Microsecond):
			}
			bytes := rng.Int64N(4 * e.pageBytes)
			if rng.IntN(2) == 0 {
				b.mu.Lock()
				bytes = min(bytes, b.held)
				b.held -= bytes
				b.mu.Unlock()
				e.ReleaseIdle(bytes)
				continue
			}
			if !e.ReserveIdle(bytes) {
				continue
			}
			b.mu.Lock() // a step in between finds less idle memory than there is
			b.held += bytes
			b.reserved++
			b.mu.Unlock()
		}
	}()
	return sync.OnceFunc(func() {
		close(end)
		deadline.Receive(t, over, "the reserver's end")
	})
}

// TestReservingRoundsUpTheSum, not each call, and leaves what the longest sequence needs.
func TestReservingRoundsUpTheSum(t *testing.T) {
	cfg := newFakeModel(t).config()
	cfg.NumPages, cfg.MaxContext = 20, 10*16
	e := start(t, cfg)
	page := e.pageBytes
	if n := e.Reservable(); n != 10*page {
		t.Errorf("%d bytes can be reserved, want 10 pages of %d", n, page)
	}
	for i, c := range []struct {
		reserve, release int64
		refused          bool
		pages            int
	}{
		{reserve: 1, pages: 1}, {reserve: page - 1, pages: 1}, {reserve: 1, pages: 2}, {release: 2, pages: 1},
		{reserve: 9*page + 1, pages: 10},
		{reserve: 1, refused: true, pages: 10}, {reserve: -1, refused: true, pages: 10}, {release: page, pages: 9},
		{reserve: page, pages: 10}, {release: 10 * page, pages: 0},
	} {
		if c.release > 0 {
			e.ReleaseIdle(c.release)
		} else if ok := e.ReserveIdle(c.reserve); ok == c.refused {
			t.Errorf("%d: reserve %d: %v", i, c.reserve, ok)
		}
		s := e.Stats()
		if s.Pages.Reserved != c.pages || s.Pages.Free != 20-c.pages || s.PageBytes != page {
			t.Errorf("%d: %+v, want %d reserved", i, s.Pages, c.pages)
		}
	}
	if s := e.Stats(); s.Reserved != 0 {
		t.Errorf("%d bytes are left", s.Reserved)
	}
	if err := e.Close(); err != nil || e.ReserveIdle(1) {
		t.Errorf("a closed engine reserves memory (%v)", err)
	}
}

// TestReservedMemoryReturnsBeforePreemption; where it cannot be reclaimed, sequences are preempted and recomputed, and
// end the same.
func TestReservedMemoryReturnsBeforePreemption(t *testing.T) {
	for _, idle := range []bool{true, false} {
		m := newFakeModel(t)
		cfg := m.config()
		cfg.NumPages, cfg.MaxContext, cfg.PrefixCache = 30, 160, false
		b := &reserver{idle: idle, held: 20}
		cfg.UseIdle = b.useIdle
		e, err := prepare(cfg)
		if err != nil {
			t.Fatal(err)
		}
		b.held = 20 * e.pageBytes
		if !e.ReserveIdle(b.held) {
			t.Fatal("20 of 30 pages are not reserved")
		}
		var reqs []Request
		for i := range 3 {
			reqs = append(reqs, request([]int32{int32(i), 5}, 140))
		}
		streams, err := e.Submit(t.Context(), reqs...)
		if err != nil {
			t.Fatal(err)
		}
		go e.loop()
		for i, s := range streams {
			compare(t, reqs[i], collect(t, s), plain(reqs[i], 160, 0))
		}
		s := e.Stats()
		if idle && (s.Preemptions != 0 || b.reclaimed == 0 || s.Reserved != b.held) {
			t.Errorf("%d preemptions, %d calls, %d bytes reserved, %d held", s.Preemptions, b.reclaimed, s.Reserved,
				b.held)
		}
		if !idle && (s.Preemptions == 0 || s.Pages.Reserved != 20) {
			t.Errorf("%d preemptions, %+v", s.Preemptions, s.Pages)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReturningPagesHoldsNoLock: while reserved pages are returned to the system, which may take long, the engine works
// without them, whatever is released or used meanwhile, and its cache stays until they are returned.
func TestReturningPagesHoldsNoLock(t *testing.T) {
	m := newFakeModel(t)
	inside, goOn := make(chan struct{}), make(chan struct{})
	m.returns = func() {
		inside <- struct{}{}
		<-goOn
	}
	cfg := m.config()
	cfg.NumPages, cfg.MaxContext, cfg.PrefixCache = 30, 160, false
	b := &reserver{idle: true}
	cfg.UseIdle = b.useIdle
	e := start(t, cfg)
	b.held = 20 * e.pageBytes // as if the memory were idle already
	reserved := make(chan bool)
	go func() { reserved <- e.ReserveIdle(20 * e.pageBytes) }()
	deadline.Receive(t, inside, "the return of pages")
	if s := e.Stats(); s.Pages.Reserved != 20 || s.Reserved != 20*e.pageBytes {
		t.Errorf("%d bytes and %+v while pages are returned", s.Reserved, s.Pages)
	}
	var reqs []Request
	for i := range 3 {
		reqs = append(reqs, request([]int32{int32(i), 5}, 140))
	}
	streams, err := e.Submit(t.Context(), reqs...)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range streams {
		compare(t, reqs[i], collect(t, s), plain(reqs[i], 160, 0))
	}
	if s := e.Stats(); s.Preemptions == 0 || b.reclaimed > 0 {
		t.Errorf("%d preemptions, %d steps used pages that were being returned", s.Preemptions, b.reclaimed)
	}
	e.ReleaseIdle(5 * e.pageBytes)
	if s := e.Stats(); s.Pages.Reserved != 20 {
		t.Errorf("%+v: pages are free while they are returned", s.Pages)
	}
	closed := make(chan error, 1)
	go func() { closed <- e.Close() }()
	deadline.Receive(t, e.done, "the loop's end")
	if n := cfg.Device.InUse(device.KV); n == 0 {
		t.Error("the cache is freed while its pages are returned")
	}
	close(goOn)
	if ok, _ := deadline.Receive(t, reserved, "the reservation"); !ok {
		t.Error("refused")
	}
	if s := e.Stats(); s.Pages.Reserved != 15 {
		t.Errorf("%+v in the end", s.Pages)
	}
	if err, _ := deadline.Receive(t, closed, "the end of Close"); err != nil {
		t.Error(err)
	}
}
