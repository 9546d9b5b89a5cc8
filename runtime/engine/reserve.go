package engine

import (
	"fmt"

	"weft/internal/invariant"
	"weft/runtime/device"
)

// ReserveIdle reserves bytes of the KV cache's memory for another purpose, such as adapters: the free and cached pages
// with the highest ids, whose memory the device returns to the system before ReserveIdle returns. Background sequences
// give up theirs. It returns false if one of these pages is in use, or if the longest sequence would no longer fit.
// Sums are rounded up to pages, not each call. Any goroutine may call it.
func (e *Engine) ReserveIdle(bytes int64) bool {
	e.returns.Lock()
	defer e.returns.Unlock()
	begin, end, ok := e.reserve(bytes)
	if begin == end {
		return ok
	}
	err := e.cfg.Device.(device.PageReleaser).ReleasePages(e.cache, begin, end)
	invariant.Check(err == nil, "%v", err)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.returning = false
	e.grow()
	return ok
}

// reserve reserves the pages for bytes. It returns those whose memory has to be returned to the system; e.returning is
// set then.
func (e *Engine) reserve(bytes int64) (begin, end int, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if bytes < 0 || e.closed || e.failure != nil {
		return 0, 0, false
	}
	more := e.moreReserved(bytes)
	if ok = e.sched.Reserve(more); !ok && e.sched.Background().Pages > 0 {
		e.evictBackground()
		more = e.moreReserved(bytes) // ReleaseIdle may have been called meanwhile
		ok = !e.closed && e.failure == nil && e.sched.Reserve(more)
	}
	if !ok {
		return 0, 0, false
	}
	reserved := e.pool.Counts().Reserved - more
	e.reserved += bytes
	if _, ok := e.cfg.Device.(device.PageReleaser); !ok || more == 0 {
		return 0, 0, true
	}
	e.returning = true
	end = e.pool.Total() - reserved
	return end - more, end, true
}

// Reservable returns the maximum of bytes that can be reserved at once: 0 if the longest sequence can need every page.
func (e *Engine) Reservable() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return int64(e.sched.Reservable()) * e.pageBytes
}

// ReleaseIdle releases bytes that ReserveIdle reserved. Any goroutine may call it.
func (e *Engine) ReleaseIdle(bytes int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.giveBack(bytes)
	e.nudge()
}

// reservedPages returns the number of pages for bytes.
func (e *Engine) reservedPages(bytes int64) int { return int((bytes + e.pageBytes - 1) / e.pageBytes) }

// moreReserved returns the number of pages to reserve for more bytes.
func (e *Engine) moreReserved(bytes int64) int {
	return max(e.reservedPages(e.reserved+bytes)-e.pool.Counts().Reserved, 0)
}

// giveBack releases bytes. The caller holds mu.
func (e *Engine) giveBack(bytes int64) {
	invariant.Check(bytes >= 0 && bytes <= e.reserved, "%d bytes are released of %d", bytes, e.reserved)
	e.reserved -= min(max(bytes, 0), e.reserved)
	e.grow()
}

// grow makes the pages free that the reserved bytes do not need any more. The caller holds mu.
func (e *Engine) grow() {
	if !e.returning {
		e.pool.Grow(e.pool.Counts().Reserved - e.reservedPages(e.reserved))
	}
}

// hasReserved reports whether memory is reserved, so that some of it may be idle.
func (e *Engine) hasReserved() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reserved > 0
}

// idlePages returns the number of pages that are no longer reserved once idle bytes are released. The caller holds mu.
func (e *Engine) idlePages(idle int64) int {
	if e.returning {
		return 0
	}
	return e.pool.Counts().Reserved - e.reservedPages(max(e.reserved-max(idle, 0), 0))
}

// use records that a plan took n idle pages, which the pool no longer counts as reserved, and returns the bytes that
// are to be freed for them. The caller holds mu.
func (e *Engine) use(n int) int64 {
	if n == 0 {
		return 0
	}
	bytes := e.reserved - int64(e.pool.Counts().Reserved)*e.pageBytes
	e.reserved -= bytes
	return bytes
}

// PlanPages returns how many pages fit a budget of bytes, or an error that states the sizes if not even one sequence of
// a few pages fits.
func PlanPages(budget int64, c device.KVConfig) (int, error) {
	const least = 4
	per := c.PageBytes()
	if per <= 0 || budget/per < least {
		return 0,
			fmt.Errorf(
				"%w: %d bytes are left for the KV cache, a page of %d tokens takes %d and at least %d pages are "+
					"needed: raise --memory or --kv-memory, or lower --max-context or --max-batch-tokens",
				ErrNoMemory, budget, c.PageLen, per, least)
	}
	return int(min(budget/per, 1<<24)), nil
}
