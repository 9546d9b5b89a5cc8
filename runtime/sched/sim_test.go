package sched

import (
	"math/rand/v2"
	"slices"
	"testing"

	"weft/runtime/cost"
	"weft/runtime/kv"
)

// machine is the clock of the simulator. A step of work w takes costs.Step + costs.Of(w); the unit is the time of one
// token of a prompt. It is the tests' own: the scheduler has none.
type machine struct {
	costs   cost.Costs
	maxSeqs int
	pages   int     // of 16 tokens; 0: more than are needed
	noise   float64 // each step takes up to this part more or less
	stall   int     // every so many steps one takes thirty times as long; 0: none
	// whether the scheduler gets the costs: as they are, as cost.Estimator finds them, or none at all
	knows knowledge
	// how long a step of background sequences may take; 0: no limit
	longest float64
}

type knowledge int

const (
	exact knowledge = iota
	estimated
	nothing
)

// machineOf returns a machine with a fixed cost per step. On two cores SmolLM2 Q8_0 takes 6.5 and 1.4, in units of 0.6
// ms.
func machineOf(fixed float64) machine {
	return machine{costs: cost.Costs{Step: fixed, Token: 1, Output: 1.4}, maxSeqs: 64}
}

// source is a tenant's traffic: streams requests at once, each followed by a pause that is exponential with the given
// mean.
type source struct {
	tenant      string
	weight      float64
	streams     int
	total       int // requests in all; 0: until the others have ended
	pause       float64
	prompt, gen int
	varies      bool // lengths are uniform between half of prompt and gen and one and a half
	adapter     string
	background  bool
}

// lengths returns those of the next request.
func (s *source) lengths(rng *rand.Rand) (prompt, gen int) {
	if !s.varies {
		return s.prompt, s.gen
	}
	return (s.prompt+1)/2 + rng.IntN(s.prompt), (s.gen+1)/2 + rng.IntN(s.gen)
}

type simRequest struct {
	src     int
	arrived float64
	first   float64
	gen     int
	left    int
}

// simResult is what one source saw.
type simResult struct {
	ttft, e2e, perToken []float64 // of each request that has ended
	waited              []float64 // of each request that came during a step of background sequences, for its end
	tokens              int
	work                float64 // cost of its tokens, without the steps' fixed costs
}

// simulation runs sources on a machine, step by step.
type simulation struct {
	t       *testing.T
	m       machine
	s       *Scheduler
	rng     *rand.Rand
	sources []source
	live    map[SeqID]*simRequest
	due     []arrival
	sent    []int
	done    int
	now     float64
	steps   int
	longest float64
	behind  bool // the last step was one of background sequences
	costs   cost.Estimator
	out     []simResult
}

type arrival struct {
	at  float64
	src int
}

func newSimulation(t *testing.T, m machine, sources ...source) *simulation {
	t.Helper()
	cfg := Config{MaxSeqs: m.maxSeqs, MaxQueued: 512, MaxBatchTokens: 512, MaxContext: 4096}
	pool := kv.NewPool(1536, 128)
	if m.pages > 0 {
		pool = kv.NewPool(m.pages, 16)
	}
	r := &simulation{t: t, m: m, s: New(cfg, pool), rng: rand.New(rand.NewPCG(3, 9)), sources: sources,
		live: map[SeqID]*simRequest{}, sent: make([]int, len(sources)), out: make([]simResult, len(sources))}
	for i, src := range sources {
		for range src.streams {
			r.due = append(r.due, arrival{r.rng.ExpFloat64() * src.pause, i})
		}
	}
	return r
}

// simulate runs the sources to the end of those that have one and returns what each saw, and the time.
func simulate(t *testing.T, m machine, sources ...source) ([]simResult, float64) {
	t.Helper()
	r := newSimulation(t, m, sources...)
	bounded := 0
	for _, src := range sources {
		bounded += src.total
	}
	for r.done < bounded {
		r.step()
	}
	return r.out, r.now
}

