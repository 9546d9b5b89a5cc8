package adapters

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"weft/adapters/peft"
	"weft/internal/priority"
	"weft/runtime/lora"
)

// pollMemory is how often the dispatcher asks again for memory that the KV cache has.
const pollMemory = 10 * time.Millisecond

// maxBypass limits how many pending loads are tried behind one that has no memory.
const maxBypass = 16

// kick wakes the dispatcher.
func (c *Cache) kick() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// dispatch starts loads in order of arrival, as memory and MaxLoads allow. Only its goroutine reserves memory.
func (c *Cache) dispatch() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.wake:
		case <-timer.C:
		}
		for c.startOne() {
			if c.ctx.Err() != nil {
				return
			}
		}
		c.mu.Lock()
		again := len(c.waiting) > 0 && c.loads < c.cfg.MaxLoads
		c.mu.Unlock()
		if again {
			timer.Reset(pollMemory)
		}
	}
}

// startOne starts one load: of an entry whose memory is reserved, else of the first pending load for which there is
// memory. It returns whether to call it again. Others may overtake the oldest pending load until it has waited
// AgeAfter; after that the adapters whose memory it needs accept no new requests.
func (c *Cache) startOne() bool {
	c.mu.Lock()
	c.review()
	if c.loads < c.cfg.MaxLoads && len(c.starts) > 0 {
		e := c.starts[0]
		c.starts = c.starts[1:]
		e.phase = loading
		c.loads++
		c.mu.Unlock()
		c.done.Go(func() { c.load(e) })
		return true
	}
	if c.loads >= c.cfg.MaxLoads || len(c.waiting) == 0 {
		c.mu.Unlock()
		return false
	}
	candidates := slices.Clone(c.waiting[:min(len(c.waiting), maxBypass)])
	aged := time.Since(candidates[0].since) >= c.cfg.AgeAfter
	if aged {
		candidates = candidates[:1]
	}
	c.mu.Unlock()
	for _, w := range candidates {
		if c.reserve(w) {
			return true
		}
	}
	if aged {
		c.drainFor(candidates[0])
		c.setAsideFor(candidates[0])
	}
	return false
}

// review removes pending loads from the queue that need no memory any more, that no request waits for, or that can
// never get their memory. It stops draining where the pending load for it is gone.
func (c *Cache) review() {
	pinned := c.pinnedBytes()
	for {
		for _, w := range slices.Clone(c.waiting) {
			if len(w.queue) == 0 {
				c.forget(w)
			} else if c.complete(w) {
				c.settlePending(w)
			} else if err := c.refusal(w, pinned); err != nil {
				c.failPending(w, err)
			}
		}
		if c.drainer == nil || len(c.waiting) > 0 && c.waiting[0] == c.drainer {
			return
		}
		c.stopDraining()
	}
}

// reserve reserves the memory of all adapters that a pending load lacks, evicts idle adapters for it, and queues them
// to be loaded. It returns false where there is not enough memory now.
func (c *Cache) reserve(w *pendingLoad) bool {
	c.mu.Lock()
	var held, fresh []*entry // held: adapters in memory, which must not be evicted for the others
	need := int64(0)
	blocked := false
	for _, v := range w.versions {
		switch e := c.entries[v.Digest]; {
		case e == nil:
			e = &entry{version: v, phase: charged, bytes: c.bytesOf(v), pinned: v.Pinned, refs: 1,
				users: map[string]bool{}, by: map[string]int{}}
			fresh = append(fresh, e)
			need += e.bytes
		case e.draining:
			blocked = true
		default:
			if e.refs == 0 {
				c.unpark(e)
			}
			e.refs++
			held = append(held, e)
		}
	}
	c.mu.Unlock()
	ok := !blocked && c.charge(need)
	c.mu.Lock()
	if ok && slices.ContainsFunc(held, func(e *entry) bool { return e.phase == dead }) {
		ok = false // the load of one of them failed meanwhile
		c.charged -= need
		defer c.free([]*entry{{bytes: need}})
	}
	if ok {
		for _, e := range fresh {
			c.entries[e.version.Digest] = e
		}
		c.starts = append(c.starts, fresh...)
		c.settlePending(w)
		held = append(held, fresh...)
	}
	var gone []*entry
	for _, e := range held {
		gone = append(gone, c.drop(e)...)
	}
	c.mu.Unlock()
	c.free(gone)
	return ok
}

// charge reserves memory and evicts idle adapters for it; false where there is not enough now.
func (c *Cache) charge(bytes int64) bool {
	for {
		c.mu.Lock()
		if c.charged <= c.cfg.Limit-bytes {
			c.charged += bytes
			c.mu.Unlock()
			if c.cfg.Memory == nil || c.cfg.Memory.ReserveIdle(bytes) {
				return true
			}
			c.mu.Lock()
			c.charged -= bytes
		} else if c.charged-c.spare > c.cfg.Limit-bytes {
			c.mu.Unlock()
			return false // not even if all idle ones were evicted
		}
		gone := c.evictOldest()
		c.mu.Unlock()
		if gone == nil {
			return false
		}
		c.free([]*entry{gone})
	}
}

