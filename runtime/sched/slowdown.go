package sched

import (
	"cmp"
	"math"
	"slices"

	"weft/runtime/cost"
)

// The slowdown policy: how long a step may take, and which part of it each tenant gets. Costs are estimates of time.
//
// A tenant that uses less of the machine than its share, by weight, has few sequences: wider steps would not give it
// more, they make it wait. While there is such a tenant, a step takes at most maxSlowdown times as long as with its
// tokens of output alone, and not longer for its prompts. The tenant's first step comes after one of others, and may be
// too late by that one's time; its next steps are shorter until that is made up for. The cap fades while the tenant's
// use rises from enough of its share to all of it. Tenants that use their shares are not capped, so that together they
// run as many sequences as one tenant would. After a cap a step may take growth times as long as the one before it.
//
// Within the step the sequences of the tenant with the lowest counter come first, where a tenant that uses less than
// its share is ahead by up to credit.
const (
	maxSlowdown = 1.45
	enough      = 0.72
	growth      = 1.7

	// window is the number of steps over which the use of the machine is counted, about. In fewer steps tenants with
	// equal load seem to use less than their shares at times; after more a tenant that has less to compute than before
	// waits longer for short steps. maxUsed bounds what counts of a tenant that uses more than its share.
	window  = 384
	maxUsed = 1.25

	// While another tenant was active in the last lately steps, the prompts of a single tenant do not make its steps
	// longer than gives it knee of the throughput of full ones: a tenant that returns waits for one of them.
	lately = 1024
	knee   = 0.97

	// credit bounds how far the counter of a tenant is behind the highest one, and with it for how long it comes first
	// when it has more to compute again: about a prompt of ordinary length.
	credit = 512

	maxAdapters = 1 << 12 // keys of adapters that are remembered
)

// defaultCosts are taken until the first estimate: those of a small model on two cores.
var defaultCosts = cost.Costs{Step: 6, Token: 1, Output: 1.4}

// unlimited is more than any step costs.
const unlimited = math.MaxFloat64

// take sets the costs of this step, where they are known.
func (s *Scheduler) take(c cost.Costs) {
	sum := c.Step + c.Of(cost.Work{Tokens: 1, Outputs: 1, Context: 1, Adapters: 1})
	least := min(c.Step, c.Token, c.Output, c.Context, c.Adapter)
	if s.known = least >= 0 && c.Token+c.Output > 0 && !math.IsInf(sum, 0); !s.known {
		c = defaultCosts
	}
	s.costs = c
}

// startSum begins a sum of costs of sequences, each of which costOf returns.
func (s *Scheduler) startSum() {
	if s.sum++; len(s.adapters) > maxAdapters {
		clear(s.adapters)
	}
}

// costOf returns the cost of the next n tokens of q. The first sequence of a sum with its adapter pays for that.
func (s *Scheduler) costOf(q *seq, n int) float64 {
	w := cost.Chunk(q.computed, n, q.computed+n == len(q.tokens))
	if q.ScoreAll {
		w.Outputs = float64(n)
	}
	if q.Key != "" && s.adapters[q.Key] != s.sum {
		s.adapters[q.Key] = s.sum
		w.Adapters = 1
	}
	return s.costs.Of(w)
}

// allow sets how much each tenant may compute in this step: its cost and its places.
func (s *Scheduler) allow() {
	if len(s.active) == 0 {
		return
	}
	s.measure()
	s.cap = s.longest()
	s.work, s.spent = s.cap-s.costs.Step, 0
	if len(s.active) == 1 {
		if s.active[0].may, s.active[0].places = s.work, math.MaxInt; s.background {
			s.active[0].may = max(s.work, math.SmallestNonzeroFloat64) // at least a token
		}
		return
	}
	s.divide()
	s.startSum()
}

// measure sums up what the tenants could compute in this step, the waiting sequences included, and what they have used.
func (s *Scheduler) measure() {
	s.startSum()
	highest := math.Inf(-1)
	for _, t := range s.active {
		t.demand, t.decode, t.blocked, highest = 0, 0, false, max(highest, t.counter)
	}
	s.decoding = 0
	for _, q := range s.running {
		c := s.costOf(q, s.most(q))
		if q.tenant.demand += c; q.lag() == 1 {
			q.tenant.decode += c
			s.decoding += c
		}
	}
	s.measureWaiting()
	used := 0.0
	for _, t := range s.active {
		t.counter = max(t.counter, highest-credit)
		t.used.advance(s.step)
		t.all.advance(s.step)
		used += t.all.sum
	}
	sum := s.weights()
	for _, t := range s.active {
		t.short = 1
		if share := used * t.weight / sum; share > 0 {
			t.used.sum = min(t.used.sum, maxUsed*share)
			t.short = min(max((1-t.used.sum/share)/(1-enough), 0), 1)
		}
	}
}

