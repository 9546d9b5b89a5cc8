package sched

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"weft/runtime/kv"
)

func simConfig(maxSeqs int) Config {
	return Config{MaxSeqs: maxSeqs, MaxQueued: 256, MaxBatchTokens: 512, MaxContext: 4096}
}

// TestIdlenessPaysNoDebt: a tenant that was served a lot, pauses and returns keeps its position; one that was away
// saves nothing up.
func TestIdlenessPaysNoDebt(t *testing.T) {
	s := New(simConfig(16), kv.NewPool(64, 16))
	add := func(tenant string) SeqID {
		ids, err := s.Add(Seq{Prompt: make([]int32, 5), MaxTokens: 5, Tenant: tenant})
		if err != nil {
			t.Fatal(err)
		}
		return ids[0]
	}
	a, _ := add("a"), add("b")
	s.tenants["a"].counter, s.tenants["b"].counter = 700, 300
	s.Cancel(a)
	add("a")
	add("c")
	if got := s.tenants["a"].counter; got != 700 {
		t.Errorf("a came back with %v, left with 700", got)
	}
	if got := s.tenants["c"].counter; got != 300 {
		t.Errorf("c begins with %v, the lowest is 300", got)
	}
	if err := s.Verify(); err != nil {
		t.Error(err)
	}
}

// TestTenantsAreForgotten: the state kept for tenants is bounded, and dropped when no tenant is active.
func TestTenantsAreForgotten(t *testing.T) {
	s := New(simConfig(16), kv.NewPool(64, 16))
	stay, err := s.Add(Seq{Prompt: []int32{1}, MaxTokens: 5, Tenant: "stays"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxTenants {
		name := fmt.Sprint(i)
		ids, err := s.Add(Seq{Prompt: []int32{1}, MaxTokens: 5, Tenant: name})
		if err != nil {
			t.Fatal(err)
		}
		s.tenants[name].counter += float64(i + 1)
		s.Cancel(ids[0])
		if err := s.Verify(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.tenants); n != maxTenants+1 || s.tenants[fmt.Sprint(3*maxTenants-1)] == nil {
		t.Errorf("%d tenants are known; the ones kept must be those with the highest counters", n)
	}
	s.Cancel(stay[0])
	if n := len(s.tenants); n != 0 {
		t.Errorf("%d tenants are known when all are idle", n)
	}
}

// TestBypassIsBounded: tenants that are always new, and so always among the lowest, do not keep the first in the queue
// waiting for ever.
func TestBypassIsBounded(t *testing.T) {
	cfg := simConfig(1)
	s := New(cfg, kv.NewPool(64, 16))
	add := func(tenant string) SeqID {
		ids, err := s.Add(Seq{Prompt: []int32{1}, MaxTokens: 1, Tenant: tenant})
		if err != nil {
			t.Fatal(err)
		}
		return ids[0]
	}
	add("first")
	victim := add("poor")
	s.tenants["poor"].counter = 1e6
	for n := 0; ; n++ {
		add(fmt.Sprint("new ", n))
		p, ok := s.Next(Input{})
		if !ok {
			t.Fatal("nothing to do")
		}
		tokens, ended := make([]int32, len(p.Chunks)), make([]bool, len(p.Chunks))
		for i, c := range p.Chunks {
			tokens[i], ended[i] = 1, true
			if c.Seq == victim {
				t.Logf("after %d steps", n)
				return
			}
		}
		s.Commit(p, tokens, ended)
		if n > maxBypass+2 {
			t.Fatalf("still waiting after %d steps", n)
		}
	}
}

// TestQueueOfOneTenantKeepsNobodyOut: one tenant fills MaxQueued; others still get in, up to an eighth of it each and
// as many again in all.
func TestQueueOfOneTenantKeepsNobodyOut(t *testing.T) {
	cfg := simConfig(1)
	cfg.MaxQueued = 16
	s := New(cfg, kv.NewPool(64, 16))
	add := func(tenant string, n int) error {
		_, err := s.Add(slices.Repeat([]Seq{{Prompt: []int32{1}, MaxTokens: 1, Tenant: tenant}}, n)...)
		return err
	}
	for i, c := range []struct {
		tenant string
		n      int
		full   bool
	}{
		{"heavy", 16, false}, {"heavy", 1, true}, {"a", 3, true}, {"a", 2, false}, {"a", 1, true}, {"b", 2, false},
		{"c", 2, false}, {"d", 2, false}, {"e", 2, false},
		{"f", 2, false}, {"g", 2, false}, {"h", 2, false}, {"i", 1, true},
	} {
		if err := add(c.tenant, c.n); errors.Is(err, ErrQueueFull) != c.full {
			t.Errorf("%d: %d of %s: %v, %d wait", i, c.n, c.tenant, err, s.Waiting())
		}
	}
}

// TestRecomputingIsChargedToNobody: a tenant pays for each token once, however often it is computed.
func TestRecomputingIsChargedToNobody(t *testing.T) {
	cfg := simConfig(4)
	cfg.MaxContext = 80
	s := New(cfg, kv.NewPool(6, 16))
	if _, err := s.Add(slices.Repeat([]Seq{{Prompt: make([]int32, 20), MaxTokens: 50, Weight: 2}}, 3)...); err != nil {
		t.Fatal(err)
	}
	output := 0
	for s.Stats().Preemptions == 0 || s.Waiting() > 0 { // until the preempted sequence runs again
		p, ok := s.Next(Input{})
		if !ok {
			t.Fatal("nothing to do")
		}
		tokens, ended := make([]int32, len(p.Chunks)), make([]bool, len(p.Chunks))
		for i, c := range p.Chunks {
			if tokens[i] = -1; c.Sample {
				tokens[i] = 1
				output++
				ended[i] = c.Known >= 60
			}
		}
		s.Commit(p, tokens, ended)
	}
	want := (3*20 + 3*(outputTokens-1) + float64(output-3)*outputTokens) / 2
	if got := s.tenants[""].counter; math.Abs(got-want) > 1e-6 {
		t.Errorf("charged %v, want %v for %d output tokens", got, want, output)
	}
}
