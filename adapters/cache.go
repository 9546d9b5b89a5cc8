package adapters

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"weft/runtime/lora"
)

// Resident is an adapter in memory, ready for batches.
type Resident interface {
	Weights() *lora.Weights
	Bytes() int64 // what it takes; does not change
	Free()        // called once, when no lease is left
}

// Memory is the budget that adapters share with the KV cache. Borrow and Return may take a lock that is held while Cache.Reclaim is called: the cache calls them without
// holding its own.
type Memory interface {
	// Borrow takes bytes for an adapter; false says that there are none now.
	Borrow(bytes int64) bool
	Return(bytes int64)
	// Lendable is the most that can ever be borrowed: an adapter that takes more is refused at once.
	Lendable() int64
}

// Source is the registry as the cache knows it.
type Source interface {
	// Dir returns a folder with the version's files, checked.
	Dir(ctx context.Context, v Version) (string, error)
	// Changes grows with every change of what Pins returns.
	Changes(ctx context.Context) (int64, error)
	// Pins returns all digests that are in the registry, and whether a name with that version is pinned.
	Pins(ctx context.Context) (map[string]bool, error)
}

// CacheConfig says what a Cache works with. Zero durations and counts mean the default that is named.
type CacheConfig struct {
	Registry    Source
	Load        func(ctx context.Context, v Version, dir string) (Resident, error)
	Memory      Memory        // nil: Limit alone bounds the adapters
	Limit       int64         // bytes of all adapters together; 0: Memory alone bounds them
	MaxLoads    int           // loads at once; 1
	LoadTimeout time.Duration // how long a request waits for its adapter; 30 s
	RetryAfter  time.Duration // how long a failed load is answered with its error; 5 s
	AgeAfter    time.Duration // how long adapters in use may keep the oldest load from its memory before their new requests queue behind it; 1 s
	SyncEvery   time.Duration // how often the registry is asked for changes; 500 ms
	// OnLoad is told of every load that ended, or nil. It must not call the cache.
	OnLoad func(v Version, took time.Duration, err error)
}

func (c CacheConfig) filled() CacheConfig {
	for _, d := range []struct {
		to  *time.Duration
		def time.Duration
	}{{&c.LoadTimeout, 30 * time.Second}, {&c.RetryAfter, 5 * time.Second}, {&c.AgeAfter, time.Second}, {&c.SyncEvery, 500 * time.Millisecond}} {
		if *d.to <= 0 {
			*d.to = d.def
		}
	}
	if c.MaxLoads <= 0 {
		c.MaxLoads = 1
	}
	if c.Limit <= 0 {
		c.Limit = math.MaxInt64
	}
	if c.Memory != nil {
		c.Limit = min(c.Limit, c.Memory.Lendable())
	}
	return c
}

// Cache keeps adapters in memory: from the store to the host, which on the cpu device is the device. Each is there once, by its digest, whoever uses it. Safe for concurrent use.
//
// An entry is in one of these, always:
//
//	waiting   in order of arrival, for memory and a free load
//	loading   its memory is charged, a goroutine reads it
//	in use    refs > 0: never evicted
//	idle      refs == 0, in the LRU by its last use: evicted when memory is needed, by a load or by the KV cache
//	kept      refs == 0 and pinned: stays until it is removed or no longer pinned
//
// and charged == the bytes of loading, in use, idle and kept ones, which are borrowed from Memory; spare == those of the idle ones.
type Cache struct {
	cfg CacheConfig

	mu      sync.Mutex
	entries map[string]*entry // by digest
	idle    *simplelru.LRU[string, *entry]
	waiting []*entry
	charged int64
	spare   int64 // bytes of the idle ones
	loads   int
	drains  int // entries whose new requests wait for the head of waiting
	closed  bool
	failed  *simplelru.LRU[string, failure]
	sizes   *simplelru.LRU[string, int64] // what adapters take where their version says otherwise
	stats   Stats

	wake   chan struct{}   // the dispatcher has something to look at
	ctx    context.Context //nolint:containedctx // the life of the cache's goroutines, ended by Close
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// bounds of what a Cache remembers of adapters that are not in memory.
const (
	maxFailures = 1024
	maxSizes    = 1 << 14
)

type phase uint8

const (
	waiting phase = iota
	loading
	resident
)

// entry is an adapter in memory or on its way.
type entry struct {
	version  Version
	phase    phase
	bytes    int64 // charged from loading on
	since    time.Time
	refs     int
	pinned   bool
	removed  bool // no longer in the registry: goes when refs == 0
	draining bool // new requests wait for the head of waiting
	queue    []*waiter
	res      Resident
}

// waiter is a request that waits for an entry: ready is closed once it holds a reference (err == nil) or failed.
type waiter struct {
	ready chan struct{}
	entry *entry
	err   error
}

type failure struct {
	err   error
	until time.Time
}

// Stats counts what a Cache holds and has done.
type Stats struct {
	Count, InUse, Pinned int   // adapters in memory; of these with a lease; of these pinned
	Bytes                int64 // of adapters in memory or being loaded
	Loading, Waiting     int   // adapters being loaded; adapters waiting for memory
	Queued               int   // requests that wait for an adapter
	Hits, Misses         int64 // requests whose adapter was in memory, and was not
	Loads, Failures      int64 // loads that ended well, and that failed
	Evictions, Reclaims  int64 // adapters that made room for others, and for the KV cache
}

// NewCache starts a cache; the caller closes it after the last lease.
func NewCache(cfg CacheConfig) (*Cache, error) {
	if cfg.Registry == nil || cfg.Load == nil {
		return nil, errors.New("adapter cache: a registry and a way to load are needed")
	}
	c := &Cache{cfg: cfg.filled(), entries: map[string]*entry{}, wake: make(chan struct{}, 1)}
	var errs [3]error
	c.idle, errs[0] = simplelru.NewLRU[string, *entry](math.MaxInt, nil)
	c.failed, errs[1] = simplelru.NewLRU[string, failure](maxFailures, nil)
	c.sizes, errs[2] = simplelru.NewLRU[string, int64](maxSizes, nil)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.done.Go(c.dispatch)
	c.done.Go(c.watch)
	return c, nil
}

// Close fails what waits, waits for loads to end and frees all adapters. Leases that are still out are freed at their release.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.done.Wait()
	c.mu.Lock()
	var gone []*entry
	for _, e := range c.entries {
		e.removed = true
		c.fail(e, errClosed)
		if e.phase == resident && e.refs == 0 {
			gone = append(gone, c.take(e))
		}
	}
	c.waiting = nil
	c.mu.Unlock()
	c.free(gone)
}

