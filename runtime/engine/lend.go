package engine

import (
	"fmt"
	"slices"

	"weft/internal/invariant"
	"weft/runtime/device"
)

// Borrow takes bytes of the KV cache's memory for another purpose: those of free and cached pages, the ones with the
// highest ids, whose memory the device gives back to the system. False where they cannot be had: a page of them is in
// use, or the longest sequence would no longer fit. Sums are rounded up to pages, not each call. Any goroutine may call
// it, but not Config.Reclaim, and not under a lock that Reclaim takes.
func (e *Engine) Borrow(bytes int64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if bytes < 0 || e.closed || e.failure != nil {
		return false
	}
	lent := e.pool.Counts().Lent
	if more := e.lentPages(e.borrowed+bytes) - lent; more > 0 {
		if !e.sched.Lend(more) {
			return false
		}
		if d, ok := e.cfg.Device.(device.PageReleaser); ok {
			end := e.pool.Total() - lent
			err := d.ReleasePages(e.cache, end-more, end)
			invariant.Check(err == nil, "%v", err)
		}
	}
	e.borrowed += bytes
	return true
}

// Lendable returns the bytes that Borrow can ever give, all together: none where the longest sequence can need every
// page.
func (e *Engine) Lendable() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return int64(e.sched.Lendable()) * e.pageBytes
}

// Return gives back bytes that Borrow gave. As Borrow, any goroutine may call it.
func (e *Engine) Return(bytes int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.giveBack(bytes)
	e.nudge()
}

// lentPages is the number of pages that hold bytes.
func (e *Engine) lentPages(bytes int64) int { return int((bytes + e.pageBytes - 1) / e.pageBytes) }

func (e *Engine) giveBack(bytes int64) {
	invariant.Check(bytes >= 0 && bytes <= e.borrowed, "%d bytes come back of %d", bytes, e.borrowed)
	e.borrowed -= min(max(bytes, 0), e.borrowed)
	e.pool.Grow(e.pool.Counts().Lent - e.lentPages(e.borrowed))
}

// reclaim asks who borrowed for so much that n pages come back. The scheduler calls it under mu.
func (e *Engine) reclaim(n int) {
	left := max(e.pool.Counts().Lent-n, 0)
	if bytes := e.borrowed - int64(left)*e.pageBytes; bytes > 0 {
		e.giveBack(min(e.cfg.Reclaim(bytes), e.borrowed))
	}
}

// Adapters returns the AdapterKeys of the requests that have been in a step and of those that still wait for their
// first, each sorted, each key once.
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

// PlanPages returns how many pages fit a budget of bytes, or a refusal with the numbers where not one sequence of a few
// pages would.
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
