package engine

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft/internal/deadline"
)

// A background job and requests use the device in turn: never both, and requests wait for one stretch of the background
// job's work at most.
func TestBackgroundYields(t *testing.T) {
	cfg := newFakeModel(t).config()
	var owner atomic.Int32
	cfg.OnStep = func(StepInfo) {
		if owner.Load() != 0 {
			t.Error("a step ran while the background job had the device")
		}
	}
	e := start(t, cfg)
	g := e.Background()
	stop, stretches := make(chan struct{}), 0
	done := make(chan struct{})
	end := sync.OnceFunc(func() { close(stop) })
	defer end() // otherwise the engine could not be closed
	go func() {
		defer close(done)
		g.Enter()
		defer g.Leave()
		for {
			owner.Store(1)
			time.Sleep(time.Millisecond)
			owner.Store(0)
			stretches++
			select {
			case <-stop:
				return
			default:
				g.Yield()
			}
		}
	}()
	for range 20 {
		st, err := e.Submit(t.Context(), request([]int32{1, 2, 3}, 5))
		if err != nil {
			t.Fatal(err)
		}
		if o := collect(t, st[0]); o.finish != Length {
			t.Fatalf("finish %d while the background job works: it does not yield", o.finish)
		}
	}
	end()
	deadline.Receive(t, done, "the background job's end")
	if stretches < 5 {
		t.Errorf("the background job had %d stretches", stretches)
	}
}
