package sched

import (
	"cmp"
	"math"
	"slices"
)

// Virtual token counters (Sheng et al. 2024, arXiv:2401.00588): each tenant has a counter of the tokens that were
// planned for it, divided by its weight, where a token that is sampled counts as outputTokens. The counters do not
// depend on the costs that are estimated, which change.
//
//   - Admission: the waiting sequences of the tenant with the lowest counter come first, FIFO within a tenant. The
//     counter of a tenant that returns from idleness is raised to the lowest counter of the active ones, so that
//     idleness earns no credit.
//   - Sequences: while MaxSeqs are running, a tenant with fewer than its fair share of them is admitted beyond them, up
//     to twice their number; no step computes more than MaxSeqs, so that others skip steps and keep their pages.
//   - Steps: see slowdown.go.
//
// fair_test.go and goals_test.go test the outcome in a simulator whose clock counts such costs.
const (
	// about what a token of output costs in tokens of a prompt on the machines measured
	outputTokens = 2.4

	// maxBypass bounds how many later sequences are admitted before the oldest waiting one.
	maxBypass = 256

	// maxTenants bounds the counters of idle tenants that are kept because they are above those of the active ones.
	maxTenants = 1024
)

// join records a new sequence of a tenant.
func (s *Scheduler) join(name string, weight float64) *tenant {
	t := s.tenants[name]
	if t == nil {
		t = &tenant{name: name}
		s.tenants[name] = t
	}
	if t.weight = weight; weight <= 0 {
		t.weight = 1
	}
	if t.live == 0 {
		s.joined++
		t.joined = s.joined
		if t.late = 0; len(s.active) > 0 {
			t.counter = max(t.counter, s.lowest())
			t.late = s.last // it may have come when that step began
		}
		s.active = append(s.active, t)
	}
	t.live++
	return t
}

// leave records the end of a sequence of t. The counter of a tenant that is idle is kept while it is above the lowest
// active one: otherwise a tenant could reset it by becoming idle.
func (s *Scheduler) leave(t *tenant) {
	if t.live--; t.live > 0 {
		return
	}
	i := slices.Index(s.active, t)
	s.active = slices.Delete(s.active, i, i+1)
	if len(s.active) == 0 {
		clear(s.tenants)
		return
	}
	low := s.lowest()
	if t.counter <= low {
		delete(s.tenants, t.name)
	}
	if len(s.tenants)-len(s.active) > maxTenants {
		s.forget(low)
	}
}

// forget drops the idle tenants whose counter is not above the lowest active one; if there is none, the tenant with the
// lowest counter.
func (s *Scheduler) forget(low float64) {
	var least *tenant
	before := len(s.tenants)
	for name, t := range s.tenants {
		switch {
		case t.live > 0:
		case t.counter <= low:
			delete(s.tenants, name)
		case least == nil || t.counter < least.counter || t.counter == least.counter && t.joined < least.joined:
			least = t
		}
	}
	if len(s.tenants) == before {
		delete(s.tenants, least.name)
	}
}

// lowest returns the lowest counter of the active tenants, of which there is one.
func (s *Scheduler) lowest() float64 {
	low := math.Inf(1)
	for _, t := range s.active {
		low = min(low, t.counter)
	}
	return low
}

// share returns t's fair share of n among the active tenants, by weight.
func (s *Scheduler) share(t *tenant, n int) int {
	sum := 0.0
	for _, a := range s.active {
		sum += a.weight
	}
	return max(int(float64(n)*t.weight/sum), 1)
}

// virtual returns what the next n tokens of q count: one each, and outputTokens-1 more for one that is sampled. Tokens
// that a preempted sequence computes again do not count.
func (q *seq) virtual(n int) float64 {
	end := q.computed + n
	fresh := end - max(q.computed, q.charged)
	if fresh <= 0 {
		return 0
	}
	if end == len(q.tokens) {
		return float64(fresh) + outputTokens - 1
	}
	return float64(fresh)
}

// charge counts the planned tokens [q.computed, q.computed+n) for the tenant.
func (s *Scheduler) charge(q *seq, n int) {
	v, t := q.virtual(n), q.tenant
	t.counter += v / t.weight
	t.used.sum += v
	t.all.sum += v
	q.charged = max(q.charged, q.computed+n)
}

// head returns the index in the queue of the sequence to admit next, -1 if none may be admitted; divided: only of
// tenants that may compute more in this step.
func (s *Scheduler) head(divided bool) int {
	full := len(s.running) >= s.cfg.MaxSeqs
	var best *tenant
	at := -1
	for _, t := range s.active {
		t.offered = false
		if t.waiting == 0 || divided && (t.may <= 0 || t.places <= 0) || full && !s.beyond(t) {
			continue
		}
		t.offered = true
		if best == nil || t.before(best) {
			best = t
		}
	}
	if best == nil {
		return at
	}
	for i, q := range s.waiting {
		if i == 0 && q.bypassed >= maxBypass && q.tenant.offered {
			return 0
		}
		// Among equal tenants the one whose sequence is first in the queue.
		if q.tenant.offered && !best.before(q.tenant) {
			return i
		}
	}
	return at
}

// beyond reports whether a sequence of t may be admitted although MaxSeqs are running: t has fewer than its share of
// them or, with the lowest counter, of twice as many.
func (s *Scheduler) beyond(t *tenant) bool {
	switch {
	case len(s.running) >= 2*s.cfg.MaxSeqs:
		return false
	case t.running < s.share(t, s.cfg.MaxSeqs):
		return true
	}
	return t.counter <= s.lowest() && t.running < s.share(t, 2*s.cfg.MaxSeqs)
}

// before reports whether t is admitted before o: its counter is lower or, where they are equal, fewer of its sequences
// run, by weight.
func (t *tenant) before(o *tenant) bool {
	return cmp.Or(cmp.Compare(t.counter, o.counter),
		cmp.Compare(float64(t.running)*o.weight, float64(o.running)*t.weight)) < 0
}
