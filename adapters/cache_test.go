package adapters

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"weft/adapters/peft"
	"weft/internal/deadline"
	"weft/runtime/lora"
)

// fakeSource is a registry in memory; digests are names.
type fakeSource struct {
	mu      sync.Mutex
	changes int64
	pins    map[string]bool
}

func (s *fakeSource) Dir(_ context.Context, v Version) (string, error) {
	return "dir of " + v.Digest, nil
}

func (s *fakeSource) Changes(context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changes, nil
}

func (s *fakeSource) Pins(context.Context) (map[string]bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]bool{}
	for d, p := range s.pins {
		out[d] = p
	}
	return out, nil
}

func (s *fakeSource) set(digest string, there, pinned bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes++
	if there {
		s.pins[digest] = pinned
	} else {
		delete(s.pins, digest)
	}
}

// fakeResident counts what is in memory.
type fakeResident struct {
	f      *fakes
	digest string
	bytes  int64
	w      lora.Weights
	freed  atomic.Bool
}

func (r *fakeResident) Weights() *lora.Weights {
	if r.freed.Load() {
		r.f.t.Errorf("%s is used after it was freed", r.digest)
	}
	return &r.w
}
func (r *fakeResident) Bytes() int64 { return r.bytes }
func (r *fakeResident) Free() {
	if r.freed.Swap(true) {
		r.f.t.Errorf("%s is freed twice", r.digest)
	}
	r.f.live.Add(-r.bytes)
}

// fakes are a loader, a memory and a registry for one cache.
type fakes struct {
	t      *testing.T
	source *fakeSource
	live   atomic.Int64 // bytes of residents
	loads  atomic.Int64
	atOnce atomic.Int64
	most   atomic.Int64
	took   time.Duration
	fail   func(v Version) error
	actual func(v Version) int64
}

func newFakes(t *testing.T) *fakes {
	return &fakes{t: t, source: &fakeSource{pins: map[string]bool{}}, took: time.Millisecond}
}

func (f *fakes) load(ctx context.Context, v Version, dir string) (Resident, error) {
	if !strings.HasSuffix(dir, v.Digest) {
		f.t.Errorf("%s is loaded from %s", v.Digest, dir)
	}
	f.loads.Add(1)
	n := f.atOnce.Add(1)
	defer f.atOnce.Add(-1)
	for old := f.most.Load(); n > old && !f.most.CompareAndSwap(old, n); old = f.most.Load() {
	}
	select {
	case <-time.After(f.took):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if f.fail != nil {
		if err := f.fail(v); err != nil {
			return nil, err
		}
	}
	bytes := v.Bytes
	if f.actual != nil {
		bytes = f.actual(v)
	}
	f.live.Add(bytes)
	return &fakeResident{f: f, digest: v.Digest, bytes: bytes}, nil
}

func (f *fakes) cache(cfg CacheConfig) *Cache {
	cfg.Registry, cfg.Load = f.source, f.load
	c, err := NewCache(cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func (f *fakes) version(i int, bytes int64) Version {
	d := fmt.Sprintf("%064x", i)
	f.source.set(d, true, false)
	return Version{Tenant: "t", Name: fmt.Sprintf("a%d", i), Digest: d, Bytes: bytes}
}

func mustAcquire(t *testing.T, c *Cache, v Version) Lease {
	t.Helper()
	l, err := c.Acquire(context.Background(), v)
	if err != nil {
		t.Fatalf("%s: %v", v.Name, err)
	}
	return l
}

// closeAll closes a cache and checks that nothing is left.
func (f *fakes) closeAll(c *Cache) {
	f.t.Helper()
	c.Close()
	if n := f.live.Load(); n != 0 {
		f.t.Errorf("%d bytes are left after Close", n)
	}
	if s := c.Stats(); s.Bytes != 0 || s.Queued != 0 || c.spare != 0 {
		f.t.Errorf("after Close: %+v, spare %d", s, c.spare)
	}
}

func TestCacheSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		c := f.cache(CacheConfig{MaxLoads: 2})
		a := f.version(1, 10)
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				v := a
				v.Tenant = fmt.Sprint(i % 2) // two tenants, one digest
				l := mustAcquire(t, c, v)
				if l.Version().Tenant != v.Tenant || l.Weights() == nil {
					t.Error("a lease of another tenant's version")
				}
				l.Release()
				l.Release()
			})
		}
		for i := range 10 {
			wg.Go(func() { mustAcquire(t, c, f.version(2+i, 10)).Release() })
		}
		wg.Wait()
		if s := c.Stats(); f.loads.Load() != 11 || s.Loads != 11 || s.Bytes != 110 || s.Count != 11 || s.InUse != 0 ||
			s.Hits+s.Misses != 60 {
			t.Errorf("%d loads, %+v", f.loads.Load(), s)
		}
		if f.most.Load() != 2 {
			t.Errorf("%d loads at once, want 2", f.most.Load())
		}
		a.Tenant = "1"
		if st, _ := c.State(a); st != Device {
			t.Errorf("state %s", st)
		}
		if st, _ := c.State(f.version(99, 1)); st != Disk {
			t.Errorf("state %s", st)
		}
		f.closeAll(c)
	})
}

