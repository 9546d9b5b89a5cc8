package adapters

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weft/runtime/lora"
)

// longRequests are requests that hold an adapter for long and give it up when they are asked to, as the engine's do.
type longRequests struct {
	t  *testing.T
	c  *Cache
	wg sync.WaitGroup

	mu    sync.Mutex
	aside map[*lora.Weights]chan struct{} // closed by SetAside
	waits map[string]time.Duration        // longest wait for an adapter, by tenant
	moved int
}

func (r *longRequests) setAside(w *lora.Weights) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.aside[w]; c != nil {
		close(c)
		delete(r.aside, w)
		r.moved++
	}
}

// run needs the adapter for a time in all, in as many parts as it is set aside.
func (r *longRequests) run(v Version, need time.Duration) {
	r.wg.Go(func() {
		ctx := context.Background()
		came := time.Now()
		all, err := r.c.AcquireAll(ctx, v)
		for {
			if err != nil {
				r.t.Errorf("%s/%s: %v", v.Tenant, v.Name, err)
				return
			}
			l := all[0]
			aside := make(chan struct{})
			r.mu.Lock()
			r.waits[v.Tenant] = max(r.waits[v.Tenant], time.Since(came))
			r.aside[l.Weights()] = aside
			r.mu.Unlock()
			began := time.Now()
			select {
			case <-time.After(need):
			case <-aside:
			}
			need -= time.Since(began)
			r.mu.Lock()
			delete(r.aside, l.Weights())
			r.mu.Unlock()
			l.Release()
			if need <= 0 {
				return
			}
			came = time.Now()
			all, err = r.c.Reacquire(ctx, v)
		}
	})
}

// TestLongRequestsMakeRoom: a tenant whose long requests hold all memory for adapters gives so much of it up that
// another one has as much, within seconds; tenants with equal parts take turns; and all requests come to their end.
func TestLongRequestsMakeRoom(t *testing.T) {
	for _, c := range []struct {
		name    string
		tenants []int         // adapters of each; the first one's come first
		wait    time.Duration // of the last tenant, at most
		moved   [2]int        // least and most
	}{
		{"one beside three", []int{3, 1}, 2 * time.Second, [2]int{1, 30}},
		{"two beside three", []int{3, 2}, 9 * time.Second, [2]int{2, 60}},
		{"four tenants", []int{1, 1, 1, 1}, 9 * time.Second, [2]int{1, 40}},
		{"one tenant with five", []int{5}, 9 * time.Second, [2]int{2, 60}},
		{"all have memory", []int{2, 1}, time.Second, [2]int{0, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakes(t)
				r := &longRequests{t: t, aside: map[*lora.Weights]chan struct{}{}, waits: map[string]time.Duration{}}
				r.c = f.cache(CacheConfig{Limit: 30, LoadTimeout: 30 * time.Second, SetAside: r.setAside})
				last := ""
				for i, n := range c.tenants {
					for k := range n {
						v := f.version(10*i+k, 10)
						last = fmt.Sprint("tenant", i)
						v.Tenant = last
						r.run(v, 100*time.Second)
					}
					time.Sleep(3 * time.Second)
				}
				r.wg.Wait()
				if r.waits[last] > c.wait || r.moved < c.moved[0] || r.moved > c.moved[1] {
					t.Errorf("%s waited up to %v, %d requests were set aside; want at most %v, and %v", last,
						r.waits[last], r.moved, c.wait, c.moved)
				}
				t.Logf("waits %v, %d set aside, %d loads", r.waits, r.moved, f.loads.Load())
				f.closeAll(r.c)
			})
		})
	}
}
