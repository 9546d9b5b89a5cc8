package engine

import "sync"

// Background is a background job on the engine's model and device, such as training on the weights that are served. The
// job has the device between Enter and Leave, except during Yield, which gives the device to the engine until no
// sequence is live any more. So requests have priority, and wait for a background job at most from one Yield to the
// next. No operation may be recorded on the device when Yield or Leave is called.
type Background struct{ d *turns }

// Background returns a handle for a background job; the engine runs at most one at a time.
func (e *Engine) Background() Background { return Background{&e.turns} }

// Enter waits until the device is free.
func (g Background) Enter() { g.d.take(true) }

// Yield lets the engine work if it has requests.
func (g Background) Yield() { g.d.yield() }

// Leave releases the device.
func (g Background) Leave() { g.d.give() }

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
