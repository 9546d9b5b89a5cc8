package sched

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Fairness over tenants. Each tenant has a counter of the tokens that were planned for it, divided by its weight
// (virtual token counter, Sheng et al. 2024, arXiv:2401.00588). Three rules use it:
//
//   - Admission: the waiting sequences of the tenant with the lowest counter come first, FIFO within a tenant. The
//     counter of a tenant that returns from idleness is raised to the lowest counter of the active ones, so that
//     idleness earns no credit.
//   - Sequences: while MaxSeqs are running, a tenant with fewer than its fair share of them is admitted beyond them, up
//     to twice their number; no step computes more than MaxSeqs, so that others skip steps and keep their pages.
//   - Steps: the tenant with the lowest counter gets all of a step's cost that it can use, and each other tenant as
//     much as the sequences of the first cost, by weight, at least one token. While
//     the first is ahead of one of them, they
//     together get so much more that the step takes at most maxSlowdown times as long as it would without the widest of
//     them. Sequences that skip a step come first in the next.
//
// Costs are those of the counters, promptCost for a token that is computed and outputCost for one that is sampled too:
// on two cores a token of a prompt of SmolLM2 Q8_0 takes 0.6 ms, one more sequence in a step 1.4 ms, for its logits and
// their sampling, and a step 4 ms besides.
//
// fair_test.go tests the outcome with a clock of such costs.
const (
	promptCost = 1
	outputCost = 2

	// stepCost is the fixed cost of a step besides its tokens. It is a low estimate: a high one would slow the tenant
	// that is protected.
	stepCost    = 6
	maxSlowdown = 1.4

	// credit is by how much the tenant that is computed in full may be ahead of the one furthest behind, where it is
	// narrower: a prompt of ordinary length does not put it behind tenants with many sequences.
	credit = 512

	// While another tenant was active in the last lately steps, the steps of a single tenant cost no more than
	// shortStep, and less in the first after it: a tenant that returns waits for one of them.
	lately    = 1024
	shortStep = 20

	// maxBypass bounds how many later sequences are admitted before the oldest waiting one.
	maxBypass = 256

	// maxTenants bounds the counters of idle tenants that are kept because they are above those of the active ones.
	maxTenants = 1024
)

