package engine

import "sync"

// Background is background work on the engine's model and device: training on the weights that serve. The device is its own
// between Enter and Leave, save in Yield; it is given up to the engine there, and taken back when no sequence is live
// any more. So requests come first, and wait for a background job no longer than from one Yield to the next. Nothing may be
// recorded on the device when Yield or Leave is called.
type Background struct{ d *turns }

// Background returns a background job of the engine; there is at most one at a time.
func (e *Engine) Background() Background { return Background{&e.turns} }

// Enter waits until the device is free.
func (g Background) Enter() { g.d.take(true) }

// Yield lets the engine work, if it wants to.
func (g Background) Yield() { g.d.yield() }

// Leave gives the device back.
func (g Background) Leave() { g.d.give() }

// turns say whose the device is. The engine keeps it as long as it has something to compute.
type turns struct {
	mu     sync.Mutex
	freed  sync.Cond // L is set by init
	taken  bool
	wanted bool // by the engine, while the background job has it
}

func (t *turns) init() { t.freed.L = &t.mu }

// take waits for the device; a background job waits for an engine that waits too.
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
