package adapters

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// pending load is what requests wait for that cannot begin: one adapter, or a combination of adapters that comes all together. It holds no adapter
// and no memory, so that no two can wait for each other.
type pendingLoad struct {
	key      string    // the digests
	versions []Version // of different digests, by digest
	since    time.Time
	queue    []*waiter
}

// waiter is a request: in a pending load's queue, then, with a reference to each of its entries, waiting for the loads of those
// that are not resident. ready is closed at the end.
type waiter struct {
	versions []Version    // as the request has them
	pending  *pendingLoad // nil once it has its references
	entries  []*entry     // of versions
	left     int          // loads to come
	ready    chan struct{}
	err      error
}

// refs names versions for a message.
func refs(vs []Version) string {
	names := make([]string, len(vs))
	for i := range vs {
		names[i] = vs[i].Ref()
	}
	return strings.Join(names, ", ")
}

// pendingOf describes what a request asks for.
func pendingOf(vs []Version) *pendingLoad {
	w := &pendingLoad{versions: slices.Clone(vs), since: time.Now()}
	slices.SortStableFunc(w.versions, func(a, b Version) int { return strings.Compare(a.Digest, b.Digest) })
	w.versions = slices.CompactFunc(w.versions, func(a, b Version) bool { return a.Digest == b.Digest })
	for i := range w.versions {
		w.key += w.versions[i].Digest
	}
	return w
}

// ask gives a request its references where all its adapters have memory, else a place in the queue, or an error where
// waiting is in vain.
func (c *Cache) ask(q *waiter) error {
	if c.closed {
		return errClosed
	}
	for i := range q.versions {
		if e := c.entries[q.versions[i].Digest]; e != nil && e.phase == resident && !e.draining {
			c.stats.Hits++
		} else {
			c.stats.Misses++
		}
	}
	c.stats.Queued++
	w := pendingOf(q.versions)
	if c.complete(w) {
		c.admit(q)
		return nil
	}
	if err := c.hopeless(w, c.pinnedBytes()); err != nil {
		c.stats.Queued--
		c.meet(q)
		return err
	}
	c.queue(w, q)
	return nil
}

// queue puts a request into its pending load, a new one at the end of those that wait.
func (c *Cache) queue(w *pendingLoad, q *waiter) {
	if there := c.pending[w.key]; there != nil {
		w = there
	} else {
		c.pending[w.key] = w
		c.waiting = append(c.waiting, w)
	}
	q.pending = w
	w.queue = append(w.queue, q)
}

// complete says whether all that is wanted has memory and may be used.
func (c *Cache) complete(w *pendingLoad) bool {
	return !slices.ContainsFunc(w.versions,
		func(v Version) bool { e := c.entries[v.Digest]; return e == nil || e.draining })
}

// admit gives a request a reference to each of its entries, which are all there.
func (c *Cache) admit(q *waiter) {
	q.pending, q.entries, q.left = nil, make([]*entry, len(q.versions)), 0
	for i := range q.versions {
		e := c.entries[q.versions[i].Digest]
		c.use(e, q.versions[i].Tenant)
		q.entries[i] = e
		if e.phase != resident {
			e.waiters = append(e.waiters, q)
			q.left++
		}
	}
	if q.left == 0 {
		c.finish(q, nil)
	}
}

// finish ends a request's wait.
func (c *Cache) finish(q *waiter, err error) {
	q.err = err
	c.stats.Queued--
	close(q.ready)
}

// settlePending takes a pending load out of the queue and gives its requests what is there now.
func (c *Cache) settlePending(w *pendingLoad) {
	c.forget(w)
	for _, q := range w.queue {
		c.admit(q)
	}
}

func (c *Cache) failPending(w *pendingLoad, err error) {
	c.forget(w)
	for _, q := range w.queue {
		c.meet(q)
		c.finish(q, err)
	}
}

func (c *Cache) forget(w *pendingLoad) {
	delete(c.pending, w.key)
	c.waiting = slices.DeleteFunc(c.waiting, func(o *pendingLoad) bool { return o == w })
}

// abandon ends a request that has gone, wherever its wait has come to.
func (c *Cache) abandon(q *waiter) {
	c.mu.Lock()
	var gone []*entry
	select {
	case <-q.ready:
		if q.err == nil {
			gone = c.dropAll(q)
		}
	default:
		c.stats.Queued--
		if q.pending != nil {
			q.pending.queue = slices.DeleteFunc(q.pending.queue, func(o *waiter) bool { return o == q })
		}
		gone = c.dropAll(q)
	}
	c.mu.Unlock()
	c.free(gone)
	c.kick() // nobody may be waiting for it now
}

