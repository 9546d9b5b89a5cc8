package adapters

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"weft/adapters/peft"
)

// parityRetry is how long a failed parity check is remembered.
const parityRetry = time.Hour

// pendingLoad is an adapter, or a combination of adapters, that requests wait for and that has no memory yet. It holds
// no adapter and no memory, so that two of them cannot wait for each other.
type pendingLoad struct {
	key      string    // the digests
	versions []Version // of different digests, by digest
	since    time.Time
	queue    []*waiter
}

// waiter is a waiting request. It is first in the queue of a pending load; then it has a reference to each of its
// entries and waits for their loads. ready is closed at the end.
type waiter struct {
	versions []Version    // in the request's order
	pending  *pendingLoad // nil once it has its references
	entries  []*entry     // of versions
	left     int          // loads that have not ended
	ready    chan struct{}
	err      error
}

// refs lists versions for a message.
func refs(vs []Version) string {
	names := make([]string, len(vs))
	for i := range vs {
		names[i] = vs[i].Ref()
	}
	return strings.Join(names, ", ")
}

// pendingOf returns a new pending load for a request's versions.
func pendingOf(vs []Version) *pendingLoad {
	w := &pendingLoad{versions: slices.Clone(vs), since: time.Now()}
	slices.SortStableFunc(w.versions, func(a, b Version) int { return strings.Compare(a.Digest, b.Digest) })
	w.versions = slices.CompactFunc(w.versions, func(a, b Version) bool { return a.Digest == b.Digest })
	for i := range w.versions {
		w.key += w.versions[i].Digest
	}
	return w
}

// ask gives a request its references where all its adapters have memory. Otherwise it queues the request, or returns an
// error where it could never be served.
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
	if err := c.refusal(w, c.pinnedBytes()); err != nil {
		c.stats.Queued--
		c.meet(q)
		return err
	}
	c.queue(w, q)
	return nil
}

// queue adds a request to its pending load; a new pending load goes to the end of the waiting ones.
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

// complete reports whether all adapters of a pending load have memory and may be used.
func (c *Cache) complete(w *pendingLoad) bool {
	return !slices.ContainsFunc(w.versions,
		func(v Version) bool { e := c.entries[v.Digest]; return e == nil || e.draining })
}

// admit gives a request a reference to each of its entries, which all exist.
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

// settlePending removes a pending load from the queue and gives its requests references to the entries.
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

// abandon ends a request whose client has gone, in whatever state its wait is.
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
	c.kick() // its pending load may have no request left
}

// dropAll ends a request's references; it has none while it is in a pending load.
func (c *Cache) dropAll(q *waiter) (gone []*entry) {
	for i, e := range q.entries {
		e.waiters = slices.DeleteFunc(e.waiters, func(o *waiter) bool { return o == q })
		gone = append(gone, c.dropOf(e, q.versions[i].Tenant)...)
	}
	q.entries = nil
	return gone
}

// failEntry removes an entry whose load failed; its requests fail and drop their other references.
func (c *Cache) failEntry(e *entry, err error) (gone []*entry) {
	c.discard(e)
	for _, q := range slices.Compact(slices.Clone(e.waiters)) {
		c.meet(q)
		gone = append(gone, c.dropAll(q)...)
		c.finish(q, err)
	}
	return append(gone, e)
}

// retryEntry removes an entry that needs more memory than was reserved; its requests wait again, at the head of the
// queue and without references.
func (c *Cache) retryEntry(e *entry) (gone []*entry) {
	c.discard(e)
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

// discard removes an entry whose load did not succeed from the cache; the caller releases its memory.
func (c *Cache) discard(e *entry) {
	e.phase = dead
	delete(c.entries, e.version.Digest)
	c.starts = slices.DeleteFunc(c.starts, func(s *entry) bool { return s == e })
	c.charged -= e.bytes
}

// bytesOf returns a version's bytes in memory: those of an earlier load, else what the version says.
func (c *Cache) bytesOf(v Version) int64 {
	if n, ok := c.sizes.Peek(v.Digest); ok {
		return n
	}
	return v.Bytes
}

// refusal returns why a pending load cannot be served, or nil: a load that failed recently, or more memory than the
// limit leaves beside pinned adapters, which take pinned bytes.
func (c *Cache) refusal(w *pendingLoad, pinned int64) error {
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
			err := fmt.Errorf("%w: version %.12s takes %d bytes, and all adapters together may take %d: an operator "+
				"can raise --memory, --kv-memory or --adapter-memory", ErrNoRoom, v.Digest, n, c.cfg.Limit)
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
		return fmt.Errorf("%w: %s: %d bytes are needed, %d of %d are pinned", ErrPinned, refs(w.versions), sum, pinned,
			c.cfg.Limit)
	}
	return nil
}

// pinnedBytes returns the bytes of the pinned entries.
func (c *Cache) pinnedBytes() int64 {
	sum := int64(0)
	for _, e := range c.entries {
		if e.pinned {
			sum += e.bytes
		}
	}
	return sum
}

// remember stores why a load failed, for the tenants whose requests got the error. What the machine did is not stored:
// the next request may find it mended.
func (c *Cache) remember(digest string, err error, users map[string]bool) {
	if errors.Is(err, ErrLoadFailed) || errors.Is(err, ErrNoRoom) {
		if users == nil {
			users = map[string]bool{}
		}
		again := c.cfg.RetryAfter
		if errors.Is(err, peft.ErrParity) { // neither the files of a digest nor the base change
			again = max(again, parityRetry)
		}
		c.failed.Add(digest, failure{err, time.Now().Add(again), users})
	}
}

// Retry forgets why the load of a version failed: its files have just been stored again. In other processes its next
// requests get the error until the registry is polled.
func (c *Cache) Retry(v Version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgive(v.Digest)
}

// forgive removes a failure that files or rows may have caused which have changed since.
func (c *Cache) forgive(digest string) {
	if f, ok := c.failed.Peek(digest); ok && !errors.Is(f.err, peft.ErrParity) {
		c.failed.Remove(digest)
	}
}

// meet adds a request's tenants to those that got the error of recent failures.
func (c *Cache) meet(q *waiter) {
	for i := range q.versions {
		if f, ok := c.failed.Peek(q.versions[i].Digest); ok {
			f.users[q.versions[i].Tenant] = true
		}
	}
}