func TestCacheHitAllocates(t *testing.T) {
	f := newFakes(t)
	c := f.cache(CacheConfig{})
	v := f.version(1, 10)
	defer mustAcquire(t, c, v).Release() // in use: a hit touches no list
	if n := testing.AllocsPerRun(100, func() { mustAcquire(t, c, v).Release() }); n > 1 {
		t.Errorf("%v allocations for a hit, want the lease only", n)
	}
}

// The hit rate of working sets of 1, 2 and 10 times the cache is LRU's own, and every miss is one load.
func TestCacheWorkingSets(t *testing.T) {
	for _, times := range []int{1, 2, 10} {
		synctest.Test(t, func(t *testing.T) {
			const room = 20
			f := newFakes(t)
			c := f.cache(CacheConfig{Limit: room * 10})
			var order []int // LRU by hand, the newest last
			hits := 0
			rng := rand.New(rand.NewPCG(1, uint64(times)))
			versions := make([]Version, room*times)
			for i := range versions {
				versions[i] = f.version(i, 10)
			}
			const requests = 2000
			for range requests {
				i := int(rng.Float64() * rng.Float64() * float64(len(versions)))
				for k, o := range order {
					if o == i {
						hits++
						order = append(order[:k], order[k+1:]...)
						break
					}
				}
				if order = append(order, i); len(order) > room {
					order = order[1:]
				}
				mustAcquire(t, c, versions[i]).Release()
			}
			s := c.Stats()
			if int(s.Hits) != hits || s.Hits+s.Misses != requests || s.Loads != s.Misses ||
				s.Loads-s.Evictions != int64(s.Count) || s.Bytes > room*10 {
				t.Errorf("%d times: LRU has %d hits of %d: %+v", times, hits, requests, s)
			}
			f.closeAll(c)
		})
	}
}

// What can never have room is refused at once, not after LoadTimeout.
func TestCacheHopeless(t *testing.T) {
	f := newFakes(t)
	c := f.cache(CacheConfig{Memory: &fakeMemory{t: t, free: 50}, Limit: 90, LoadTimeout: time.Hour})
	defer f.closeAll(c)
	a, b := f.version(1, 30), f.version(2, 60)
	_, err := c.Acquire(t.Context(), b)
	wants(t, "more than can be reserved", err, ErrNoRoom)
	mustAcquire(t, c, a).Release()
	_, err = c.AcquireAll(t.Context(), a, f.version(3, 21))
	wants(t, "a combination of adapters of too much", err, ErrTooLarge)
	mustAcquireAll(t, c, a, f.version(4, 20))()
}

func TestCacheLeasesAndPinsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		c := f.cache(CacheConfig{Limit: 30, LoadTimeout: 5 * time.Second, AgeAfter: time.Hour})
		used, pinned, idle := f.version(1, 10), f.version(2, 10), f.version(3, 10)
		l := mustAcquire(t, c, used)
		f.source.set(pinned.Digest, true, true)
		mustAcquire(t, c, pinned).Release()
		time.Sleep(time.Second) // the pin is seen
		mustAcquire(t, c, idle).Release()
		c.UseIdle(func(n int64) int64 {
			if n != 10 {
				t.Errorf("%d bytes are idle, want those of the idle one", n)
			}
			return n
		})
		mustAcquire(t, c, idle).Release()
		_, err := c.Acquire(t.Context(), f.version(4, 20))
		wants(t, "no room while in use", err, ErrLoadTimeout)
		mustAcquire(t, c, f.version(5, 10)).Release() // idle made room
		f.source.set(used.Digest, false, false)       // removed: goes at the last release
		f.source.set(pinned.Digest, true, false)
		time.Sleep(time.Second)
		if s := c.Stats(); s.Count != 3 || s.Pinned != 0 {
			t.Errorf("%+v", s)
		}
		l.Weights()
		l.Release()
		if st, _ := c.State(used); st != Disk {
			t.Errorf("a removed version is in state %s after its last release", st)
		}
		mustAcquire(t, c, f.version(6, 30)).Release()
		f.closeAll(c)
	})
}

// TestUseIdleReleasesTheRest: adapters are evicted whole, the least recently used first; what the plan does not use of
// them is released, and a plan that panics leaves everything as it was.
func TestUseIdleReleasesTheRest(t *testing.T) {
	f := newFakes(t)
	m := &fakeMemory{t: t, free: 30}
	c := f.cache(CacheConfig{Memory: m})
	old, young := f.version(1, 10), f.version(2, 10)
	mustAcquire(t, c, old).Release()
	mustAcquire(t, c, young).Release()
	if !m.kv(c, 13) || m.reserved() != 10 || m.free != 7 {
		t.Errorf("%d bytes are reserved, %d free; want 10 and 7 beside the 13 in use", m.reserved(), m.free)
	}
	func() {
		defer func() { _ = recover() }()
		c.UseIdle(func(int64) int64 { panic("the plan fails") })
	}()
	for v, want := range map[*Version]State{&old: Disk, &young: Device} {
		if st, _ := c.State(*v); st != want {
			t.Errorf("%s is in state %s, want %s", v.Ref(), st, want)
		}
	}
	m.kvDone(13)
	f.closeAll(c)
}

func TestCacheFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		c := f.cache(CacheConfig{Limit: 100, RetryAfter: 5 * time.Second, LoadTimeout: 3 * time.Second})
		bad, good := f.version(1, 10), f.version(2, 10)
		broken := true
		f.fail = func(v Version) error {
			if v.Digest == bad.Digest && broken {
				return fmt.Errorf("%w: bit 7", ErrCorrupt)
			}
			return nil
		}
		for range 3 {
			_, err := c.Acquire(t.Context(), bad)
			if !errors.Is(err, ErrLoadFailed) || !errors.Is(err, ErrCorrupt) || strings.Contains(err.Error(), "t/") {
				t.Errorf("%v", err)
			}
		}
		if st, why := c.State(bad); st != Failed || !strings.Contains(why, "bit 7") {
			t.Errorf("state %s: %s", st, why)
		}
		if n := f.loads.Load(); n != 1 {
			t.Errorf("%d loads of a broken adapter at once", n)
		}
		mustAcquire(t, c, good).Release()
		broken = false
		time.Sleep(5 * time.Second)
		mustAcquire(t, c, bad).Release()
		f.fail = func(v Version) error { panic("the loader") }
		_, err := c.Acquire(t.Context(), f.version(3, 10))
		if !errors.Is(err, ErrLoadFailed) || !strings.Contains(err.Error(), "the loader") {
			t.Errorf("a panic: %v", err)
		}
		f.fail = nil
		_, err = c.Acquire(t.Context(), f.version(4, 101))
		wants(t, "larger than the limit", err, ErrNoRoom)
		f.took = 10 * time.Second
		_, err = c.Acquire(t.Context(), f.version(5, 10))
		wants(t, "a slow store", err, ErrLoadTimeout)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err = c.Acquire(ctx, f.version(6, 10))
		wants(t, "a request that went away", err, context.Canceled)
		time.Sleep(time.Minute)
		if s := c.Stats(); s.Queued != 0 || s.Loading != 0 || s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
		f.closeAll(c)
		_, err = c.Acquire(t.Context(), f.version(7, 10))
		wants(t, "after Close", err, ErrLoadTimeout)
	})
}

