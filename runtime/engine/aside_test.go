package engine

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"weft/internal/deadline"
	"weft/runtime/lora"
	"weft/runtime/model"
)

// again makes r reacquirable: Reacquire waits for goOn (nil: not at all), or ends with err.
func again(r Request, released *atomic.Int32, goOn chan struct{}, err error) Request {
	key := r.AdapterKey
	r = withRelease(r, released)
	r.Reacquire = func(ctx context.Context) ([]lora.Use, func(), error) {
		if goOn != nil {
			select {
			case <-goOn:
			case <-ctx.Done():
				return nil, nil, ctx.Err()
			}
		}
		if err != nil {
			return nil, nil, err
		}
		fresh := withRelease(adapted(r.Prompt, 1, key), released)
		return fresh.LoRA, fresh.Release, nil
	}
	return r
}

// TestSetAside in the middle of a step: the adapter is released after it, others run on without it, and the request
// ends with the same result once it has got the adapter again; or it is cancelled, or its adapter is gone.
func TestSetAside(t *testing.T) {
	gone := errors.New("the adapter is gone")
	for how, want := range map[string]FinishReason{"returns": Length, "cancelled": Cancelled, "fails": Failed,
		"closed": Cancelled} {
		t.Run(how, func(t *testing.T) {
			m := newFakeModel(t)
			inside, goOn := make(chan struct{}), make(chan struct{})
			m.during = func(*model.Batch) {
				if m.forwards.Load() == 5 {
					inside <- struct{}{}
					<-goOn
				}
			}
			e := start(t, m.config())
			var released, other atomic.Int32
			back := make(chan struct{})
			var err error
			if how == "fails" {
				err = gone
			}
			plainRequest := adapted([]int32{1, 2, 3}, 60, "x")
			r := again(plainRequest, &released, back, err)
			second := adapted([]int32{4}, 40, "y")
			streams, errSubmit := e.Submit(t.Context(), r, withRelease(second, &other))
			if errSubmit != nil {
				t.Fatal(errSubmit)
			}
			deadline.Receive(t, inside, "the fifth step")
			e.SetAside(r.LoRA[0].Weights)
			e.SetAside(r.LoRA[0].Weights) // once more does nothing
			if released.Load() != 0 {
				t.Error("released while the step reads the adapter")
			}
			close(goOn)
			compare(t, second, collect(t, streams[1]), plain(second, 512, 0))
			if n := released.Load(); n != 1 {
				t.Errorf("%d releases while the request is set aside", n)
			}
			if s := e.Stats(); s.Running+s.Waiting != 0 || s.Preemptions != 1 || s.Pages.InUse != 0 {
				t.Errorf("set aside: %+v", s)
			}
			switch how {
			case "cancelled":
				streams[0].Cancel()
			case "closed":
				if err := e.Close(); err != nil {
					t.Fatal(err)
				}
			default:
				close(back)
			}
			got := collect(t, streams[0])
			if how == "returns" {
				compare(t, plainRequest, got, plain(plainRequest, 512, 0))
			}
			if got.finish != want || want == Failed && !errors.Is(got.err, gone) {
				t.Errorf("finish %d, %v; want %d", got.finish, got.err, want)
			}
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			if n, want := released.Load(), map[bool]int32{true: 2, false: 1}[how == "returns"]; n != want {
				t.Errorf("%d releases, want %d", n, want)
			}
		})
	}
}

// TestSetAsideMakesProgress: requests that are set aside again and again come to their ends, with their results.
func TestSetAsideMakesProgress(t *testing.T) {
	m := newFakeModel(t)
	ask, asked := make(chan struct{}), make(chan struct{})
	m.during = func(*model.Batch) { // in each step requests are set aside
		ask <- struct{}{}
		<-asked
	}
	e := start(t, m.config())
	var released atomic.Int32
	var wg sync.WaitGroup
	var reqs []Request
	for i := range 6 {
		reqs = append(reqs, adapted([]int32{int32(i), 3}, 80, []string{"x", "y", "x+y"}[i%3]))
	}
	var mu sync.Mutex
	held := map[*lora.Weights]bool{}
	sent := make([]Request, len(reqs))
	for i := range reqs {
		r := again(reqs[i], &released, nil, nil)
		reacquire := r.Reacquire
		r.Reacquire = func(ctx context.Context) ([]lora.Use, func(), error) {
			uses, release, err := reacquire(ctx)
			mu.Lock()
			held[uses[0].Weights] = true
			mu.Unlock()
			return uses, release, err
		}
		held[r.LoRA[0].Weights] = true
		sent[i] = r
	}
	streams, err := e.Submit(t.Context(), sent...)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var attacker sync.WaitGroup
	attacker.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-ask:
			}
			mu.Lock()
			var all []*lora.Weights
			for w := range held {
				all = append(all, w)
			}
			mu.Unlock()
			for _, w := range all {
				e.SetAside(w)
			}
			asked <- struct{}{}
		}
	})
	for i, s := range streams {
		wg.Go(func() { compare(t, reqs[i], collect(t, s), plain(reqs[i], 512, 0)) })
	}
	wg.Wait()
	close(stop)
	attacker.Wait()
	if s := e.Stats(); s.Preemptions < 6 {
		t.Errorf("%d preemptions", s.Preemptions)
	}
}