var errClosed = fmt.Errorf("%w: the server is closing", ErrLoadTimeout)

// Acquire returns a lease of the version's weights. One that is in memory comes at once; else the call waits, outside of any batch, until it has been loaded.
// ErrLoadTimeout, ErrLoadFailed, or the context's error.
func (c *Cache) Acquire(ctx context.Context, v Version) (Lease, error) {
	c.mu.Lock()
	e := c.entries[v.Digest]
	if e != nil && e.phase == resident && !e.draining {
		c.stats.Hits++
		c.use(e)
		c.mu.Unlock()
		return &lease{cache: c, entry: e, version: v}, nil
	}
	w, err := c.enqueue(e, v)
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	c.kick()
	timer := time.NewTimer(c.cfg.LoadTimeout)
	defer timer.Stop()
	select {
	case <-w.ready:
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = fmt.Errorf("%w: %s after %v: all memory for adapters is in use, or the store is slow", ErrLoadTimeout, v.Ref(), c.cfg.LoadTimeout)
	}
	return c.arrived(w, v, err)
}

// Fits says whether the versions, each of another digest, can ever be in memory together: else ErrTooLarge.
func (c *Cache) Fits(vs ...Version) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := int64(0)
	for _, v := range vs {
		n, ok := c.sizes.Peek(v.Digest)
		if !ok {
			n = v.Bytes
		}
		sum += n
	}
	if sum > c.cfg.Limit {
		return fmt.Errorf("%w: %d bytes of %d", ErrTooLarge, sum, c.cfg.Limit)
	}
	return nil
}

// enqueue lets a request wait for e, or for a new entry. A load that failed lately is answered at once.
func (c *Cache) enqueue(e *entry, v Version) (*waiter, error) {
	if c.closed {
		return nil, errClosed
	}
	if e == nil {
		if f, ok := c.failed.Get(v.Digest); ok {
			if time.Now().Before(f.until) {
				return nil, f.err
			}
			c.failed.Remove(v.Digest)
		}
		e = c.await(v)
	}
	c.stats.Misses++
	c.stats.Queued++
	w := &waiter{ready: make(chan struct{}), entry: e}
	e.queue = append(e.queue, w)
	return w, nil
}

// await makes an entry that waits for memory.
func (c *Cache) await(v Version) *entry {
	e := &entry{version: v, since: time.Now(), pinned: v.Pinned, bytes: v.Bytes}
	if n, ok := c.sizes.Get(v.Digest); ok {
		e.bytes = n
	}
	c.entries[v.Digest] = e
	c.waiting = append(c.waiting, e)
	return e
}