// An adapter may take more or less than its version says.
func TestCacheTrueSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		m := &fakeMemory{t: t, free: 100}
		c := f.cache(CacheConfig{Memory: m, Limit: 90})
		f.actual = func(v Version) int64 { return 40 }
		small, large := f.version(1, 0), f.version(2, 80)
		mustAcquire(t, c, small).Release()
		if n := f.loads.Load(); n != 2 || m.reserved() != 40 {
			t.Errorf("%d loads, %d bytes reserved", n, m.reserved())
		}
		mustAcquire(t, c, large).Release()
		if s := c.Stats(); s.Bytes != 40 || m.reserved() != 40 || s.Evictions != 1 { // 80 were announced
			t.Errorf("%+v, %d bytes reserved", s, m.reserved())
		}
		mustAcquire(t, c, small).Release()
		if s := c.Stats(); s.Bytes != 80 || m.reserved() != 80 || s.Evictions != 1 || f.loads.Load() != 4 {
			t.Errorf("its size was not remembered: %+v, %d loads", s, f.loads.Load())
		}
		f.closeAll(c)
		if m.reserved() != 0 {
			t.Errorf("%d bytes are still reserved", m.reserved())
		}
	})
}

// A small adapter that is asked for without pause does not keep a large one from its memory for long.
func TestCacheAgeing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		c := f.cache(CacheConfig{Limit: 20, LoadTimeout: time.Minute, AgeAfter: time.Second})
		a, b, big := f.version(1, 10), f.version(2, 10), f.version(3, 20)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		var served [2]atomic.Int64
		for i, v := range []Version{a, b} {
			for k := range 2 { // overlapping leases: never idle by itself
				wg.Go(func() {
					time.Sleep(time.Duration(k) * 50 * time.Millisecond)
					for {
						select {
						case <-stop:
							return
						default:
						}
						l := mustAcquire(t, c, v)
						time.Sleep(100 * time.Millisecond)
						l.Weights()
						l.Release()
						served[i].Add(1)
					}
				})
			}
		}
		time.Sleep(time.Second)
		for range 3 {
			began := time.Now()
			l := mustAcquire(t, c, big)
			if took := time.Since(began); took > 1500*time.Millisecond {
				t.Errorf("the large adapter waited %v", took)
			}
			before := [2]int64{served[0].Load(), served[1].Load()}
			time.Sleep(100 * time.Millisecond)
			l.Release()
			time.Sleep(5 * time.Second)
			for i := range served {
				if served[i].Load() == before[i] {
					t.Errorf("adapter %d starves after the large one", i)
				}
			}
		}
		close(stop)
		wg.Wait()
		f.closeAll(c)
	})
}

// Where the large one goes away before it has room, those that waited behind it go on.
func TestCacheAgeingGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		c := f.cache(CacheConfig{Limit: 20, LoadTimeout: time.Minute, AgeAfter: time.Second})
		a, big := f.version(1, 10), f.version(3, 20)
		l := mustAcquire(t, c, a)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := c.Acquire(ctx, big)
			wants(t, "given up", err, context.Canceled)
		})
		time.Sleep(2 * time.Second)
		got := make(chan Lease)
		go func() { got <- mustAcquire(t, c, a) }()
		synctest.Wait()
		select {
		case <-got:
			t.Error("a new lease of an adapter in the way of an old request")
		default:
		}
		cancel()
		if l, ok := deadline.Receive(t, got, "the lease once the old request has given up"); ok {
			l.Release()
		}
		l.Release()
		wg.Wait()
		f.closeAll(c)
	})
}

// fakeMemory is the engine's side.
type fakeMemory struct {
	t    *testing.T
	mu   sync.Mutex
	free int64
	out  int64
}

func (m *fakeMemory) ReserveIdle(n int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.free < n {
		return false
	}
	m.free -= n
	m.out += n
	return true
}

func (m *fakeMemory) Reservable() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.free + m.out
}

func (m *fakeMemory) ReleaseIdle(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.free += n
	if m.out -= n; m.out < 0 {
		m.t.Errorf("more is returned than was reserved: %d", m.out)
	}
}

func (m *fakeMemory) reserved() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.out
}

