package sched

import (
	"cmp"
	"slices"

	"weft/internal/invariant"
	"weft/runtime/kv"
)

// Next plans a step; false where nothing can be computed. Commit or Abandon must follow a plan.
func (s *Scheduler) Next() (*Plan, bool) {
	invariant.Check(!s.inPlan, "Next before Commit")
	p := &s.plan
	p.Chunks, p.Tokens = p.Chunks[:0], 0
	p.Preempted = append(p.Preempted[:0], s.moved...)
	s.moved = s.moved[:0]
	before := s.stats.Preemptions
	budget := s.cfg.MaxBatchTokens
	// Decode first: running sequences that lack one token only, then those still in their prompt, each by admission.
	s.order = append(s.order[:0], s.running...)
	for _, prefill := range []bool{false, true} {
		for _, q := range s.order {
			if budget > 0 && q.state == running && (q.lag() > 1) == prefill { // a preemption may have sent q back meanwhile
				budget -= s.give(p, q, budget)
			}
		}
	}
	// Nobody is admitted in a step that had to take pages from somebody.
	for budget > 0 && len(s.waiting) > 0 && len(s.running) < s.cfg.MaxSeqs && s.stats.Preemptions == before {
		i := s.head()
		q := s.waiting[i]
		if !s.admit(q) {
			break
		}
		s.waiting = slices.Delete(s.waiting, i, i+1)
		budget -= s.give(p, q, budget)
	}
	clear(s.order)
	// Adapters side by side, so that a segment is a run; base first; decode first and admission order within.
	slices.SortStableFunc(p.Chunks, func(a, b Chunk) int { return cmp.Compare(a.Key, b.Key) })
	for i := range p.Chunks {
		p.Tokens += len(p.Chunks[i].Tokens)
	}
	s.inPlan = len(p.Chunks) > 0
	return p, s.inPlan
}

// head is the place in the queue of the sequence to be admitted next: the first. A fair share over tenants chooses here, and nowhere else.
func (s *Scheduler) head() int { return 0 }

// admit moves a waiting sequence to running, with what the prefix cache holds, if its known tokens fit the pages that can be had. While others run,
// each is left a page to grow into: who is admitted should not be sent back a step later. It stays in the queue's list.
func (s *Scheduler) admit(q *seq) bool {
	if s.pool.Available() == 0 {
		return false
	}
	if rope := s.ropeOf(len(q.tokens)); !q.rooted || rope != q.rope {
		q.rope, q.root, q.keys, q.rooted = rope, kv.Root(q.Key, q.Salt, rope), q.keys[:0], true
	}
	found := 0
	if s.cfg.PrefixCache && !q.ScoreAll {
		q.keys = kv.Extend(q.keys, q.root, q.tokens, s.pool.PageLen())
		q.pages = s.pool.Match(q.pages[:0], q.root, q.keys, q.tokens, len(q.tokens)-1)
		found = len(q.pages)
	}
	if pages(len(q.tokens), s.pool.PageLen())-found+len(s.running) > s.pool.Available() {
		s.release(q)
		return false
	}
	q.indexed, q.computed = found, found*s.pool.PageLen()
	if !q.admitted {
		q.admitted, q.cached = true, q.computed
		if s.cfg.PrefixCache && !q.ScoreAll {
			s.stats.PrefixQueries += uint64(len(q.tokens))
			s.stats.PrefixHits += uint64(q.computed)
		}
	}
	s.running = append(s.running, q)
	q.state, q.first = running, true
	return true
}

func (s *Scheduler) ropeOf(n int) int {
	if s.cfg.RopeSwitch > 0 && n > s.cfg.RopeSwitch {
		return 1
	}
	return 0
}

// give plans up to budget tokens of q, preempting those admitted last where pages lack. It returns the tokens planned; none where q itself was sent back
// or where all who were admitted after it already have their part in this step: then it waits for their pages.
func (s *Scheduler) give(p *Plan, q *seq, budget int) int {
	n := min(q.lag(), budget)
	if s.cfg.MaxPrefillChunk > 0 {
		n = min(n, s.cfg.MaxPrefillChunk)
	}
	if n <= 0 {
		return 0
	}
	for len(q.pages) < pages(q.computed+n, s.pool.PageLen()) {
		id, err := s.pool.Alloc()
		if err == nil {
			q.pages = append(q.pages, id)
			continue
		}
		victim := s.victim()
		if victim == q && s.running[len(s.running)-1] != q {
			return 0
		}
		s.preempt(victim)
		p.Preempted = append(p.Preempted, victim.id)
		if victim == q {
			return 0
		}
	}
	q.planned = n
	p.Chunks = append(p.Chunks, Chunk{
		Seq: q.id, Start: q.computed, Tokens: q.tokens[q.computed : q.computed+n], Known: len(q.tokens), Pages: q.pages, Key: q.Key,
		Sample: q.computed+n == len(q.tokens), Score: q.ScoreAll, Cached: q.cached, First: q.first,
	})
	q.first = false
	return n
}

// victim is the running sequence admitted last that has no tokens in the plan; who asks for pages has none yet, so there is one.
func (s *Scheduler) victim() *seq {
	for _, q := range slices.Backward(s.running) {
		if q.planned == 0 {
			return q
		}
	}
	panic("sched: a page was asked for by a sequence that does not run")
}
