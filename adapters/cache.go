package adapters

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
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

// Memory is the budget that adapters share with the KV cache. ReserveIdle and ReleaseIdle may take a lock that is held while
// Cache.Reclaim is called: the cache calls them without holding its own.
type Memory interface {
	// ReserveIdle takes bytes for an adapter; false says that there are none now.
	ReserveIdle(bytes int64) bool
	ReleaseIdle(bytes int64)
	// Reservable is the most that can ever be reserved: an adapter that takes more is refused at once.
	Reservable() int64
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
	// how long adapters in use may keep the oldest load from its memory before their new requests queue behind it; 1 s
	AgeAfter  time.Duration
	SyncEvery time.Duration // how often the registry is asked for changes; 500 ms
	// OnLoad is told of every load that ended, or nil. It must not call the cache.
	OnLoad func(v Version, took time.Duration, err error)
}

func (c CacheConfig) filled() CacheConfig {
	for _, d := range []struct {
		to  *time.Duration
		def time.Duration
	}{{&c.LoadTimeout, 30 * time.Second}, {&c.RetryAfter, 5 * time.Second}, {&c.AgeAfter, time.Second},
		{&c.SyncEvery, 500 * time.Millisecond}} {
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
		c.Limit = min(c.Limit, c.Memory.Reservable())
	}
	return c
}

// Cache keeps adapters in memory: from the store to the host, which on the cpu device is the device. Each is there
// once, by its digest, whoever uses it. Safe for concurrent use.
//
// An entry is in one of these, always:
//
//	charged   its memory is, and it waits for a free load
//	loading   a goroutine reads it
//	in use    refs > 0: never evicted
//	idle      refs == 0, in the LRU by its last use: evicted when memory is needed, by a load or by the KV cache
//	kept      refs == 0 and pinned: stays until it is removed or no longer pinned
//
// and charged == the bytes of all entries, which are reserved from Memory; spare == those of the idle ones. What has no
// memory yet is no entry: requests wait for it in a pending load, and hold nothing meanwhile.
type Cache struct {
	cfg CacheConfig

	mu      sync.Mutex
	entries map[string]*entry // by digest
	idle    *simplelru.LRU[string, *entry]
	pending map[string]*pendingLoad // by key
	waiting []*pendingLoad          // all pending loads, in order of arrival
	starts  []*entry                // charged ones, the next to be loaded first
	charged int64
	spare   int64 // bytes of the idle ones
	loads   int
	drains  int          // entries whose new requests wait for drainer
	drainer *pendingLoad // the head of waiting for which they drain
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
	charged phase = iota
	loading
	resident
	dead // its load failed, or is to be repeated with more memory
)

// entry is an adapter in memory or on its way, with its memory charged.
type entry struct {
	version  Version
	phase    phase
	bytes    int64
	since    time.Time // resident
	refs     int       // leases, and requests that wait for its load
	pinned   bool
	removed  bool            // no longer in the registry: goes when refs == 0
	draining bool            // new requests wait for the cache's drainer
	users    map[string]bool // tenants that asked for it while it was here: others are not told that it is
	waiters  []*waiter       // of its load
	res      Resident
}

type failure struct {
	err   error
	until time.Time
	users map[string]bool // tenants that met it
}

// Stats counts what a Cache holds and has done.
type Stats struct {
	Count, InUse, Pinned int   // adapters in memory; of these with a lease; of these pinned
	Bytes                int64 // of adapters in memory or being loaded
	Loading, Waiting     int   // adapters being loaded; adapters and combinations waiting for memory
	Queued               int   // requests that wait for an adapter
	Hits, Misses         int64 // adapters of requests that were in memory, and that were not
	Loads, Failures      int64 // loads that ended well, and that failed
	Evictions, Reclaims  int64 // adapters that made room for others, and for the KV cache
}

// NewCache starts a cache; the caller closes it after the last lease.
func NewCache(cfg CacheConfig) (*Cache, error) {
	if cfg.Registry == nil || cfg.Load == nil {
		return nil, errors.New("adapter cache: a registry and a way to load are needed")
	}
	c := &Cache{cfg: cfg.filled(), entries: map[string]*entry{}, pending: map[string]*pendingLoad{},
		wake: make(chan struct{}, 1)}
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

// Close fails what waits, waits for loads to end and frees all adapters. Leases that are still out are freed at their
// release.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.done.Wait()
	c.mu.Lock()
	var gone []*entry
	for _, w := range slices.Clone(c.waiting) {
		c.failPending(w, errClosed)
	}
	for _, e := range slices.Clone(c.starts) {
		gone = append(gone, c.failEntry(e, errClosed)...)
	}
	for _, e := range c.entries {
		if e.removed = true; e.refs == 0 {
			gone = append(gone, c.take(e))
		}
	}
	c.mu.Unlock()
	c.free(gone)
}