// kv takes n bytes for pages, with the memory of idle adapters as the engine does.
func (m *fakeMemory) kv(c *Cache, n int64) (ok bool) {
	c.UseIdle(func(idle int64) int64 {
		m.mu.Lock()
		defer m.mu.Unlock()
		used := max(n-m.free, 0)
		if ok = used <= idle; !ok {
			return 0
		}
		m.free += used - n
		m.out -= used
		return used
	})
	return ok
}

func (m *fakeMemory) kvDone(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.free += n
}

// Requests, KV pages and removals fight for one memory; nothing deadlocks, is used after its end, or leaks.
func TestCacheSharesMemory(t *testing.T) {
	f := newFakes(t)
	f.took = 100 * time.Microsecond
	const total = 200
	m := &fakeMemory{t: t, free: total}
	c := f.cache(CacheConfig{Memory: m, MaxLoads: 3, LoadTimeout: 20 * time.Second, AgeAfter: 20 * time.Millisecond,
		SyncEvery: 2 * time.Millisecond})
	versions := make([]Version, 40)
	for i := range versions {
		versions[i] = f.version(i, int64(5+i%7*10))
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(3, uint64(g)))
			for range 300 {
				vs := []Version{versions[rng.IntN(len(versions))]}
				for rng.IntN(4) == 0 && len(vs) < 3 {
					vs = append(vs, versions[rng.IntN(len(versions))])
				}
				ctx, cancel := context.WithCancel(context.Background())
				if rng.IntN(10) == 0 {
					time.AfterFunc(time.Duration(rng.IntN(300))*time.Microsecond, cancel)
				}
				all, err := c.AcquireAll(ctx, vs...)
				if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, ErrPinned) {
					t.Errorf("%s: %v", refs(vs), err)
				}
				for _, l := range all {
					l.Weights()
					time.Sleep(time.Duration(rng.IntN(100)) * time.Microsecond)
					l.Weights()
					l.Release()
				}
				cancel()
			}
		})
	}
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		rng := rand.New(rand.NewPCG(4, 4))
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(rng.IntN(500)) * time.Microsecond):
			}
			if n := int64(rng.IntN(total)); m.kv(c, n) {
				time.Sleep(time.Duration(rng.IntN(200)) * time.Microsecond)
				m.kvDone(n)
			}
			v := versions[rng.IntN(len(versions))]
			f.source.set(v.Digest, rng.IntN(3) > 0, rng.IntN(20) == 0)
		}
	})
	wg.Wait()
	close(stop)
	others.Wait()
	s := c.Stats()
	if s.Reclaims == 0 || s.Evictions == 0 || s.Hits == 0 {
		t.Errorf("the test does not come by everything: %+v", s)
	}
	f.closeAll(c)
	if m.reserved() != 0 || m.free != total {
		t.Errorf("%d reserved, %d free of %d", m.reserved(), m.free, total)
	}
}

// TestHeld: what is in memory, what requests wait for, and for how many more there is room.
func TestHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		c := f.cache(CacheConfig{Limit: 35, LoadTimeout: time.Minute})
		wants := func(resident, awaited []Version, room int) {
			t.Helper()
			in, coming := c.Held()
			if len(in) != len(resident) || len(coming) != len(awaited) || c.Stats().Room != room {
				t.Errorf("%d in memory, %d awaited, room for %d, want %d, %d, %d", len(in), len(coming), c.Stats().Room,
					len(resident), len(awaited), room)
			}
			for _, v := range resident {
				if !in[v.Digest] {
					t.Errorf("%s is not in memory", v.Ref())
				}
			}
			for _, v := range awaited {
				if !coming[v.Digest] {
					t.Errorf("%s is not awaited", v.Ref())
				}
			}
		}
		a, b, large := f.version(1, 10), f.version(2, 10), f.version(3, 20)
		wants(nil, nil, -1)
		l := mustAcquire(t, c, a)
		wants([]Version{a}, nil, 2)
		f.took = time.Second
		_, wait := later(c, b)
		synctest.Wait()
		wants([]Version{a}, []Version{b}, 1)
		held := wait(t)
		_, waitLarge := later(c, large, a)
		synctest.Wait()
		wants([]Version{a, b}, []Version{large}, 1)
		held()
		waitLarge(t)()
		wants([]Version{a, large}, nil, 0)
		l.Release()
		wants([]Version{a, large}, nil, 0)
		f.closeAll(c)
	})
}

