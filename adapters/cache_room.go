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

// maxBypass bounds how many entries are looked at behind one that has no room.
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

// startOne starts the load of the first waiting entry that has room and returns whether there was one. The oldest that has none may be passed by others until it has
// waited AgeAfter; then those in its way take no new requests.
func (c *Cache) startOne() bool {
	c.mu.Lock()
	c.forgetHopeless()
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
	for _, e := range candidates {
		if c.room(e) {
			c.start(e)
			return true
		}
	}
	if aged {
		c.drainFor(candidates[0])
	}
	return false
}

// forgetHopeless drops waiting entries for which nobody waits any more, and those that can never have room.
func (c *Cache) forgetHopeless() {
	c.waiting = slices.DeleteFunc(c.waiting, func(e *entry) bool {
		if len(e.queue) == 0 {
			delete(c.entries, e.version.Digest)
			return true
		}
		if e.bytes > c.cfg.Limit {
			c.remember(e, fmt.Errorf("%w: version %.12s takes %d bytes, more than the %d of all adapters' memory", ErrLoadFailed, e.version.Digest, e.bytes, c.cfg.Limit))
			return true
		}
		return false
	})
	if len(c.waiting) == 0 || time.Since(c.waiting[0].since) < c.cfg.AgeAfter {
		c.stopDraining()
	}
}

// room charges an entry's memory, evicting idle adapters for it; false says that there is none now.
func (c *Cache) room(e *entry) bool {
	for {
		c.mu.Lock()
		if c.charged <= c.cfg.Limit-e.bytes {
			c.charged += e.bytes
			c.mu.Unlock()
			if c.cfg.Memory == nil || c.cfg.Memory.Borrow(e.bytes) {
				return true
			}
			c.mu.Lock()
			c.charged -= e.bytes
		} else if c.charged-c.spare > c.cfg.Limit-e.bytes {
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

// drainFor lets new requests of the adapters in e's way wait behind it: of those in use, the ones that take it least, until their memory and the idle ones' suffice.
func (c *Cache) drainFor(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drains > 0 {
		return // decided when it aged
	}
	var busy []*entry
	for _, b := range c.entries {
		if b.phase == resident && b.refs > 0 && !b.pinned {
			busy = append(busy, b)
		}
	}
	slices.SortFunc(busy, func(a, b *entry) int { return a.since.Compare(b.since) })
	need := e.bytes - c.spare
	if free := c.cfg.Limit - c.charged; c.cfg.Memory == nil && free > 0 {
		need -= free
	}
	for _, b := range busy {
		if need <= 0 {
			return
		}
		b.draining = true
		c.drains++
		need -= b.bytes
	}
}

// stopDraining lets requests that waited behind the head of waiting have their adapters, which are still there.
func (c *Cache) stopDraining() {
	if c.drains == 0 {
		return
	}
	for _, e := range c.entries {
		if e.draining {
			c.undrain(e)
			c.grant(e)
		}
	}
}

// remember takes an entry out that could not be loaded and fails its requests.
func (c *Cache) remember(e *entry, err error) {
	delete(c.entries, e.version.Digest)
	if errors.Is(err, ErrLoadFailed) {
		c.failed.Add(e.version.Digest, failure{err, time.Now().Add(c.cfg.RetryAfter)})
	}
	c.fail(e, err)
}

// start loads an entry whose memory is charged.
func (c *Cache) start(e *entry) {
	c.mu.Lock()
	c.waiting = slices.DeleteFunc(c.waiting, func(w *entry) bool { return w == e })
	e.phase = loading
	c.loads++
	c.stopDraining()
	c.mu.Unlock()
	c.done.Go(func() { c.load(e) })
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
	c.charged -= e.bytes
	c.stats.Failures++
	c.remember(e, err)
	c.mu.Unlock()
	if c.cfg.Memory != nil {
		c.cfg.Memory.Return(e.bytes)
	}
}

// loadAgain puts an entry that takes more than its version says back in front, with the memory that it needs.
func (c *Cache) loadAgain(e *entry, res Resident) {
	charged, needed := e.bytes, res.Bytes()
	res.Free()
	c.mu.Lock()
	c.loads--
	c.charged -= charged
	c.sizes.Add(e.version.Digest, needed)
	e.bytes, e.phase = needed, waiting
	c.waiting = slices.Insert(c.waiting, 0, e)
	c.mu.Unlock()
	if c.cfg.Memory != nil {
		c.cfg.Memory.Return(charged)
	}
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
	c.grant(e)
	var gone []*entry
	if e.refs == 0 {
		gone = c.settle(e)
	}
	c.mu.Unlock()
	if spare > 0 && c.cfg.Memory != nil {
		c.cfg.Memory.Return(spare)
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
