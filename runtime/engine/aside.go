package engine

import (
	"context"
	"fmt"
	"slices"

	"weft/runtime/lora"
)

// minProgress is the number of tokens that a request computes at least between two calls of SetAside, so that requests
// which take their adapters' memory from each other all come to their end.
const minProgress = 16

// SetAside takes the adapter w from requests that can get it again (Request.Reacquire): their pages are freed, their
// Release is called as soon as no step refers to w, and they go on, with the same result, once they have reacquired it.
// Requests that have computed too little since the last time keep it for now. Any goroutine may call it.
func (e *Engine) SetAside(w *lora.Weights) {
	e.mu.Lock()
	defer e.unlock()
	for _, q := range e.live {
		if q.aside || q.req.Reacquire == nil || q.returned && q.out < q.least ||
			!slices.ContainsFunc(q.req.LoRA, func(u lora.Use) bool { return u.Weights == w }) {
			continue
		}
		q.aside = true
		e.asides++
		e.sched.SetAside(q.id)
		if !q.stepped {
			e.giveUp(q)
		}
	}
}

// giveUp releases the adapters of a request that was set aside, which no step refers to, and reacquires them. The
// caller holds mu and releases it with unlock.
func (e *Engine) giveUp(q *sequence) {
	e.letGo(q)
	q.req.LoRA = nil
	q.times.Preemptions++
	ctx, stop := context.WithCancel(context.Background())
	q.stop = stop
	e.reacquiring.Go(func() { e.reacquire(ctx, q) })
}

func (e *Engine) reacquire(ctx context.Context, q *sequence) {
	uses, release, err := q.req.Reacquire(ctx)
	e.mu.Lock()
	defer e.unlock()
	q.stop()
	if err == nil {
		q.req.LoRA, q.req.Release = uses, release
	}
	switch {
	case q.ended:
		e.letGo(q)
	case err != nil:
		e.sched.Cancel(q.id)
		e.end(q, Event{Token: -1, Finish: Failed, StopID: -1, Err: fmt.Errorf("get the adapter again: %w", err)})
	default:
		e.asides--
		q.aside, q.returned, q.least = false, true, q.out+minProgress
		e.sched.Resume(q.id)
	}
	e.nudge()
}