var errClosed = fmt.Errorf("%w: the server is closing", ErrLoadTimeout)

// Acquire returns a lease of the version's weights. One that is in memory comes at once; else the call waits, outside
// of any batch, until it has been loaded. ErrLoadTimeout, ErrLoadFailed, ErrPinned, or the context's error.
func (c *Cache) Acquire(ctx context.Context, v Version) (Lease, error) {
	c.mu.Lock()
	if e := c.entries[v.Digest]; e != nil && e.phase == resident && !e.draining {
		c.stats.Hits++
		c.use(e, v.Tenant)
		c.mu.Unlock()
		return &lease{cache: c, entry: e, version: v}, nil
	}
	c.mu.Unlock()
	all, err := c.AcquireAll(ctx, v)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// AcquireAll returns leases of all versions, in their order, or of none. While memory lacks for what is not there it
// holds nothing that another request could wait for. What can never be in memory together is refused at once:
// ErrTooLarge or, for one alone, ErrLoadFailed; ErrPinned where pinned adapters have the room. Else as Acquire.
func (c *Cache) AcquireAll(ctx context.Context, vs ...Version) ([]Lease, error) {
	w := &waiter{ready: make(chan struct{}), versions: vs}
	c.mu.Lock()
	err := c.ask(w)
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
		err = fmt.Errorf("%w: %s after %v: all memory for adapters is in use, or the store is slow", ErrLoadTimeout,
			refs(vs), c.cfg.LoadTimeout)
	}
	if err != nil {
		c.abandon(w)
		return nil, err
	}
	if w.err != nil {
		return nil, w.err
	}
	out := make([]Lease, len(vs))
	for i := range vs {
		out[i] = &lease{cache: c, entry: w.entries[i], version: vs[i]}
	}
	return out, nil
}

// use adds a reference to an entry, for a tenant.
func (c *Cache) use(e *entry, tenant string) {
	if e.refs == 0 {
		c.unpark(e)
	}
	e.refs++
	if !e.users[tenant] {
		e.users[tenant] = true
	}
}

// release ends a lease.
func (c *Cache) release(e *entry) {
	c.mu.Lock()
	gone := c.drop(e)
	if e.refs > 0 || len(gone) == 0 && !e.draining && len(c.waiting) == 0 {
		c.mu.Unlock()
		return // the usual case: nobody waits for memory
	}
	c.mu.Unlock()
	c.free(gone)
	c.kick()
}

// drop ends a reference; what goes with the last one is returned, to be freed.
func (c *Cache) drop(e *entry) []*entry {
	if e.refs--; e.refs > 0 {
		return nil
	}
	switch e.phase {
	case resident:
		return c.settle(e)
	case charged: // nobody waits for it any more
		c.starts = slices.DeleteFunc(c.starts, func(s *entry) bool { return s == e })
		return []*entry{c.take(e)}
	}
	return nil
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

// take takes an entry without references out of the cache. The caller frees it.
func (c *Cache) take(e *entry) *entry {
	c.unpark(e)
	delete(c.entries, e.version.Digest)
	c.charged -= e.bytes
	c.undrain(e)
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
		if e.res != nil {
			e.res.Free()
		}
		if c.cfg.Memory != nil {
			c.cfg.Memory.ReleaseIdle(e.bytes)
		}
	}
}

// Reclaim evicts idle adapters, the least recently used first, until bytes are free or none is left, and returns how
// many it freed. Their memory is the caller's: it is not given to Memory.ReleaseIdle.
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

// State says where a version is for its tenant, and why its load failed. What another tenant brought here under the
// same digest is on disk for this one until it asks.
func (c *Cache) State(v Version) (State, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[v.Digest]; e != nil && e.users[v.Tenant] {
		if e.phase == resident {
			return Device, ""
		}
		return Loading, ""
	}
	if w := c.pending[v.Digest]; w != nil &&
		slices.ContainsFunc(w.queue, func(q *waiter) bool { return q.versions[0].Tenant == v.Tenant }) {
		return Loading, ""
	}
	if f, ok := c.failed.Peek(v.Digest); ok && f.users[v.Tenant] {
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