func (c *Cache) evictOldest() *entry {
	_, e, ok := c.idle.GetOldest()
	if !ok {
		return nil
	}
	c.stats.Evictions++
	return c.take(e)
}

// drainFor makes new requests of adapters in use wait behind w until their memory, with that of the idle ones, suffices
// for w. It chooses first the adapters of the tenants that have most, and none of w's own.
func (c *Cache) drainFor(w *pendingLoad) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drains > 0 {
		return // already chosen
	}
	own := map[*entry]bool{}
	need := c.lacks(w) - c.spare
	for _, v := range w.versions {
		switch e := c.entries[v.Digest]; {
		case e == nil:
		case e.refs == 0 && !e.pinned:
			need += e.bytes // counted in spare, but needed by w itself
			fallthrough
		default:
			own[e] = true
		}
	}
	if free := c.cfg.Limit - c.charged; c.cfg.Memory == nil && free > 0 {
		need -= free
	}
	var busy []*entry
	for _, b := range c.entries {
		if b.phase == resident && b.refs > 0 && !b.pinned && !own[b] {
			busy = append(busy, b)
		}
	}
	use := c.memoryInUse()
	slices.SortFunc(busy, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(least(b, use), least(a, use)), a.since.Compare(b.since))
	})
	c.drainer = w
	for _, b := range busy {
		if need <= 0 {
			return
		}
		b.draining = true
		c.drains++
		need -= b.bytes
	}
}

// lacks returns the bytes of the adapters of w that have no memory.
func (c *Cache) lacks(w *pendingLoad) (bytes int64) {
	for _, v := range w.versions {
		if c.entries[v.Digest] == nil {
			bytes += c.bytesOf(v)
		}
	}
	return bytes
}

// memoryInUse returns the bytes of the adapters that each tenant uses; those of an adapter are divided among its users.
func (c *Cache) memoryInUse() map[string]int64 {
	use := map[string]int64{}
	for _, e := range c.entries {
		for tenant := range e.by {
			use[tenant] += e.bytes / int64(len(e.by))
		}
	}
	return use
}

// least returns the memory in use of that user of e that has least; 0 where it has none.
func least(e *entry, use map[string]int64) int64 {
	n := int64(0)
	for tenant := range e.by {
		if n == 0 || use[tenant] < n {
			n = use[tenant]
		}
	}
	return n
}

// setAsideFor asks the users of draining adapters to give them up for w: those whose tenants still have as much as w's
// when they have given it up, and those that were in use for a turn, if w has waited for one. So memory goes to who has
// less until all have the same, and then around; between two turns every request makes progress.
func (c *Cache) setAsideFor(w *pendingLoad) {
	if c.cfg.SetAside == nil {
		return
	}
	c.mu.Lock()
	var users []*lora.Weights
	if c.drainer == w && len(w.queue) > 0 {
		use := c.memoryInUse()
		own := use[w.queue[0].versions[0].Tenant] + c.lacks(w)
		for _, e := range c.entries {
			turn := time.Since(w.since) >= c.cfg.Turn && time.Since(e.busy) >= c.cfg.Turn
			if e.draining && e.phase == resident && !e.removed && (turn || least(e, use)-e.bytes >= own) {
				users = append(users, e.res.Weights())
			}
		}
	}
	c.mu.Unlock()
	for _, u := range users {
		c.cfg.SetAside(u)
	}
}

// stopDraining lets adapters that were draining accept requests again; review finds the requests that can go on.
func (c *Cache) stopDraining() {
	for _, e := range c.entries {
		c.undrain(e)
	}
	c.drainer = nil
}

func (c *Cache) load(e *entry) {
	priority.Lower()
	began := time.Now()
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.LoadTimeout)
	defer cancel()
	res, err := c.read(ctx, e.version)
	if c.cfg.OnLoad != nil {
		c.cfg.OnLoad(e.version, time.Since(began), err)
	}
	switch {
	case err != nil:
		c.loadFailed(e, err)
	case res.Bytes() > e.bytes:
		c.loadAgain(e, res)
	default:
		c.loaded(e, res)
	}
	c.kick()
}

// read loads a version; a panic of the loader becomes an error of this adapter only.
func (c *Cache) read(ctx context.Context, v Version) (res Resident, err error) {
	defer func() {
		if p := recover(); p != nil {
			res, err = nil, fmt.Errorf("panic: %v", p)
		}
	}()
	dir, err := c.cfg.Registry.Dir(ctx, v)
	if err != nil && !ofAdapter(err) {
		return nil, fmt.Errorf("%w: %w", ErrUnread, err)
	}
	if err != nil {
		return nil, err
	}
	if res, err = c.cfg.Load(ctx, v, dir); ofSystem(err) && !ofAdapter(err) {
		err = fmt.Errorf("%w: %w", ErrUnread, err)
	}
	return res, err
}

