package sched

import (
	"fmt"
	"slices"

	"weft/runtime/kv"
)

// tenant is the scheduler's state of one tenant: counters.go and slowdown.go use it to divide steps, this file to
// divide pages.
type tenant struct {
	name    string
	weight  float64
	counter float64
	joined  uint64 // increases with each return from idleness
	live    int    // sequences that run or wait
	waiting int
	running int

	all  recent  // what was charged for it in the last steps
	used recent  // the same, bounded by maxUsed
	late float64 // by how much its steps, and its wait for the first one, took too long

	// Scratch of a step.
	demand float64 // cost of what its sequences could compute
	// pages for more of its waiting sequences, and how many of these were considered
	room, considered int

	blocked bool    // for one of its waiting sequences there are no pages
	decode  float64 // of demand, that of running sequences that lack one token
	fair    float64 // how long the step may take while the tenant is short
	short   float64 // 1: uses much less than its share of time, 0: all of it or more
	next    float64 // its counter when it comes to its next sequence
	may     float64 // cost that it may still use
	places  int     // sequences that it may still compute
	pages   int     // of its running sequences
	offered bool    // may be admitted from
}

// takePages preempts sequences of tenants with more than their fair share of pages if the next tenant has less and
// lacks pages to start, and admits it.
func (s *Scheduler) takePages(p *Plan) {
	if len(s.active) < 2 || len(s.waiting) == 0 {
		return
	}
	i := s.head(false)
	if i < 0 {
		return
	}
	q := s.waiting[i]
	need := pages(len(q.tokens), s.pool.PageLen()) + s.promised()
	if s.reclaim(need - s.pool.Available()); need <= s.pool.Available() {
		return
	}
	s.countPages()
	with, share := q.tenant.pages+pages(len(q.tokens), s.pool.PageLen()), s.share(q.tenant, s.pool.Total())
	if with > share || q.tenant.running > 0 && with > share/2 {
		return // what lacks to half of its share comes at once, the rest as others end
	}
	over := 0
	for _, t := range s.active {
		over += max(t.pages-s.share(t, s.pool.Total()), 0)
	}
	if over < need-s.pool.Available() {
		return
	}
	victims := s.victims(q.tenant, need)
	if victims == nil {
		return // q could not be admitted all the same
	}
	for _, v := range victims {
		s.preempt(v)
		p.Preempted = append(p.Preempted, v.id)
	}
	if i = slices.Index(s.waiting, q); s.admit(q) {
		s.dequeue(i)
	}
}

// victims returns the sequences to preempt so that t gets need pages, nil where those that may be do not suffice.
func (s *Scheduler) victims(t *tenant, need int) (out []*seq) {
	free, refs := s.pool.Available(), map[kv.PageID]int{}
	defer func() {
		for _, q := range s.running {
			q.taken = false
		}
	}()
	for need > free {
		v := s.victim()
		if v == nil || !s.owes(v, t) {
			return nil
		}
		v.taken = true
		out = append(out, v)
		for _, id := range v.pages { // those that other sequences have too are not free
			if refs[id]++; refs[id] == s.pool.Refs(id) {
				free++
			}
		}
		need--
	}
	return out
}

// owes reports whether v may be preempted for t: its tenant is not behind t, has more than its share of pages and,
// unless t has none, keeps its share without v. So tenants with about their shares do not preempt each other in turn.
func (s *Scheduler) owes(v *seq, t *tenant) bool {
	share := s.share(v.tenant, s.pool.Total())
	return v.tenant != t && v.tenant.counter >= t.counter && v.tenant.pages > share &&
		(t.running == 0 || v.tenant.pages-len(v.pages) >= share)
}

// countPages counts the pages of the running sequences of each tenant.
func (s *Scheduler) countPages() {
	for _, t := range s.active {
		t.pages = 0
	}
	for _, q := range s.running {
		if !q.taken {
			q.tenant.pages += len(q.pages)
		}
	}
}

// victim returns the running sequence to preempt when pages are short: of the tenant with most pages, by weight, the
// one admitted last. Never one with tokens in the plan, and never the one admitted first of all, which therefore runs
// until it ends. nil: there is none.
func (s *Scheduler) victim() *seq {
	s.countPages()
	var worst *seq
	for i, q := range slices.Backward(s.running) {
		if q.planned > 0 || q.taken || i == 0 {
			continue
		}
		if worst == nil || float64(q.tenant.pages)*worst.tenant.weight > float64(worst.tenant.pages)*q.tenant.weight {
			worst = q
		}
	}
	return worst
}

// verifyTenants returns an error for the first tenant whose counts differ from its sequences.
func (s *Scheduler) verifyTenants() error {
	type counts struct{ running, waiting int }
	want := map[*tenant]counts{}
	for _, q := range s.seqs {
		if q.state == aside {
			continue
		}
		n := want[q.tenant]
		if q.state == running {
			n.running++
		} else {
			n.waiting++
		}
		want[q.tenant] = n
	}
	for _, t := range s.active {
		n := want[t]
		if t.running != n.running || t.waiting != n.waiting || t.live != n.running+n.waiting || t.live == 0 ||
			s.tenants[t.name] != t {
			return fmt.Errorf("tenant %q has %d live sequences, %d run, %d wait; counted are %+v", t.name, t.live,
				t.running, t.waiting, n)
		}
	}
	if len(want) != len(s.active) || len(s.tenants)-len(s.active) > maxTenants {
		return fmt.Errorf("%d tenants have sequences, %d are active, %d are known", len(want), len(s.active),
			len(s.tenants))
	}
	return nil
}
