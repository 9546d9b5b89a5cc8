package engine

import (
	"errors"
	"testing"

	"weft/internal/deadline"
	"weft/runtime/model"
)

// The server's own work is that of no tenant: one that fills its queue keeps it not out, and no name is the same.
func TestInternalRequests(t *testing.T) {
	m := newFakeModel(t)
	inside, goOn := make(chan struct{}), make(chan struct{})
	m.during = func(*model.Batch) {
		if m.forwards.Load() == 1 {
			inside <- struct{}{}
			<-goOn
		}
	}
	cfg := m.config()
	cfg.MaxSeqs, cfg.MaxQueued = 1, 2
	e := start(t, cfg)
	submit := func(tenant string, internal bool) (*Stream, error) {
		r := request([]int32{1, 2}, 2)
		r.Tenant, r.Internal = tenant, internal
		streams, err := e.Submit(t.Context(), r)
		if err != nil {
			return nil, err
		}
		return streams[0], nil
	}
	var streams []*Stream
	admit := func(tenant string, internal bool) {
		t.Helper()
		s, err := submit(tenant, internal)
		if err != nil {
			t.Fatalf("tenant %q, internal %v: %v", tenant, internal, err)
		}
		streams = append(streams, s)
	}
	admit("", false)
	deadline.Receive(t, inside, "the first step")
	admit("", false)
	admit("", false)
	if _, err := submit("", false); !errors.Is(err, ErrQueueFull) {
		t.Errorf("beyond the tenant's queue: %v", err)
	}
	admit("", true)
	for _, tenant := range []string{internalTenant, "\x00"} {
		if _, err := submit(tenant, false); !errors.Is(err, ErrInvalid) {
			t.Errorf("tenant %q: %v", tenant, err)
		}
	}
	if _, err := submit("acme", true); !errors.Is(err, ErrInvalid) {
		t.Errorf("internal and of a tenant: %v", err)
	}
	close(goOn)
	for _, s := range streams {
		collect(t, s)
	}
}
