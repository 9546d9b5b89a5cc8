package engine

import "sync"

// Guest is background work on the engine's model and device: training on the weights that serve. The device is its own
// between Enter and Leave, save in Yield; it is given up to the engine there, and taken back when no sequence is live
// any more. So requests come first, and wait for a guest no longer than from one Yield to the next. Nothing may be
// recorded on the device when Yield or Leave is called.
type Guest struct{ d *turns }

// Guest returns the engine's guest; there is at most one at a time.
func (e *Engine) Guest() Guest { return Guest{&e.turns} }

// Enter waits until the device is free.
func (g Guest) Enter() { g.d.take(true) }

// Yield lets the engine work, if it wants to.
func (g Guest) Yield() { g.d.yield() }

// Leave gives the device back.
func (g Guest) Leave() { g.d.give() }

// turns say whose the device is. The engine keeps it as long as it has something to compute.
type turns struct {
	mu     sync.Mutex
	freed  sync.Cond // L is set by init
	taken  bool
	wanted bool // by the engine, while the guest has it
}

func (t *turns) init() { t.freed.L = &t.mu }

// take waits for the device; a guest waits for an engine that waits too.
func (t *turns) take(guest bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.taken || guest && t.wanted {
		t.wanted = t.wanted || !guest
		t.freed.Wait()
	}
	t.taken = true
	if !guest {
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