// measureWaiting adds what the waiting sequences could compute for which there are pages, of each tenant as many as fit
// a step. Whichever tenant comes first gets the pages, so each is measured as if it were that one.
func (s *Scheduler) measureWaiting() {
	s.could = s.could[:0]
	free := s.pool.Available() + s.idle - s.promised()
	for _, t := range s.active {
		t.room, t.considered = free, 0
	}
	for _, q := range s.waiting {
		t, need := q.tenant, pages(len(q.tokens), s.pool.PageLen())
		if t.blocked || t.considered == s.cfg.MaxSeqs {
			continue
		}
		if t.blocked = need > t.room; t.blocked {
			continue
		}
		t.room -= need + 1
		t.considered++
		s.could = append(s.could, q)
		t.demand += s.costOf(q, s.most(q))
	}
}

// longest returns how long this step may take.
func (s *Scheduler) longest() float64 {
	limit, sum := unlimited, s.weights()
	full := s.costs.Of(cost.Work{Tokens: float64(s.cfg.MaxBatchTokens), Outputs: float64(s.cfg.MaxSeqs)})
	if len(s.active) > 1 {
		for _, t := range s.active {
			if t.blocked {
				continue // it waits for pages, which longer steps free sooner
			}
			alone := s.costs.Step + min(t.demand, full)
			t.fair = alone + (maxSlowdown-1)*(s.costs.Step+min(t.decode, full))
			if t.short == 1 {
				limit = min(limit, max(t.fair-t.late, alone))
			} else { // about its share
				limit = min(limit, max(t.fair/t.short, s.costs.Step+t.demand*sum/t.weight))
			}
		}
	}
	if limit == unlimited && s.cap < unlimited {
		limit = growth * s.cap
		if s.shared == s.step-1 {
			limit = s.cap
		}
	}
	if len(s.active) > 1 {
		s.shared = s.step
	} else if s.shared > 0 && s.step-s.shared <= lately {
		x := knee * full / (s.costs.Step + full)
		limit = min(limit, s.costs.Step+max(s.decoding, s.costs.Step*x/(1-x)))
	}
	return min(limit, s.limit)
}

// weights returns the sum of the active tenants' weights.
func (s *Scheduler) weights() float64 {
	sum := 0.0
	for _, t := range s.active {
		sum += t.weight
	}
	return sum
}

// item is a sequence that could be in the step.
type item struct {
	q    *seq
	cost float64
	at   float64 // the counter that its tenant will have when it comes to it
	nth  int
}

// divide gives the step's cost and places to the sequences in the order of their tenants' counters, each of which
// advances with each of them.
func (s *Scheduler) divide() {
	s.startSum()
	s.items = s.items[:0]
	for _, t := range s.active {
		t.may, t.places, t.next = 0, 0, t.counter-credit*t.short
	}
	slices.SortStableFunc(s.order, func(a, b *seq) int {
		return cmp.Or(cmp.Compare(min(a.lag(), 2), min(b.lag(), 2)), cmp.Compare(a.served, b.served))
	})
	for _, list := range [][]*seq{s.order, s.could} {
		for _, q := range list {
			c, at := s.costOf(q, s.most(q)), q.tenant.next
			if q.bypassed >= maxBypass && q.state == waiting {
				at = math.Inf(-1)
			}
			s.items = append(s.items, item{q, c, at, len(s.items)})
			q.tenant.next += q.virtual(s.most(q)) / q.tenant.weight
		}
	}
	slices.SortFunc(s.items, func(a, b item) int { return cmp.Or(cmp.Compare(a.at, b.at), a.nth-b.nth) })
	left, least := s.work, 1e-6*s.cap // differences of sums are not exact
	for i, it := range s.items {
		if i == s.cfg.MaxSeqs || left < least && i > 0 {
			break
		}
		t := it.q.tenant
		t.places++
		t.may += max(min(it.cost, left), least)
		left -= it.cost
	}
	clear(s.items)
	clear(s.could)
}

// lift lets every tenant compute what the step's limits allow.
func (s *Scheduler) lift() {
	s.startSum()
	for _, t := range s.active {
		t.may, t.places = unlimited, math.MaxInt
	}
}

// affordable returns how many of the next n tokens of q its tenant may compute.
func (s *Scheduler) affordable(q *seq, n int) int {
	t := q.tenant
	if t.may <= 0 || t.places <= 0 {
		return 0
	}
	if s.background {
		if per := s.perToken(q, n); per*float64(n) > t.may {
			n = max(int(t.may/per), 1)
		}
	} else if s.costs.Token*float64(n) > t.may {
		n = max(int(math.Ceil(t.may/s.costs.Token)), 1)
	}
	return n
}

// spend counts the planned tokens [q.computed, q.computed+n).
func (s *Scheduler) spend(q *seq, n int) {
	c := s.costOf(q, n)
	t := q.tenant
	t.may -= c
	t.places--
	s.spent += c
	s.charge(q, n)
}

// took records the cost of the planned step.
func (s *Scheduler) took() {
	s.last = s.costs.Step + s.spent
	for _, t := range s.active {
		if t.late += s.last - t.fair; t.late < 0 || t.short < 1 || len(s.active) == 1 {
			t.late = 0
		}
	}
}

// recent is a sum over the last window steps, in which older ones count less.
type recent struct {
	sum float64
	at  uint64 // the step up to which sum has been reduced
}

func (r *recent) advance(step uint64) {
	r.sum *= math.Pow(1-1.0/window, float64(step-r.at))
	r.at = step
}