// dropAll ends a request's references, of which it has none while it waits in a pending load.
func (c *Cache) dropAll(q *waiter) (gone []*entry) {
	for _, e := range q.entries {
		e.waiters = slices.DeleteFunc(e.waiters, func(o *waiter) bool { return o == q })
		gone = append(gone, c.drop(e)...)
	}
	q.entries = nil
	return gone
}

// failEntry takes an entry out whose load did not end well; its requests fail, and let go of what else they had.
func (c *Cache) failEntry(e *entry, err error) (gone []*entry) {
	c.bury(e)
	for _, q := range slices.Compact(slices.Clone(e.waiters)) {
		c.meet(q)
		gone = append(gone, c.dropAll(q)...)
		c.finish(q, err)
	}
	return append(gone, e)
}

// retryEntry takes an entry out that needs more memory than it was charged; its requests wait again, first of all,
// holding nothing.
func (c *Cache) retryEntry(e *entry) (gone []*entry) {
	c.bury(e)
	var again []*pendingLoad
	for _, q := range slices.Compact(slices.Clone(e.waiters)) {
		gone = append(gone, c.dropAll(q)...)
		w := pendingOf(q.versions)
		if there := c.pending[w.key]; there == nil {
			c.pending[w.key] = w
			again = append(again, w)
		}
		c.queue(w, q)
	}
	c.waiting = append(again, c.waiting...)
	return append(gone, e)
}

// bury takes an entry that never became resident out of the cache; its memory is the caller's to give back.
func (c *Cache) bury(e *entry) {
	e.phase = dead
	delete(c.entries, e.version.Digest)
	c.starts = slices.DeleteFunc(c.starts, func(s *entry) bool { return s == e })
	c.charged -= e.bytes
}

// bytesOf is what a version takes, as far as is known.
func (c *Cache) bytesOf(v Version) int64 {
	if n, ok := c.sizes.Peek(v.Digest); ok {
		return n
	}
	return v.Bytes
}

// hopeless says why a pending load can never come, or nil: a load that failed lately, or more memory than there is beside what
// pinned adapters hold, of which there is so much.
func (c *Cache) hopeless(w *pendingLoad, pinned int64) error {
	sum := int64(0)
	for _, v := range w.versions {
		if f, ok := c.failed.Peek(v.Digest); ok {
			if time.Now().Before(f.until) {
				return f.err
			}
			c.failed.Remove(v.Digest)
		}
		n := c.bytesOf(v)
		if sum += n; n > c.cfg.Limit {
			err := fmt.Errorf("%w: version %.12s takes %d bytes, more than the %d of all adapters' memory",
				ErrLoadFailed, v.Digest, n, c.cfg.Limit)
			c.remember(v.Digest, err, nil)
			return err
		}
		if e := c.entries[v.Digest]; e != nil && e.pinned {
			pinned -= e.bytes
		}
	}
	switch {
	case sum > c.cfg.Limit:
		return fmt.Errorf("%w: %s take %d bytes of %d", ErrTooLarge, refs(w.versions), sum, c.cfg.Limit)
	case sum > c.cfg.Limit-pinned:
		return fmt.Errorf("%w: %s: %d bytes wanted, %d of %d are pinned", ErrPinned, refs(w.versions), sum, pinned,
			c.cfg.Limit)
	}
	return nil
}

// pinnedBytes is what the pinned entries hold.
func (c *Cache) pinnedBytes() int64 {
	sum := int64(0)
	for _, e := range c.entries {
		if e.pinned {
			sum += e.bytes
		}
	}
	return sum
}

// remember keeps why a load failed, for the tenants that met it.
func (c *Cache) remember(digest string, err error, users map[string]bool) {
	if errors.Is(err, ErrLoadFailed) {
		if users == nil {
			users = map[string]bool{}
		}
		c.failed.Add(digest, failure{err, time.Now().Add(c.cfg.RetryAfter), users})
	}
}

// meet notes that a request's tenants know what failed lately.
func (c *Cache) meet(q *waiter) {
	for i := range q.versions {
		if f, ok := c.failed.Peek(q.versions[i].Digest); ok {
			f.users[q.versions[i].Tenant] = true
		}
	}
}
