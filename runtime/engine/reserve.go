package engine

import (
	"fmt"
	"slices"

	"weft/internal/invariant"
	"weft/runtime/device"
)

// ReserveIdle reserves bytes of the KV cache's memory for another purpose, such as adapters: the free and cached pages
// with the highest ids, whose memory the device returns to the system. It returns false if one of these pages is in
// use, or if the longest sequence would no longer fit. Sums are rounded up to pages, not each call. Any goroutine may
// call it, but Config.Reclaim must not, and the caller must not hold a lock that Reclaim takes.
func (e *Engine) ReserveIdle(bytes int64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if bytes < 0 || e.closed || e.failure != nil {
		return false
	}
	reserved := e.pool.Counts().Reserved
	if more := e.reservedPages(e.reserved+bytes) - reserved; more > 0 {
		if !e.sched.Reserve(more) {
			return false
		}
		if d, ok := e.cfg.Device.(device.PageReleaser); ok {
			end := e.pool.Total() - reserved
			err := d.ReleasePages(e.cache, end-more, end)
			invariant.Check(err == nil, "%v", err)
		}
	}
	e.reserved += bytes
	return true
}

// Reservable returns the maximum of bytes that can be reserved at once: 0 if the longest sequence can need every page.
func (e *Engine) Reservable() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return int64(e.sched.Reservable()) * e.pageBytes
}

// ReleaseIdle releases bytes that ReserveIdle reserved. Any goroutine may call it, as ReserveIdle.
func (e *Engine) ReleaseIdle(bytes int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.giveBack(bytes)
	e.nudge()
}

// reservedPages returns the number of pages for bytes.
func (e *Engine) reservedPages(bytes int64) int { return int((bytes + e.pageBytes - 1) / e.pageBytes) }

func (e *Engine) giveBack(bytes int64) {
	invariant.Check(bytes >= 0 && bytes <= e.reserved, "%d bytes are released of %d", bytes, e.reserved)
	e.reserved -= min(max(bytes, 0), e.reserved)
	e.pool.Grow(e.pool.Counts().Reserved - e.reservedPages(e.reserved))
}

// reclaim calls Config.Reclaim for as many bytes as free n pages. The scheduler calls it under mu.
func (e *Engine) reclaim(n int) {
	left := max(e.pool.Counts().Reserved-n, 0)
	if bytes := e.reserved - int64(left)*e.pageBytes; bytes > 0 {
		e.giveBack(min(e.cfg.Reclaim(bytes), e.reserved))
	}
}

// Adapters returns the AdapterKeys of the requests that have been in a step and of those that still wait for their
// first step, each sorted, each key once.
func (e *Engine) Adapters() (running, waiting []string) {
	e.mu.Lock()
	for _, q := range e.live {
		switch {
		case q.req.AdapterKey == "":
		case q.times.Scheduled.IsZero():
			waiting = append(waiting, q.req.AdapterKey)
		default:
			running = append(running, q.req.AdapterKey)
		}
	}
	e.mu.Unlock()
	slices.Sort(running)
	slices.Sort(waiting)
	return slices.Compact(running), slices.Compact(waiting)
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
