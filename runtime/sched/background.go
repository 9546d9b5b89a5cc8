package sched

import (
	"slices"

	"weft/internal/invariant"
	"weft/runtime/kv"
)

// firstTokens bounds a step of background sequences while its costs are not known.
const firstTokens = 8

// newBehind returns the class of background sequences of s: a scheduler with its own queue, counters and statistics
// over the same pages, whose ids are negative. It plans a step only while no other sequence is live. Its pages are
// taken before those that other sequences have left in the prefix cache.
func newBehind(cfg Config, pool *kv.Pool) *Scheduler {
	b := newClass(cfg, pool)
	b.background = true
	return b
}

// AddBackground is Add of background sequences, which are of no tenant.
func (s *Scheduler) AddBackground(in ...Seq) ([]SeqID, error) {
	for i := range in {
		in[i].Tenant, in[i].Weight = "", 0
	}
	return s.behind.Add(in...)
}

// Background returns the figures of the background sequences.
func (s *Scheduler) Background() (b Background) {
	b.Running, b.Waiting, b.Preemptions = len(s.behind.running), len(s.behind.waiting), s.behind.stats.Preemptions
	seen := map[kv.PageID]bool{}
	for _, q := range s.behind.running {
		for _, id := range q.pages {
			seen[id] = true
		}
	}
	b.Pages = len(seen)
	return b
}

// Background are figures of the background sequences.
type Background struct {
	Running, Waiting int
	Pages            int    // in use by them; no other sequence uses one of these
	Preemptions      uint64 // since the start
}

// EvictBackground takes the pages of all background sequences but those in the current step, and reports whether there
// are such.
func (s *Scheduler) EvictBackground() (left bool) {
	b := s.behind
	for _, q := range slices.Backward(slices.Clone(b.running)) {
		if q.planned > 0 {
			left = true
			continue
		}
		b.preempt(q)
		b.moved = append(b.moved, q.id)
	}
	return left
}

// class returns the scheduler of a sequence.
func (s *Scheduler) class(id SeqID) *Scheduler {
	if id < 0 {
		return s.behind
	}
	return s
}

// planner returns the scheduler whose plan p is.
func (s *Scheduler) planner(p *Plan) *Scheduler {
	if p == &s.behind.plan {
		return s.behind
	}
	invariant.Check(p == &s.plan, "a plan of another scheduler")
	return s
}

// evict takes pages of background sequences, those of the one admitted last first, while other sequences would
// otherwise have to reclaim cached ones.
func (s *Scheduler) evict(p *Plan) {
	if s.background || len(s.behind.running) == 0 || len(s.active) == 0 {
		return
	}
	need := s.promised()
	for _, q := range s.waiting {
		need += pages(len(q.tokens), s.pool.PageLen()) + 1
	}
	for need > s.pool.Spare() && len(s.behind.running) > 0 {
		q := s.behind.running[len(s.behind.running)-1]
		s.behind.preempt(q)
		p.Preempted = append(p.Preempted, q.id)
	}
}

// bound returns how long a step of background sequences may take; most: what is wished, 0 for no limit.
func (s *Scheduler) bound(most float64) float64 {
	switch {
	case most <= 0:
		return unlimited
	case !s.known:
		return s.costs.Step + firstTokens*s.costs.Token
	}
	return most
}

// perToken returns what one of the next n tokens of a background sequence costs, about.
func (s *Scheduler) perToken(q *seq, n int) float64 {
	c := s.costs.Token + s.costs.Context*(float64(q.computed)+float64(n)/2)
	if q.ScoreAll {
		c += s.costs.Output
	}
	return c
}
