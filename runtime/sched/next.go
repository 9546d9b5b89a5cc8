package sched

import (
	"cmp"
	"slices"

	"weft/internal/invariant"
	"weft/runtime/kv"
)

// Next plans a step; false if nothing can be computed. Commit or Abandon must follow a plan. Plan.Reclaimed is set in
// both cases.
func (s *Scheduler) Next(in Input) (*Plan, bool) {
	invariant.Check(!s.inPlan && !s.behind.inPlan, "Next before Commit")
	if len(s.seqs) > 0 || len(s.behind.seqs) == 0 || in.Hold {
		return s.next(in)
	}
	in.Costs = in.Background
	return s.behind.next(in)
}

// next is Next of one class.
func (s *Scheduler) next(in Input) (*Plan, bool) {
	p := &s.plan
	p.Chunks, p.Tokens, p.Reclaimed = p.Chunks[:0], 0, 0
	s.idle = min(max(in.Idle, 0), s.pool.Counts().Reserved)
	p.Preempted = append(p.Preempted[:0], s.moved...)
	s.moved = s.moved[:0]
	s.step++
	s.take(in.Costs)
	if s.background {
		s.limit = s.bound(in.Longest)
	}
	s.evict(p)
	s.takePages(p)
	s.order = append(s.order[:0], s.running...)
	s.allow()
	if s.fill(p); len(p.Chunks) == 0 && len(s.active) > 0 && !s.background {
		s.lift() // what was divided cannot be computed, for lack of pages
		s.fill(p)
	}
	clear(s.order)
	// Grouped by adapter, so that segments are long; base first; decode first and admission order within.
	slices.SortStableFunc(p.Chunks, func(a, b Chunk) int { return cmp.Compare(a.Key, b.Key) })
	for i := range p.Chunks {
		p.Tokens += len(p.Chunks[i].Tokens)
	}
	s.took()
	s.inPlan = len(p.Chunks) > 0
	return p, s.inPlan
}

// fill plans what the tenants may compute.
func (s *Scheduler) fill(p *Plan) {
	budget := s.cfg.MaxBatchTokens
	// Decode first: running sequences that lack one token only, then those still in their prompt, each by admission or,
	// if not all fit the step, by when they were last in one.
	if len(s.active) == 1 && (s.work < unlimited || len(s.running) > s.cfg.MaxSeqs) {
		slices.SortStableFunc(s.order, func(a, b *seq) int { return cmp.Compare(a.served, b.served) })
	}
	for _, prefill := range []bool{false, true} {
		for _, q := range s.order {
			// q may have been preempted meanwhile
			if budget > 0 && len(p.Chunks) < s.cfg.MaxSeqs && q.state == running && (q.lag() > 1) == prefill {
				budget -= s.give(p, q, budget)
			}
		}
	}
	for budget > 0 && len(s.waiting) > 0 && len(p.Chunks) < s.cfg.MaxSeqs {
		i := s.head(true)
		if i < 0 || !s.admit(s.waiting[i]) {
			break
		}
		budget -= s.give(p, s.dequeue(i), budget)
	}
}

// dequeue takes the admitted sequence at place i out of the queue and returns it.
func (s *Scheduler) dequeue(i int) *seq {
	q := s.waiting[i]
	if i > 0 {
		s.waiting[0].bypassed++
	}
	s.waiting = slices.Delete(s.waiting, i, i+1)
	q.tenant.waiting--
	return q
}

// reclaim makes up to n idle pages free.
func (s *Scheduler) reclaim(n int) {
	if n = min(n, s.idle); n > 0 {
		s.pool.Grow(n)
		s.idle -= n
		s.plan.Reclaimed += n
	}
}

// admit moves a waiting sequence to running, with the pages found in the prefix cache, if its known tokens fit the
// available pages. Each running sequence keeps the pages that it lacks for its prompt and one to grow into, so that a
// sequence is not admitted and preempted a step later. It stays in the queue's list.
func (s *Scheduler) admit(q *seq) bool {
	if s.pool.Available() == 0 {
		if s.reclaim(pages(len(q.tokens), s.pool.PageLen())); s.pool.Available() == 0 {
			return false
		}
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
	need := pages(len(q.tokens), s.pool.PageLen()) - found + s.promised()
	if s.reclaim(need - s.pool.Available()); need > s.pool.Available() {
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
	q.tenant.running++
	q.state, q.first = running, true
	return true
}

// promised returns the number of pages that are kept for the running sequences.
func (s *Scheduler) promised() int {
	n := 0
	for _, q := range s.running {
		n += max(pages(len(q.tokens), s.pool.PageLen())-len(q.pages), 0) + 1
	}
	return n
}

func (s *Scheduler) ropeOf(n int) int {
	if s.cfg.RopeSwitch > 0 && n > s.cfg.RopeSwitch {
		return 1
	}
	return 0
}

// most returns the number of tokens of q that a step can compute.
func (s *Scheduler) most(q *seq) int {
	n := min(q.lag(), s.cfg.MaxBatchTokens)
	if s.cfg.MaxPrefillChunk > 0 {
		n = min(n, s.cfg.MaxPrefillChunk)
	}
	return n
}

// give plans up to budget tokens of q, preempting others where pages lack. It returns the tokens planned; 0 if q itself
// was preempted, or if the sequences whose pages could be taken are already in this step: then q waits for their pages.
func (s *Scheduler) give(p *Plan, q *seq, budget int) int {
	n := s.affordable(q, min(s.most(q), budget))
	if n <= 0 {
		return 0
	}
	for need := pages(q.computed+n, s.pool.PageLen()); len(q.pages) < need; {
		if s.pool.Available() == 0 {
			s.reclaim(need - len(q.pages))
		}
		id, err := s.pool.Alloc()
		if err == nil {
			q.pages = append(q.pages, id)
			continue
		}
		victim := s.victim()
		if victim == nil || victim == q && s.running[len(s.running)-1] != q {
			return 0
		}
		s.preempt(victim)
		p.Preempted = append(p.Preempted, victim.id)
		if victim == q {
			return 0
		}
	}
	s.spend(q, n)
	q.planned, q.served = n, s.step
	p.Chunks = append(p.Chunks, Chunk{
		Seq: q.id, Start: q.computed, Tokens: q.tokens[q.computed : q.computed+n], Known: len(q.tokens), Pages: q.pages,
		Key:    q.Key,
		Sample: q.computed+n == len(q.tokens), Score: q.ScoreAll, Cached: q.cached, First: q.first,
	})
	q.first = false
	return n
}