// TestRepair: a failure of the files is forgotten when they are stored again, by this process (Retry) or by another one
// (the registry changes); one of the machine is not remembered; a failed parity check, which no upload can mend, is.
func TestRepair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		c := f.cache(CacheConfig{Limit: 100, RetryAfter: time.Hour})
		var cause error
		f.fail = func(Version) error { return cause }
		fails := func(v Version, class error) {
			t.Helper()
			if _, err := c.Acquire(t.Context(), v); !errors.Is(err, class) {
				t.Errorf("%v, want %v", err, class)
			}
		}
		for i, why := range []error{&os.PathError{Op: "open", Path: "/gone", Err: syscall.EIO}, syscall.ENOENT} {
			v := f.version(30+i, 10)
			cause = why
			fails(v, ErrUnread)
			cause = nil
			mustAcquire(t, c, v).Release()
		}
		for i, repair := range []func(Version){c.Retry, func(Version) { f.version(60, 10); time.Sleep(time.Second) }} {
			damaged, wrong := f.version(40+i, 10), f.version(50+i, 10)
			time.Sleep(time.Second) // the cache has seen these changes
			cause = fmt.Errorf("%w: bit 7", ErrCorrupt)
			fails(damaged, ErrLoadFailed)
			cause = peft.ErrParity
			fails(wrong, ErrLoadFailed)
			cause = nil
			fails(damaged, ErrLoadFailed)
			repair(damaged)
			repair(wrong)
			mustAcquire(t, c, damaged).Release()
			fails(wrong, ErrLoadFailed)
		}
		f.fail = nil
		f.closeAll(c)
	})
}

// TestLoadErrors: of the cause of a failed load only what is said about the adapter reaches the requests that wait: an
// error of the engine would be answered as theirs. A failed parity check is not repeated soon.
func TestLoadErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		c := f.cache(CacheConfig{Limit: 100, RetryAfter: 5 * time.Second})
		engine := errors.New("prompt is too long")
		for i, class := range []error{ErrLoadFailed, ErrLoadTimeout} {
			f.fail = func(Version) error {
				if errors.Is(class, ErrLoadTimeout) {
					return fmt.Errorf("%w: %w", class, engine)
				}
				return engine
			}
			_, err := c.Acquire(t.Context(), f.version(10+i, 10))
			wants(t, "a load that failed", err, class)
			if errors.Is(err, engine) || !strings.Contains(err.Error(), engine.Error()) || Reason(err) != "" {
				t.Errorf("%v is the engine's error: %v; reason %q", err, errors.Is(err, engine), Reason(err))
			}
		}
		f.fail = func(Version) error { return fmt.Errorf("%w: token 7", peft.ErrParity) }
		before := f.loads.Load()
		for range 3 {
			_, err := c.Acquire(t.Context(), f.version(20, 10))
			wants(t, "a failed parity check", err, ErrLoadFailed)
			if !strings.Contains(Reason(err), "token 7") {
				t.Errorf("%v has the reason %q", err, Reason(err))
			}
			time.Sleep(10 * time.Minute)
		}
		if n := f.loads.Load() - before; n != 1 {
			t.Errorf("%d loads of what cannot become right", n)
		}
		f.fail = func(Version) error {
			return &peft.RefusedError{Path: "/secret/folder", Reasons: []peft.Reason{{What: "rank 0"}}}
		}
		_, err := c.Acquire(t.Context(), f.version(21, 10))
		if why := Reason(err); !strings.Contains(why, "rank 0") || strings.Contains(why, "secret") {
			t.Errorf("%v has the reason %q", err, why)
		}
		f.fail = func(Version) error { return fmt.Errorf("%w: add it again", ErrCorrupt) }
		_, err = c.Acquire(t.Context(), f.version(22, 10))
		if why := Reason(err); !strings.Contains(why, "add it again") {
			t.Errorf("%v has the reason %q", err, why)
		}
		f.fail = nil
		f.closeAll(c)
	})
}
