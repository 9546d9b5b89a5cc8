package sched

import (
	"slices"
	"testing"

	"weft/runtime/kv"
)

// TestRequestsBesideBackground: beside an evaluation a request's tokens take as long as without it, and its first one
// comes at most one bounded step later; the evaluation uses the time that is left.
func TestRequestsBesideBackground(t *testing.T) {
	for _, fixed := range []float64{4, 6.5, 20} {
		for _, knows := range []knowledge{exact, estimated} {
			m := machineOf(fixed)
			m.knows, m.longest, m.noise = knows, 35, 0.1
			requests := source{tenant: "t", streams: 2, total: 600, pause: 2000, prompt: 64, gen: 64}
			evaluation := source{background: true, streams: 16, varies: true, prompt: 300, gen: 64, adapter: "a"}
			alone, _ := simulate(t, m, requests)
			both, took := simulate(t, m, requests, evaluation)
			perToken := p99(both[0].perToken) / p99(alone[0].perToken)
			waited, most := slices.Max(both[0].waited), 1.2*m.longest
			first, rate := mean(both[0].ttft)-mean(alone[0].ttft), float64(both[1].tokens)/took
			t.Logf("| %v | %v | %.3f | %.1f | %.1f | %.3f |", fixed, knows, perToken, waited, first, rate)
			if perToken > 1.15 || waited > most || first > m.longest || rate < 0.05 {
				t.Errorf("fixed cost %v: %.2f times as long for a token, up to %.1f until the next step (at most "+
					"%.1f), %.1f longer to the first token, an evaluation at %.2f tokens in the time of one", fixed,
					perToken, waited, most, first, rate)
			}
		}
	}
}

// TestBackgroundSteps are no longer than their bound, from the first one on, and shorter ones cost little.
func TestBackgroundSteps(t *testing.T) {
	for _, longest := range []float64{0, 60, 35} {
		m := machineOf(6.5)
		m.longest = longest
		score := source{background: true, streams: 8, prompt: 2000, gen: 8}
		r := newSimulation(t, m, score, source{background: true, streams: 8, prompt: 30, gen: 200})
		tokens := 0
		for range 2000 {
			tokens += r.step().Tokens
		}
		t.Logf("bound %v: %.3f tokens in the time of one, the longest step %.1f", longest, float64(tokens)/r.now,
			r.longest)
		if most := longest + 2.4; longest > 0 && r.longest > most {
			t.Errorf("a step of %.1f, the bound is %v", r.longest, longest)
		}
		if rate := float64(tokens) / r.now; rate < 0.5 {
			t.Errorf("%.2f tokens in the time of one", rate)
		}
	}
}

// TestBackgroundPagesAreTakenFirst: a request takes pages of background sequences before those of the prefix cache, no
// more than it needs, and those go on, from what is still cached, when no request is live.
func TestBackgroundPagesAreTakenFirst(t *testing.T) {
	pool := kv.NewPool(16, 4)
	s := New(Config{MaxSeqs: 8, MaxQueued: 8, MaxBatchTokens: 64, MaxContext: 64, PrefixCache: true}, pool)
	prompt := func(from int32, n int) []int32 {
		out := make([]int32, n)
		for i := range out {
			out[i] = from + int32(i)
		}
		return out
	}
	next := func() *Plan {
		t.Helper()
		p, ok := s.Next(Input{})
		if !ok {
			t.Fatal("nothing can be computed")
		}
		return p
	}
	commit := func(p *Plan, end bool) {
		t.Helper()
		tokens, ended := make([]int32, len(p.Chunks)), make([]bool, len(p.Chunks))
		for i := range ended {
			tokens[i], ended[i] = 7, end
		}
		if s.Commit(p, tokens, ended); s.Verify() != nil {
			t.Fatal(s.Verify())
		}
	}
	add := func(add func(...Seq) ([]SeqID, error), from int32, n int) SeqID {
		t.Helper()
		ids, err := add(Seq{Prompt: prompt(from, n), MaxTokens: 20})
		if err != nil {
			t.Fatal(err)
		}
		return ids[0]
	}
	add(s.Add, 100, 17)
	commit(next(), true) // four pages stay cached
	a, b := add(s.AddBackground, 200, 17), add(s.AddBackground, 300, 17)
	commit(next(), false)
	if s.Background().Pages != 10 || pool.Counts().Cached != 4 {
		t.Fatalf("%+v, %+v", s.Background(), pool.Counts())
	}
	request := add(s.Add, 400, 17) // five pages and one to grow into, two are free
	p := next()
	if len(p.Chunks) != 1 || p.Chunks[0].Seq != request || !slices.Equal(p.Preempted, []SeqID{b}) {
		t.Fatalf("%+v preempts %v, want the request alone, and %d preempted", p.Chunks, p.Preempted, b)
	}
	commit(p, true)
	if found := pool.Match(nil, kv.Root("", "", 0), kv.Extend(nil, kv.Root("", "", 0), prompt(100, 17), 4),
		prompt(100, 17), 17); len(found) != 4 {
		t.Errorf("%d pages of the prefix cache are left, want 4", len(found))
	} else {
		pool.Release(found)
	}
	p = next()
	if len(p.Chunks) != 2 || p.Chunks[0].Seq != a || p.Chunks[0].Start != 17 || p.Chunks[1].Seq != b ||
		p.Chunks[1].Known != 18 || p.Chunks[1].Start == 0 || p.Chunks[1].Start > 16 {
		t.Errorf("%+v, want %d to go on and %d from what is cached", p.Chunks, a, b)
	}
	commit(p, true)
	if stats := s.Stats(); stats.Preemptions != 0 || stats.PrefixQueries != 34 || s.Background().Preemptions != 1 {
		t.Errorf("%+v, %+v: the sequences of the background do not count as others", stats, s.Background())
	}
}

// TestBackgroundEviction takes the pages of sequences that are in no step, at once, and of the others after it.
func TestBackgroundEviction(t *testing.T) {
	pool := kv.NewPool(8, 4)
	s := New(Config{MaxSeqs: 8, MaxQueued: 8, MaxBatchTokens: 6, MaxContext: 32}, pool)
	if _, err := s.AddBackground(Seq{Prompt: make([]int32, 6), MaxTokens: 3},
		Seq{Prompt: make([]int32, 6), MaxTokens: 3}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		p, _ := s.Next(Input{})
		s.Commit(p, []int32{1, 1}[:len(p.Chunks)], make([]bool, len(p.Chunks)))
	}
	p, ok := s.Next(Input{Background: defaultCosts, Longest: 1e-9})
	if !ok || len(p.Chunks) != 1 {
		t.Fatalf("%+v", p)
	}
	if !s.EvictBackground() || s.Background().Running != 1 || pool.Counts().InUse != 2 {
		t.Errorf("%+v, %+v: want one sequence in the step", s.Background(), pool.Counts())
	}
	s.Commit(p, []int32{1}, []bool{false})
	if s.EvictBackground() || pool.Counts().InUse != 0 {
		t.Errorf("%+v: want no page in use", pool.Counts())
	}
	if p, ok := s.Next(Input{Hold: true}); ok {
		t.Errorf("%+v while background sequences are held", p)
	}
	if p, ok := s.Next(Input{}); !ok || len(p.Preempted) != 2 {
		t.Errorf("%+v, want the plan to name both as preempted", p)
	}
}
