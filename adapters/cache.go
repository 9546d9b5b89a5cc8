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
	Bytes() int64 // of memory; does not change
	Free()        // called once, when no lease is left
}

// Memory is the budget that adapters share with the KV cache. The cache calls it without its own lock; Cache.UseIdle is
// how the KV cache gets memory back.
type Memory interface {
	// ReserveIdle reserves bytes for an adapter, or returns false where that much is not free now.
	ReserveIdle(bytes int64) bool
	ReleaseIdle(bytes int64)
	// Reservable returns the most bytes that can ever be reserved; an adapter that needs more is refused at once.
	Reservable() int64
}

// Source is the part of the registry that the cache needs.
type Source interface {
	// Dir returns a folder with the version's files, whose digests were checked.
	Dir(ctx context.Context, v Version) (string, error)
	// Changes returns a number that grows whenever the result of Pins changes.
	Changes(ctx context.Context) (int64, error)
	// Pins returns the digests of all versions in the registry, and whether each is pinned.
	Pins(ctx context.Context) (map[string]bool, error)
}

// CacheConfig is the configuration of a Cache. Zero durations and counts mean the default given here.
type CacheConfig struct {
	Registry    Source
	Load        func(ctx context.Context, v Version, dir string) (Resident, error)
	Memory      Memory        // nil: only Limit applies
	Limit       int64         // bytes of all adapters together; 0: only Memory's limit applies
	MaxLoads    int           // concurrent loads; default 1
	LoadTimeout time.Duration // how long a request waits for its adapter; default 30 s
	RetryAfter  time.Duration // how long requests get the error of a failed load before it is tried again; default 5 s
	// how long the oldest pending load waits for memory of adapters in use before their new requests wait behind it;
	// default 1 s
	AgeAfter time.Duration
	// SetAside asks the users of w to give it up and reacquire it (Reacquire), because others need its memory; they do
	// so soon after, or not. It is called without a lock, and again as long as the memory is needed. nil: adapters in
	// use stay until their requests end.
	SetAside func(w *lora.Weights)
	// how long an adapter is in use at least before it is set aside for a tenant that has as many as its own; default a
	// quarter of LoadTimeout
	Turn      time.Duration
	SyncEvery time.Duration // how often the registry is polled for changes; default 500 ms
	// OnLoad is called after every load, without a lock, or nil.
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
	if c.Turn <= 0 {
		c.Turn = c.LoadTimeout / 4
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

// Cache loads adapters from the registry to the device and keeps them in memory. An adapter is in memory once, under
// its digest, for all tenants that have it. Safe for concurrent use. An entry is always in one of these states:
//
//	charged   its memory is reserved, and it waits to be loaded
//	loading   a goroutine reads it
//	in use    refs > 0: never evicted
//	idle      refs == 0, in the LRU by its last use: evicted when memory is needed, by a load or by the KV cache
//	kept      refs == 0 and pinned: stays in memory until it is removed or no longer pinned
//
// charged is the bytes of all entries, which are reserved from Memory; spare is those of the idle entries. An adapter
// without memory has no entry: requests wait for it in a pending load, and hold no memory and no adapter while they
// wait.
type Cache struct {
	cfg CacheConfig

	mu      sync.Mutex
	entries map[string]*entry // by digest
	idle    *simplelru.LRU[string, *entry]
	pending map[string]*pendingLoad // by key
	waiting []*pendingLoad          // all pending loads, in order of arrival
	starts  []*entry                // charged entries in the order in which they are loaded
	charged int64
	spare   int64 // bytes of the idle entries
	loads   int
	drains  int          // entries whose new requests wait behind drainer
	drainer *pendingLoad // the first pending load in waiting, which needs their memory
	closed  bool
	failed  *simplelru.LRU[string, failure]
	sizes   *simplelru.LRU[string, int64] // bytes of adapters, where they differ from Version.Bytes
	stats   Stats

	wake   chan struct{}   // wakes the dispatcher
	ctx    context.Context //nolint:containedctx // of the cache's goroutines, cancelled by Close
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// Limits of what a Cache remembers of adapters that are not in memory.
const (
	maxFailures = 1024
	maxSizes    = 1 << 14
)

type phase uint8

const (
	charged phase = iota
	loading
	resident
	dead // its load failed, or is repeated with more memory
)

// entry is an adapter in memory or being loaded; its memory is reserved.
type entry struct {
	version  Version
	phase    phase
	bytes    int64
	since    time.Time      // when the load ended
	refs     int            // leases, and requests that wait for its load
	by       map[string]int // of refs, those of each tenant
	busy     time.Time      // when refs was 0 last, or the load ended
	pinned   bool
	removed  bool            // no longer in the registry: freed when refs == 0
	draining bool            // new requests wait behind the cache's drainer
	users    map[string]bool // tenants that asked for it while it was in memory; State does not show it to others
	waiters  []*waiter       // requests that wait for its load
	res      Resident
}

type failure struct {
	err   error
	until time.Time
	users map[string]bool // tenants whose requests got the error
}

// Stats has the figures of a Cache.
type Stats struct {
	Count, InUse, Pinned int   // adapters in memory; those with a lease; those pinned
	Bytes                int64 // of adapters in memory or being loaded
	Loading, Waiting     int   // adapters being loaded; adapters and combinations waiting for memory
	Queued               int   // requests that wait for an adapter
	Hits, Misses         int64 // adapters of requests that were in memory, and that were not
	Loads, Failures      int64 // loads that succeeded, and that failed
	Evictions, Reclaims  int64 // adapters evicted for other adapters, and for the KV cache
	// Room is how many more adapters of the mean size the limit leaves room for; -1 while none is in memory.
	Room int
}

// NewCache starts a cache; the caller closes it after the last lease.
func NewCache(cfg CacheConfig) (*Cache, error) {
	if cfg.Registry == nil || cfg.Load == nil {
		return nil, errors.New("adapter cache: Source and Load must be set")
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

// Close fails the waiting requests, waits for loads to end and frees all adapters; those with a lease are freed at its
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

// Acquire returns a lease of the version's weights, at once where they are in memory, else after they have been loaded.
// It returns ErrLoadTimeout, ErrUnread, ErrLoadFailed, ErrNoRoom, ErrPinned, or the context's error.
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

// AcquireAll returns leases of all versions, in their order, or an error and none. While it waits for memory it holds
// no adapter, so that requests cannot wait for each other. Versions that can never be in memory together are refused at
// once: ErrTooLarge or, for one version, ErrNoRoom; ErrPinned where pinned adapters have the memory. Other errors
// are those of Acquire.
func (c *Cache) AcquireAll(ctx context.Context, vs ...Version) ([]Lease, error) {
	timer := time.NewTimer(c.cfg.LoadTimeout)
	defer timer.Stop()
	return c.acquire(ctx, timer.C, vs)
}

// Reacquire is AcquireAll for a request that had these adapters and was set aside: it waits as long as ctx allows.
func (c *Cache) Reacquire(ctx context.Context, vs ...Version) ([]Lease, error) {
	return c.acquire(ctx, nil, vs)
}

func (c *Cache) acquire(ctx context.Context, timeout <-chan time.Time, vs []Version) ([]Lease, error) {
	w := &waiter{ready: make(chan struct{}), versions: vs}
	c.mu.Lock()
	err := c.ask(w)
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	c.kick()
	select {
	case <-w.ready:
	case <-ctx.Done():
		err = ctx.Err()
	case <-timeout:
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

// use adds a reference to an entry for a tenant.
func (c *Cache) use(e *entry, tenant string) {
	if e.refs == 0 {
		c.unpark(e)
		e.busy = time.Now()
	}
	e.refs++
	e.by[tenant]++
	if !e.users[tenant] {
		e.users[tenant] = true
	}
}

// release ends a lease of a tenant.
func (c *Cache) release(e *entry, tenant string) {
	c.mu.Lock()
	gone := c.dropOf(e, tenant)
	if e.refs > 0 || len(gone) == 0 && !e.draining && len(c.waiting) == 0 {
		c.mu.Unlock()
		return // the usual case: no load waits for memory
	}
	c.mu.Unlock()
	c.free(gone)
	c.kick()
}

// dropOf is drop for a reference of a tenant.
func (c *Cache) dropOf(e *entry, tenant string) []*entry {
	if e.by[tenant]--; e.by[tenant] <= 0 {
		delete(e.by, tenant)
	}
	return c.drop(e)
}

// drop ends a reference and returns the entries that the caller must free.
func (c *Cache) drop(e *entry) []*entry {
	if e.refs--; e.refs > 0 {
		return nil
	}
	switch e.phase {
	case resident:
		return c.settle(e)
	case charged: // no request waits for it any more
		c.starts = slices.DeleteFunc(c.starts, func(s *entry) bool { return s == e })
		return []*entry{c.take(e)}
	}
	return nil
}

// settle makes an entry in memory without references idle or kept; an entry that was removed is returned, and the
// caller frees it.
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

// park makes an entry the most recently used idle one; unpark removes it from the idle ones.
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

// take removes an entry without references from the cache. The caller frees it.
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

// free frees entries that were removed and releases their memory; called without the lock.
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

// UseIdle lets the KV cache use the memory of idle adapters. It calls plan with their bytes, under the cache's lock, so
// that they stay idle until plan returns, and then evicts as many as plan has used, the least recently used first. What
// the evicted ones had beyond that is released; all of it is free when UseIdle returns.
func (c *Cache) UseIdle(plan func(idle int64) (used int64)) {
	gone, used := c.useIdle(plan)
	for i, e := range gone {
		e.res.Free()
		if rest := e.bytes - used; i == len(gone)-1 && rest > 0 {
			c.cfg.Memory.ReleaseIdle(rest)
		}
		used -= e.bytes
	}
	if len(gone) > 0 {
		c.kick()
	}
}

// useIdle is UseIdle under the lock. The caller frees the entries.
func (c *Cache) useIdle(plan func(idle int64) int64) (gone []*entry, used int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	used = plan(c.spare)
	for left := used; left > 0; {
		_, e, ok := c.idle.GetOldest()
		if !ok {
			break
		}
		left -= e.bytes
		gone = append(gone, c.take(e))
	}
	c.stats.Reclaims += int64(len(gone))
	return gone, used
}

// State returns where a version is for its tenant, and why its load failed. A version that only another tenant with the
// same digest has used is Disk.
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

// Held returns the digests of the adapters in memory, and of those that requests wait for.
func (c *Cache) Held() (inMemory, awaited map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	inMemory, awaited = map[string]bool{}, map[string]bool{}
	for digest, e := range c.entries {
		if e.phase == resident {
			inMemory[digest] = true
		} else {
			awaited[digest] = true
		}
	}
	for _, w := range c.waiting {
		for _, v := range w.versions {
			if c.entries[v.Digest] == nil {
				awaited[v.Digest] = true
			}
		}
	}
	return inMemory, awaited
}

// Stats returns the current figures.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Bytes, s.Loading, s.Waiting, s.Room = c.charged, c.loads, len(c.waiting), -1
	if c.charged > 0 {
		s.Room = int(min(float64(c.cfg.Limit-c.charged)/float64(c.charged)*float64(len(c.entries)), math.MaxInt32))
	}
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
func (l *lease) Release()               { l.released.Do(func() { l.cache.release(l.entry, l.version.Tenant) }) }
