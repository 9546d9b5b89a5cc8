package engine

import (
	"context"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// TestSoak loads an engine with random requests, cancels, lost contexts and readers that stop reading, in rounds. After
// each round every page is free or cached and every stream has ended; goroutines and memory do not grow from round to
// round. WEFT_SOAK=10m makes it long.
func TestSoak(t *testing.T) {
	length := 300 * time.Millisecond
	if v := os.Getenv("WEFT_SOAK"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			t.Fatalf("WEFT_SOAK=%s: %v", v, err)
		}
		length = d
	}
	m := newFakeModel(t)
	cfg := m.config()
	cfg.NumPages, cfg.MaxQueued = 24, 16
	e := start(t, cfg)
	rng := rand.New(rand.NewPCG(5, 5))
	round := func() {
		var clients sync.WaitGroup
		for c := range 6 {
			seed := rng.Uint64()
			clients.Go(func() { soakClient(t, e, rand.New(rand.NewPCG(seed, uint64(c))), 12) })
		}
		clients.Wait()
		becomesIdle(t, e)
	}
	heap := func() int64 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return int64(s.HeapAlloc)
	}
	round()
	round()
	goroutines, before := runtime.NumGoroutine(), heap()
	rounds := 0
	for begin := time.Now(); time.Since(begin) < length || rounds < 3; rounds++ {
		round()
	}
	for range 100 { // goroutines that ended their work may still be on their way out
		if runtime.NumGoroutine() <= goroutines {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	after := heap()
	s := e.Stats()
	t.Logf("%d rounds, %d steps, %d tokens, %d preemptions, heap %d -> %d bytes, goroutines %d -> %d", rounds, s.Steps,
		s.TokensOut, s.Preemptions,
		before, after, goroutines, runtime.NumGoroutine())
	if after > before+1<<20 {
		t.Errorf("the heap grew from %d to %d bytes in %d rounds", before, after, rounds)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
}

// becomesIdle waits until nothing runs, waits or holds a page, for a step or a little more: a cancelled sequence leaves
// with its step.
func becomesIdle(t *testing.T, e *Engine) {
	t.Helper()
	for late := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		s := e.Stats()
		if s.Running == 0 && s.Waiting == 0 && s.Pages.InUse == 0 {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("still not idle: %+v", s)
		}
	}
}

// soakClient submits some requests and treats their streams as clients do: well, or not.
func soakClient(t *testing.T, e *Engine, rng *rand.Rand, requests int) {
	for i := range requests {
		ctx, cancel := context.WithCancel(t.Context())
		r := randomRequest(rng, i)
		streams, err := e.Submit(ctx, r, r)
		if err != nil { // a full queue, most likely
			cancel()
			continue
		}
		stop := rng.IntN(40)
		for _, s := range streams {
			switch rng.IntN(4) {
			case 0:
				s.Cancel()
			case 1:
				for range stop { // reads a little, then ends
					if _, ok := next(t, s); !ok {
						break
					}
				}
				cancel()
			}
		}
		ends := 0
		for _, s := range streams {
			ends += collect(t, s).ends
		}
		if ends > 2 {
			t.Errorf("%d terminal events of two streams", ends)
		}
		cancel()
	}
}
