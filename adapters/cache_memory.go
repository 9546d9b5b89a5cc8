package adapters

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// pollRoom is how often memory that the KV cache holds is asked for again.
const pollRoom = 10 * time.Millisecond

// maxBypass bounds how many pending loads are looked at behind one that has no room.
const maxBypass = 16

// kick lets the dispatcher look again.
func (c *Cache) kick() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// dispatch starts loads in order of arrival, as memory and MaxLoads allow. It alone makes room.
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
			timer.Reset(pollRoom)
		}
	}
}

// startOne starts a load: of an entry that has its memory, else of the first pending load that has room; it returns whether
// there is more to look at. The oldest pending load that has none may be passed by others until it has waited AgeAfter; then
// those in its way take no new requests.
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
		if c.room(w) {
			return true
		}
	}
	if aged {
		c.drainFor(candidates[0])
	}
	return false
}

// review takes pending loads out of the queue that lack nothing any more, that nobody waits for, and that can never have room;
// draining ends with the pending load that it is for.
func (c *Cache) review() {
	pinned := c.pinnedBytes()
	for {
		for _, w := range slices.Clone(c.waiting) {
			if len(w.queue) == 0 {
				c.forget(w)
			} else if c.complete(w) {
				c.settlePending(w)
			} else if err := c.hopeless(w, pinned); err != nil {
				c.failPending(w, err)
			}
		}
		if c.drainer == nil || len(c.waiting) > 0 && c.waiting[0] == c.drainer {
			return
		}
		c.stopDraining()
	}
}

// room charges the memory of all that a pending load lacks, evicting idle adapters for it, and lets it go on to the loads;
// false says that there is none now.
func (c *Cache) room(w *pendingLoad) bool {
	c.mu.Lock()
	var held, fresh []*entry // what is here is held, so that it is not evicted for the rest
	need := int64(0)
	blocked := false
	for _, v := range w.versions {
		switch e := c.entries[v.Digest]; {
		case e == nil:
			e = &entry{version: v, phase: charged, bytes: c.bytesOf(v), pinned: v.Pinned, refs: 1,
				users: map[string]bool{}}
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
		ok = false // its load failed meanwhile
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

// charge takes memory, evicting idle adapters for it; false says that there is not so much now.
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
			return false // not even with all idle ones gone
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

// drainFor lets new requests of the adapters in w's way wait behind it: of those in use that are not its own, the ones
// that take it least, until their memory and that of the idle ones suffice.
func (c *Cache) drainFor(w *pendingLoad) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drains > 0 {
		return // decided when it aged
	}
	own := map[*entry]bool{}
	need := -c.spare
	for _, v := range w.versions {
		switch e := c.entries[v.Digest]; {
		case e == nil:
			need += c.bytesOf(v)
		case e.refs == 0 && !e.pinned:
			need += e.bytes // counted in spare, but no room for the rest
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
	slices.SortFunc(busy, func(a, b *entry) int { return a.since.Compare(b.since) })
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

// stopDraining lets requests have their adapters again that waited behind the drainer; review finds those that are
// still here.
func (c *Cache) stopDraining() {
	for _, e := range c.entries {
		c.undrain(e)
	}
	c.drainer = nil
}

func (c *Cache) load(e *entry) {
	polite()
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

// read loads a version; a panic of the loader is an error of this adapter only.
func (c *Cache) read(ctx context.Context, v Version) (res Resident, err error) {
	defer func() {
		if p := recover(); p != nil {
			res, err = nil, fmt.Errorf("panic: %v", p)
		}
	}()
	dir, err := c.cfg.Registry.Dir(ctx, v)
	if err != nil {
		return nil, err
	}
	return c.cfg.Load(ctx, v, dir)
}

func (c *Cache) loadFailed(e *entry, err error) {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, ErrLoadTimeout) {
		err = fmt.Errorf("%w: version %.12s: %w", ErrLoadTimeout, e.version.Digest, err)
	} else {
		err = fmt.Errorf("%w: version %.12s: %w", ErrLoadFailed, e.version.Digest, err)
	}
	c.mu.Lock()
	c.loads--
	c.stats.Failures++
	c.remember(e.version.Digest, err, e.users)
	gone := c.failEntry(e, err)
	c.mu.Unlock()
	c.free(gone)
}

// loadAgain lets the requests of an entry wait again that takes more than its version says.
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

// watch asks the registry for changes: what was removed goes at its last release, what is pinned stays.
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
			continue // an unreachable database is asked again; requests meet its error themselves
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