// arrived ends a wait: with a lease if the waiter was given a reference, which it returns if its request has gone meanwhile.
func (c *Cache) arrived(w *waiter, v Version, gone error) (Lease, error) {
	if gone == nil {
		if w.err != nil {
			return nil, w.err
		}
		return &lease{cache: c, entry: w.entry, version: v}, nil
	}
	c.mu.Lock()
	select {
	case <-w.ready:
		c.mu.Unlock()
		if w.err == nil {
			c.release(w.entry)
		}
	default:
		for i, other := range w.entry.queue {
			if other == w {
				w.entry.queue = append(w.entry.queue[:i], w.entry.queue[i+1:]...)
				c.stats.Queued--
				break
			}
		}
		c.mu.Unlock()
		c.kick() // nobody may be waiting for it now
	}
	return nil, gone
}

// use adds a reference to a resident entry.
func (c *Cache) use(e *entry) {
	if e.refs == 0 {
		c.unpark(e)
	}
	e.refs++
}

// release ends a reference.
func (c *Cache) release(e *entry) {
	c.mu.Lock()
	e.refs--
	var gone []*entry
	if e.refs == 0 {
		if gone = c.settle(e); len(gone) == 0 && !e.draining && len(c.waiting) == 0 {
			c.mu.Unlock()
			return // the usual case: nobody waits for memory
		}
	}
	c.mu.Unlock()
	c.free(gone)
	c.kick()
}

// settle puts a resident entry without references where it belongs; one that was removed is returned, to be freed.
func (c *Cache) settle(e *entry) []*entry {
	switch {
	case e.removed:
		return []*entry{c.take(e)}
	case e.pinned:
		c.unpark(e)
	default:
		c.park(e)
	}
	return nil
}

// park makes an entry the most recently used of the idle ones; unpark takes it from them.
func (c *Cache) park(e *entry) {
	if !c.idle.Contains(e.version.Digest) {
		c.spare += e.bytes
	}
	c.idle.Add(e.version.Digest, e)
}

func (c *Cache) unpark(e *entry) {
	if c.idle.Remove(e.version.Digest) {
		c.spare -= e.bytes
	}
}

// take takes a resident entry without references out of the cache; requests that wait for it wait for a new one. The caller frees it.
func (c *Cache) take(e *entry) *entry {
	c.unpark(e)
	delete(c.entries, e.version.Digest)
	c.charged -= e.bytes
	c.undrain(e)
	if queue := e.queue; len(queue) > 0 {
		e.queue = nil
		next := c.await(e.version)
		for _, w := range queue {
			w.entry = next
		}
		next.queue = queue
	}
	return e
}

func (c *Cache) undrain(e *entry) {
	if e.draining {
		e.draining = false
		c.drains--
	}
}

// free gives back the memory of entries that were taken out; called without the lock.
func (c *Cache) free(gone []*entry) {
	for _, e := range gone {
		e.res.Free()
		if c.cfg.Memory != nil {
			c.cfg.Memory.Return(e.bytes)
		}
	}
}

// Reclaim evicts idle adapters, the least recently used first, until bytes are free or none is left, and returns how many it freed. Their memory is the caller's: it is
// not given to Memory.Return.
func (c *Cache) Reclaim(bytes int64) int64 {
	c.mu.Lock()
	var gone []*entry
	freed := int64(0)
	for freed < bytes {
		_, e, ok := c.idle.GetOldest()
		if !ok {
			break
		}
		freed += e.bytes
		gone = append(gone, c.take(e))
	}
	c.stats.Reclaims += int64(len(gone))
	c.mu.Unlock()
	for _, e := range gone {
		e.res.Free()
	}
	return freed
}

// grant gives everybody who waits for a resident entry a reference.
func (c *Cache) grant(e *entry) {
	for _, w := range e.queue {
		c.use(e)
		close(w.ready)
	}
	c.stats.Queued -= len(e.queue)
	e.queue = nil
}

// fail gives everybody who waits for an entry an error.
func (c *Cache) fail(e *entry, err error) {
	for _, w := range e.queue {
		w.err = err
		close(w.ready)
	}
	c.stats.Queued -= len(e.queue)
	e.queue = nil
}

// State says where a version is, and why its load failed.
func (c *Cache) State(v Version) (State, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[v.Digest]; e != nil {
		if e.phase == resident {
			return Device, ""
		}
		return Loading, ""
	}
	if f, ok := c.failed.Peek(v.Digest); ok {
		return Failed, f.err.Error()
	}
	return Disk, ""
}

// Stats returns the counters as they are now.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Bytes, s.Loading, s.Waiting = c.charged, c.loads, len(c.waiting)
	for _, e := range c.entries {
		if e.phase != resident {
			continue
		}
		s.Count++
		if e.refs > 0 {
			s.InUse++
		}
		if e.pinned {
			s.Pinned++
		}
	}
	return s
}

// lease is a reference to an entry.
type lease struct {
	cache    *Cache
	entry    *entry
	version  Version
	released sync.Once
}

func (l *lease) Version() Version       { return l.version }
func (l *lease) Weights() *lora.Weights { return l.entry.res.Weights() }
func (l *lease) Release()               { l.released.Do(func() { l.cache.release(l.entry) }) }