// adapterErrors are errors about an adapter and its files.
var adapterErrors = []error{ErrNotFound, ErrInvalid, ErrCorrupt, peft.ErrRefused, peft.ErrParity}

func ofAdapter(err error) bool {
	return slices.ContainsFunc(adapterErrors, func(e error) bool { return errors.Is(err, e) })
}

// ofSystem reports whether an error is one of the operating system's.
func ofSystem(err error) bool {
	var code syscall.Errno
	return errors.As(err, &code)
}

func (c *Cache) loadFailed(e *entry, err error) {
	class := ErrLoadFailed
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, ErrLoadTimeout) {
		class = ErrLoadTimeout
	} else if errors.Is(err, ErrUnread) {
		class = ErrUnread
	}
	err = &loadError{class, e.version.Digest, err}
	c.mu.Lock()
	c.loads--
	c.stats.Failures++
	c.remember(e.version.Digest, err, e.users)
	gone := c.failEntry(e, err)
	c.mu.Unlock()
	c.free(gone)
}

// loadError is why a load failed. Of its cause it is only what this package and package peft say about an adapter: an
// error of the engine, which computed the parity check, is not an error of the requests that wait.
type loadError struct {
	class  error // ErrLoadFailed, ErrLoadTimeout or ErrUnread
	digest string
	cause  error
}

func (e *loadError) Error() string {
	if errors.Is(e.cause, e.class) {
		return fmt.Sprintf("version %.12s: %v", e.digest, e.cause)
	}
	return fmt.Sprintf("%v: version %.12s: %v", e.class, e.digest, e.cause)
}

// Is is for errors.Is.
func (e *loadError) Is(target error) bool {
	return target == e.class || slices.Contains(adapterErrors, target) && errors.Is(e.cause, target)
}

// Reason returns what an error says about an adapter's own content, for its tenant: neither files of this machine nor
// other tenants are named. "" where there is nothing to say.
func Reason(err error) string {
	var load *loadError
	if !errors.As(err, &load) {
		return ""
	}
	var refused *peft.RefusedError
	switch {
	case errors.As(load.cause, &refused):
		return (&peft.RefusedError{Path: "the adapter", Reasons: refused.Reasons, More: refused.More}).Error()
	case ofAdapter(load.cause):
		return load.cause.Error()
	}
	return ""
}

// loadAgain makes the requests of an entry wait again where the adapter needs more memory than its version says.
func (c *Cache) loadAgain(e *entry, res Resident) {
	needed := res.Bytes()
	res.Free()
	c.mu.Lock()
	c.loads--
	c.sizes.Add(e.version.Digest, needed)
	gone := c.retryEntry(e)
	c.mu.Unlock()
	c.free(gone)
}

func (c *Cache) loaded(e *entry, res Resident) {
	c.mu.Lock()
	spare := e.bytes - res.Bytes()
	c.charged -= spare
	e.bytes, e.res, e.phase, e.since = res.Bytes(), res, resident, time.Now()
	e.busy = e.since
	if spare > 0 {
		c.sizes.Add(e.version.Digest, e.bytes)
	}
	c.loads--
	c.stats.Loads++
	for _, q := range e.waiters {
		if q.left--; q.left == 0 {
			c.finish(q, nil)
		}
	}
	e.waiters = nil
	var gone []*entry
	if e.refs == 0 {
		gone = c.settle(e)
	}
	c.mu.Unlock()
	if spare > 0 && c.cfg.Memory != nil {
		c.cfg.Memory.ReleaseIdle(spare)
	}
	c.free(gone)
}

// watch polls the registry for changes: a removed version is freed at its last release, a pinned one is kept, and one
// whose load failed is tried again, since its files may have been added again.
func (c *Cache) watch() {
	tick := time.NewTicker(c.cfg.SyncEvery)
	defer tick.Stop()
	seen := int64(-1)
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
		}
		n, err := c.cfg.Registry.Changes(c.ctx)
		if err != nil || n == seen {
			continue // tried again at the next poll; requests get the database's error themselves
		}
		pins, err := c.cfg.Registry.Pins(c.ctx)
		if err != nil {
			continue
		}
		seen = n
		c.sync(pins)
	}
}

func (c *Cache) sync(pins map[string]bool) {
	c.mu.Lock()
	var gone []*entry
	for _, digest := range c.failed.Keys() {
		c.forgive(digest)
	}
	for digest, e := range c.entries {
		pinned, there := pins[digest]
		if e.pinned == pinned && e.removed == !there {
			continue
		}
		e.pinned, e.removed = pinned, !there
		if e.phase == resident && e.refs == 0 {
			gone = append(gone, c.settle(e)...)
		}
	}
	c.mu.Unlock()
	c.free(gone)
	c.kick()
}