type tenant struct {
	name    string
	weight  float64
	counter float64
	joined  uint64 // increases with each return from idleness
	live    int    // sequences that run or wait
	waiting int
	running int

	// Scratch.
	may     int  // cost that it may still use in this step
	over    int  // its excess over that in the last step, at most 0
	demand  int  // cost of the tokens that its running sequences lack
	pages   int  // of its running sequences
	offered bool // may be admitted from
}

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
		if len(s.active) > 0 {
			t.counter = max(t.counter, s.lowest())
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

// charge counts the planned tokens [q.computed, q.computed+n) for the tenant. Tokens that a preempted sequence computes
// again are not counted.
func (q *seq) charge(n int) {
	end := q.computed + n
	prompt := max(min(end, len(q.Prompt))-max(q.computed, q.charged), 0)
	q.charged = max(q.charged, end)
	cost := promptCost * float64(prompt)
	if end == len(q.tokens) {
		cost += outputCost
	}
	q.tenant.counter += cost / q.tenant.weight
}

// allow sets the cost that each tenant may use in this step.
func (s *Scheduler) allow() {
	if len(s.active) < 2 {
		for _, t := range s.active {
			if t.may = unlimited; s.shared > 0 && s.step-s.shared <= lately {
				t.may = min(stepCost+int(s.step-s.shared)/2, shortStep)
			}
		}
		return
	}
	s.shared = s.step
	slices.SortFunc(s.active, func(a, b *tenant) int {
		return cmp.Or(cmp.Compare(a.counter, b.counter), cmp.Compare(a.joined, b.joined))
	})
	s.measure()
	lowest := s.active[0].counter
	s.putFirst()
	first, others := s.active[0], s.active[1:]
	if first.may = unlimited; !slices.ContainsFunc(others, func(t *tenant) bool { return t.running > first.running }) {
		first.may = shortStep
	}
	width := min(max(first.running, 1)*outputCost, first.may)
	level, widest := 0, others[len(others)-1]
	for _, t := range others {
		t.over, t.may = min(t.may, 0), min(max(int(float64(width)*t.weight/first.weight), outputCost), t.demand)
		if t != widest {
			level += t.may
		}
	}
	left := 0
	if first.counter > lowest {
		left = int(maxSlowdown*float64(stepCost+width+level)) - stepCost - width - level - widest.may
	}
	for _, t := range others {
		if more := min(left, t.demand-t.may); more > 0 {
			t.may += more
			left -= more
		}
		t.may = max(t.may+t.over, 1)
	}
}

// unlimited is more than any step costs.
const unlimited = math.MaxInt32

// costOf is the cost of n tokens of a sequence in a step after which lag-n are left to compute.
func costOf(n, lag int) int {
	if n == lag {
		return n*promptCost + outputCost - promptCost
	}
	return n * promptCost
}

// putFirst moves the tenant with the fewest sequences, by weight, to the front, of those whose counters are no more
// than credit above the lowest.
func (s *Scheduler) putFirst() {
	at := 0
	for i, t := range s.active {
		if first := s.active[at]; t.counter <= s.active[0].counter+credit &&
			float64(t.running)*first.weight < float64(first.running)*t.weight {
			at = i
		}
	}
	first := s.active[at]
	copy(s.active[1:at+1], s.active[:at])
	s.active[0] = first
}

// measure adds up the cost that each active tenant could use in this step; a waiting sequence could use all.
func (s *Scheduler) measure() {
	for _, t := range s.active {
		if t.demand = 0; t.waiting > 0 {
			t.demand = unlimited
		}
	}
	for _, q := range s.running {
		q.tenant.demand = min(q.tenant.demand+costOf(q.lag(), q.lag()), unlimited)
	}
}

// head returns the index in the queue of the sequence to admit next, -1 if none may be admitted.
func (s *Scheduler) head() int {
	full := len(s.running) >= s.cfg.MaxSeqs
	var best *tenant
	at := -1
	for _, t := range s.active {
		t.offered = false
		if t.waiting == 0 || t.may <= 0 || full &&
			(len(s.running) >= 2*s.cfg.MaxSeqs || t.running >= s.share(t, s.cfg.MaxSeqs)) {
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

// before reports whether t is admitted before o: its counter is lower or, where they are equal, fewer of its sequences
// run, by weight.
func (t *tenant) before(o *tenant) bool {
	return cmp.Or(cmp.Compare(t.counter, o.counter),
		cmp.Compare(float64(t.running)*o.weight, float64(o.running)*t.weight)) < 0
}

// takePages preempts sequences of tenants with more than their fair share of pages if the next tenant has less and
// lacks pages to start, and admits it.
func (s *Scheduler) takePages(p *Plan) {
	if len(s.active) < 2 || len(s.waiting) == 0 {
		return
	}
	i := s.head()
	if i < 0 {
		return
	}
	q := s.waiting[i]
	need := pages(len(q.tokens), s.pool.PageLen()) + len(s.running)
	if s.reclaim(need - s.pool.Available()); need <= s.pool.Available() {
		return
	}
	s.countPages()
	if q.tenant.pages+pages(len(q.tokens), s.pool.PageLen()) > s.share(q.tenant, s.pool.Total()) {
		return
	}
	over := 0
	for _, t := range s.active {
		over += max(t.pages-s.share(t, s.pool.Total()), 0)
	}
	if over < need-s.pool.Available() {
		return
	}
	for need > s.pool.Available() {
		v := s.victim()
		if v == nil || v.tenant == q.tenant || v.tenant.pages <= s.share(v.tenant, s.pool.Total()) {
			break
		}
		s.preempt(v)
		p.Preempted = append(p.Preempted, v.id)
		need--
	}
	if i = slices.Index(s.waiting, q); s.admit(q) {
		s.dequeue(i)
	}
}

// countPages counts the pages of the running sequences of each tenant.
func (s *Scheduler) countPages() {
	for _, t := range s.active {
		t.pages = 0
	}
	for _, q := range s.running {
		q.tenant.pages += len(q.pages)
	}
}

// victim returns the running sequence to preempt when pages are short: of the tenant with most pages, by weight, the
// one admitted last. Never one with tokens in the plan, and never the one admitted first of all, which therefore runs
// until it ends. nil: there is none.
func (s *Scheduler) victim() *seq {
	s.countPages()
	var worst *seq
	for i, q := range slices.Backward(s.running) {
		if q.planned > 0 || i == 0 {
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
