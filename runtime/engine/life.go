package engine

import (
	"context"
	"fmt"
)

// Drain refuses new requests and waits until the running ones are over; when ctx ends first, the rest are cancelled and
// its error is returned. Background sequences end at once with ErrDraining.
func (e *Engine) Drain(ctx context.Context) error {
	e.mu.Lock()
	if !e.draining {
		e.endBackground(Event{Token: -1, Finish: Failed, StopID: -1, Err: ErrDraining})
		e.draining = true
		if len(e.live) == 0 {
			close(e.idle)
		}
	}
	e.unlock()
	select {
	case <-e.idle:
		return nil
	case <-ctx.Done():
	}
	e.mu.Lock()
	for _, q := range e.live {
		e.sched.Cancel(q.id)
		e.end(q, Event{Token: -1, Finish: Cancelled, StopID: -1})
	}
	e.unlock()
	return ctx.Err()
}

// Close cancels all requests, ends the loop and frees the KV cache. Model and device still belong to the caller.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	e.mu.Unlock()
	e.nudge()
	<-e.done
	e.reacquiring.Wait()
	e.returns.Lock() // a ReserveIdle may still be at work on the cache
	defer e.returns.Unlock()
	e.cache.Free()
	return nil
}

// Health returns nil while the engine can compute.
func (e *Engine) Health() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failure != nil {
		return fmt.Errorf("%w: %w", ErrUnhealthy, e.failure)
	}
	return nil
}

// Stats returns the figures now.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, c := e.stats, e.sched.Stats()
	s.Running, s.Waiting, s.Pages = e.sched.Running(), e.sched.Waiting(), e.pool.Counts()
	s.PageBytes, s.Reserved = e.pageBytes, e.reserved
	s.Background.Background = e.sched.Background()
	for _, b := range e.places {
		s.Background.Jobs = append(s.Background.Jobs, b.name)
	}
	s.Preemptions, s.PrefixQueries, s.PrefixHits = c.Preemptions, c.PrefixQueries, c.PrefixHits
	return s
}
