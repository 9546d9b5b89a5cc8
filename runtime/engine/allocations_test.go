//go:build !invariants && !race

package engine

import (
	"context"
	"testing"
)

// TestDecodeStepAllocatesNothing counts what a step of eight decoding sequences allocates in the loop: scheduling,
// batch, sampling, delivery. What remains is memory that doubles as the output grows, and the goroutines that share the
// sampling. The checks of the invariants allocate themselves: make test runs this package once more without them.
func TestDecodeStepAllocatesNothing(t *testing.T) {
	m := newFakeModel(t)
	cfg := m.config()
	cfg.NumPages, cfg.MaxContext = 512, 1000
	e, err := prepare(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer e.cache.Free()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var reqs []Request
	for i := range 8 {
		r := request([]int32{int32(i), 2, 3}, 900)
		if i%2 == 0 {
			r.Sampling.Temperature, r.Sampling.TopP = 1, 0.9
		}
		reqs = append(reqs, r)
	}
	if _, err := e.Submit(ctx, reqs...); err != nil {
		t.Fatal(err)
	}
	turn := func() {
		if worked, err := e.turn(); !worked || err != nil {
			t.Fatalf("no step: %v", err)
		}
	}
	for range 100 {
		turn()
	}
	// AllocsPerRun runs on one core, so no helper is started.
	if n := testing.AllocsPerRun(300, turn); n > 2 {
		t.Errorf("a decode step of 8 sequences allocates %v times", n)
	}
	if s := e.Stats(); s.Running != 8 || s.TokensOut < 8*400 {
		t.Errorf("%+v: the steps measured were no decode steps", s)
	}
}
