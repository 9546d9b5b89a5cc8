package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"weft/runtime/sched"
)

// Background is the engine's one place for background work on its model and device: training on the weights that are
// served, an evaluation. Requests have priority over both.
//
// A training job has the device between Enter and Leave, except during Yield, which gives the device to the engine
// until no sequence is live any more: requests wait at most from one Yield to the next. No operation may be recorded on
// the device when Yield or Leave is called. An evaluation submits sequences instead, which join a step only while no
// request is live. Not both at once: sequences wait until Leave.
type Background struct {
	e     *Engine
	name  string
	first chan struct{} // closed when it has the place
}

// Background waits for the place, in the order of the calls, until ctx ends; what is waiting in line is shown by Stats
// under name. The caller closes it.
func (e *Engine) Background(ctx context.Context, name string) (*Background, error) {
	b := &Background{e: e, name: name, first: make(chan struct{})}
	e.mu.Lock()
	if e.places = append(e.places, b); len(e.places) == 1 {
		close(b.first)
	}
	ahead := e.places[0].name
	e.mu.Unlock()
	select {
	case <-b.first:
		return b, nil
	default:
	}
	select {
	case <-b.first:
		return b, nil
	case <-ctx.Done():
		b.Close()
		return nil, fmt.Errorf("wait for the end of %s, which has the engine's place for background work: %w", ahead,
			context.Cause(ctx))
	}
}

// Close gives the place to the next in line and cancels the sequences that are still live. It may be called twice.
func (b *Background) Close() {
	e := b.e
	e.mu.Lock()
	defer e.unlock()
	i := slices.Index(e.places, b)
	if i < 0 {
		return
	}
	e.places = slices.Delete(e.places, i, i+1)
	if i > 0 {
		return
	}
	e.endBackground(Event{Token: -1, Finish: Cancelled, StopID: -1})
	if len(e.places) > 0 {
		close(e.places[0].first)
	}
}

// Submit is Engine.Submit of background sequences, which are of no tenant and in no figure of requests.
func (b *Background) Submit(ctx context.Context, reqs ...Request) ([]*Stream, error) {
	return b.e.submit(ctx, b, reqs)
}

// Enter waits until the device is free.
func (b *Background) Enter() { b.e.turns.take(true) }

// Yield lets the engine work if it has requests.
func (b *Background) Yield() { b.e.turns.yield() }

// Leave releases the device.
func (b *Background) Leave() { b.e.turns.give() }

// backgroundSalt keeps what background sequences leave in the prefix cache apart from what requests do.
const backgroundSalt = "\x00background"

// holds reports whether b has the place. The caller holds mu.
func (e *Engine) holds(b *Background) bool { return len(e.places) > 0 && e.places[0] == b }

// endBackground ends all background sequences. The caller holds mu and releases it with unlock.
func (e *Engine) endBackground(ev Event) {
	for id, q := range e.live {
		if q.background {
			e.sched.Cancel(id)
			e.end(q, ev)
		}
	}
	e.nudge()
}

// evictBackground takes the pages of the background sequences; where the current step computes some it waits for its
// end. The caller holds mu.
func (e *Engine) evictBackground() {
	e.held++
	for e.sched.EvictBackground() && !e.closed && e.failure == nil {
		e.settled.Wait()
	}
	e.held--
	e.nudge()
}

// BackgroundStats are figures of background work; counters never decrease.
type BackgroundStats struct {
	sched.Background
	Jobs   []string // by name: the one that has the place, then those that wait for it
	Tokens uint64   // computed of its sequences, prompts included
	Steps  uint64
}

// turns decides who has the device: the engine or a background job. The engine keeps it as long as it has work.
type turns struct {
	mu     sync.Mutex
	freed  sync.Cond // L is set by init
	taken  bool
	wanted bool // the engine waits while the background job has the device
}

func (t *turns) init() { t.freed.L = &t.mu }

// take waits for the device; a background job lets a waiting engine go first.
func (t *turns) take(background bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.taken || background && t.wanted {
		t.wanted = t.wanted || !background
		t.freed.Wait()
	}
	t.taken = true
	if !background {
		t.wanted = false
	}
}

func (t *turns) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken = false
	t.freed.Broadcast()
}

func (t *turns) yield() {
	t.mu.Lock()
	wanted := t.wanted
	t.mu.Unlock()
	if wanted {
		t.give()
		t.take(true)
	}
}