// admit adds the requests that have arrived.
func (r *simulation) admit() {
	slices.SortStableFunc(r.due, func(a, b arrival) int { return int(a.at) - int(b.at) })
	for len(r.due) > 0 && r.due[0].at <= r.now {
		a := r.due[0]
		r.due = r.due[1:]
		src := &r.sources[a.src]
		if r.sent[a.src]++; src.total > 0 && r.sent[a.src] > src.total {
			continue
		}
		prompt, gen := src.lengths(r.rng)
		add := r.s.Add
		if src.background {
			add = r.s.AddBackground
		}
		ids, err := add(Seq{Prompt: make([]int32, prompt), MaxTokens: gen, Tenant: src.tenant, Weight: src.weight,
			Key: src.adapter})
		if err != nil {
			r.t.Fatal(err)
		}
		if r.behind {
			r.out[a.src].waited = append(r.out[a.src].waited, r.now-a.at)
		}
		r.live[ids[0]] = &simRequest{src: a.src, arrived: a.at, gen: gen, left: gen}
	}
}

// input returns what the scheduler is told.
func (r *simulation) input() Input {
	switch r.m.knows {
	case exact:
		return Input{Costs: r.m.costs, Background: r.m.costs, Longest: r.m.longest}
	case estimated:
		return Input{Costs: r.costs.Costs(), Background: r.costs.Costs(), Longest: r.m.longest}
	}
	return Input{}
}

// step computes one step, or waits for the next arrival.
func (r *simulation) step() *Plan {
	r.t.Helper()
	r.admit()
	p, ok := r.s.Next(r.input())
	if !ok {
		if len(r.due) == 0 {
			r.t.Fatalf("nothing to do, %d requests done", r.done)
		}
		r.now, r.behind = max(r.now, r.due[0].at), false
		return nil
	}
	r.steps++
	var all cost.Work
	for i := range p.Chunks {
		c := &p.Chunks[i]
		w := cost.Chunk(c.Start, len(c.Tokens), c.Sample)
		if c.Key != "" && (i == 0 || p.Chunks[i-1].Key != c.Key) {
			w.Adapters = 1
		}
		all.Add(w)
		out := &r.out[r.live[c.Seq].src]
		out.tokens += len(c.Tokens)
		out.work += r.m.costs.Of(w)
	}
	took := (r.m.costs.Step + r.m.costs.Of(all)) * (1 + r.m.noise*(2*r.rng.Float64()-1))
	if r.m.stall > 0 && r.steps%r.m.stall == 0 {
		took *= 30
	}
	r.costs.Observe(all, took)
	r.now += took
	r.longest, r.behind = max(r.longest, took), p.Chunks[0].Seq < 0
	r.finish(p)
	return p
}

// finish gives each sampled sequence its token.
func (r *simulation) finish(p *Plan) {
	tokens, ended := make([]int32, len(p.Chunks)), make([]bool, len(p.Chunks))
	for i := range p.Chunks {
		c := &p.Chunks[i]
		if tokens[i] = -1; !c.Sample {
			continue
		}
		tokens[i] = 1
		q := r.live[c.Seq]
		if q.left--; q.first == 0 {
			q.first = r.now
		}
		if ended[i] = q.left == 0; ended[i] {
			src, res := &r.sources[q.src], &r.out[q.src]
			res.ttft, res.e2e = append(res.ttft, q.first-q.arrived), append(res.e2e, r.now-q.arrived)
			res.perToken = append(res.perToken, (r.now-q.first)/float64(max(q.gen-1, 1)))
			delete(r.live, c.Seq)
			r.due = append(r.due, arrival{r.now + r.rng.ExpFloat64()*src.pause, q.src})
			if src.total > 0 {
				r.done++
			}
		}
	}
	r.s.Commit(p, tokens, ended)
}

// rate runs unbounded sources for some steps and returns the tokens per unit of time in later ones.
func rate(t *testing.T, m machine, sources ...source) float64 {
	t.Helper()
	r := newSimulation(t, m, sources...)
	var tokens, began float64
	for i := range 3000 {
		if i == 800 {
			tokens, began = 0, r.now
		}
		if p := r.step(); p != nil {
			tokens += float64(p.Tokens)
		}
	}
	return tokens / (r.now - began)
}

func p99(x []float64) float64 {
	slices.Sort(x)
	return x[(len(x)*99-1)/100]
}

func mean(x []float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}
