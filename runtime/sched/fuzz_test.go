package sched

import (
	"errors"
	"maps"
	"math"
	"slices"
	"testing"

	"weft/runtime/cost"
	"weft/runtime/kv"
)

// fuzzSeq is the fuzz target's state of an admitted sequence.
type fuzzSeq struct {
	history  []int32
	left     int // output tokens left
	computed int
	score    bool
	aside    bool
}

// FuzzSchedule drives the scheduler with bytes, each pair an operation. After each every page must be accounted for;
// every chunk must continue where its sequence stood and hold the right tokens; every admitted sequence must end,
// however many pages are reserved, whether they can be reclaimed or not.
func FuzzSchedule(f *testing.F) {
	f.Add([]byte{0, 20, 0, 33, 1, 0, 1, 0, 2, 1, 1, 0, 1, 1}, uint8(6), uint8(10))
	f.Add([]byte{0, 200, 0, 200, 0, 200, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0}, uint8(3), uint8(40))
	f.Add([]byte{0, 1, 2, 1, 0, 1, 2, 2, 1, 0}, uint8(1), uint8(1))
	f.Add([]byte{0, 90, 0, 91, 0, 92, 1, 5, 1, 3, 1, 0, 3, 1, 1, 2, 1, 9}, uint8(9), uint8(63))
	f.Add([]byte{0, 90, 4, 91, 8, 92, 1, 3, 130, 0, 1, 5, 1, 38, 130, 1, 1, 3, 130, 2, 1, 0}, uint8(60), uint8(40))
	f.Add([]byte{128, 90, 132, 55, 1, 1, 0, 90, 1, 1, 1, 0, 4, 60, 1, 5, 131, 0, 128, 30, 1, 2}, uint8(4), uint8(40))
	f.Add([]byte{128, 80, 128, 80, 1, 1, 1, 1, 130, 1, 1, 0, 131, 0, 1, 1, 0, 9, 1, 1}, uint8(8), uint8(63))
	f.Add([]byte{0, 90, 3, 3, 4, 91, 8, 92, 1, 5, 3, 2, 1, 3, 1, 0, 7, 1, 1, 2, 1, 9}, uint8(60), uint8(63))
	f.Fuzz(func(t *testing.T, ops []byte, numPages, budget uint8) {
		pool := kv.NewPool(int(numPages%32)+1, 16)
		cfg := Config{MaxSeqs: int(numPages/32) + 1, MaxQueued: 8, MaxBatchTokens: int(budget%64) + 1,
			MaxPrefillChunk: int(budget) % 5 * 9, MaxContext: 256,
			PrefixCache: budget%2 == 0, RopeSwitch: int(budget) % 3 * 20}
		if cfg.MaxContext = 256; budget%4 > 0 {
			cfg.MaxContext = 130 // less than the larger pools, so that pages can be reserved
		}
		r := &fuzzRun{t: t, pool: pool, alive: map[SeqID]*fuzzSeq{}, s: New(cfg, pool), idle: int(budget) % 3,
			costs: fuzzCosts}
		if numPages%2 == 0 { // otherwise they change from step to step
			i := int(budget) % len(fuzzCosts)
			r.costs = fuzzCosts[i : i+1]
		}
		for i := 0; i+1 < len(ops) && i < 400; i += 2 {
			r.op(ops[i], int(ops[i+1]))
			if err := r.s.Verify(); err != nil {
				t.Fatal(err)
			}
		}
		for _, id := range r.ids() {
			if r.alive[id].aside {
				r.resume(id)
			}
		}
		for n := 0; r.step(0); n++ {
			if n > 3000 {
				t.Fatalf("no end: %d running, %d waiting, %+v", r.s.Running(), r.s.Waiting(), pool.Counts())
			}
		}
		if len(r.alive) > 0 || r.s.Running()+r.s.Waiting() > 0 || pool.Counts().InUse > 0 {
			t.Fatalf("left over: %d alive, %d running, %d waiting, %+v", len(r.alive), r.s.Running(), r.s.Waiting(),
				pool.Counts())
		}
	})
}

type fuzzRun struct {
	t     *testing.T
	s     *Scheduler
	pool  *kv.Pool
	alive map[SeqID]*fuzzSeq
	idle  int // of the reserved pages: 0 all, 1 a number that changes, 2 none may be used
	costs []cost.Costs
}

// fuzzCosts are estimates, good and bad, one of which a step gets.
var fuzzCosts = []cost.Costs{
	{}, {Step: 6, Token: 1, Output: 1.4}, {Step: 500, Token: 1, Output: 1, Context: 1e-3, Adapter: 20},
	{Token: 1}, {Output: 1}, {Step: 1},
	{Step: 1e-300, Token: 1e-300, Output: 1e-300}, {Step: 1e300, Token: 1, Output: 1e300},
	{Step: math.NaN(), Token: 1, Output: 1}, {Step: -1, Token: 1, Output: 1}, {Step: math.Inf(1), Token: 1, Output: 1},
}

// next plans with idle pages and checks that the plan takes no more of them than it says.
func (r *fuzzRun) next(arg int) (*Plan, bool) {
	reserved := r.pool.Counts().Reserved
	c := r.costs[arg%len(r.costs)]
	in := Input{Idle: []int{reserved, arg % (reserved + 1), 0}[r.idle], Costs: c, Background: c,
		Longest: []float64{0, 20, 1e-9}[arg%3], Hold: arg%13 == 5}
	p, ok := r.s.Next(in)
	if b := r.s.Background(); b.Running > 0 && p.Reclaimed > 0 && p == &r.s.plan {
		r.t.Fatalf("%d idle pages are taken while background sequences have %d", p.Reclaimed, b.Pages)
	}
	if got := reserved - r.pool.Counts().Reserved; p.Reclaimed != got || got > in.Idle {
		r.t.Fatalf("%d pages are no longer reserved, the plan says %d, %d were idle", got, p.Reclaimed, in.Idle)
	}
	return p, ok
}

func (r *fuzzRun) op(op byte, arg int) {
	if op >= 128 && op%4 == 2 { // two thirds of those set aside are resumed
		for _, id := range r.ids() {
			switch {
			case int(id)%3 == arg%3:
				r.s.SetAside(id)
				r.alive[id].aside = true
			case r.alive[id].aside:
				r.resume(id)
			}
		}
		return
	}
	switch op % 4 {
	case 0:
		prompt := make([]int32, arg%100+1)
		for j := range prompt {
			prompt[j] = int32(j % (3 + arg%2*4))
		}
		score := arg%7 == 0
		add := r.s.Add
		if op >= 128 {
			add = r.s.AddBackground
		}
		ids, err := add(Seq{Prompt: prompt, MaxTokens: arg%29 + 1, Key: []string{"", "a", "b"}[arg%3],
			ScoreAll: score,
			Tenant:   []string{"", "t", "u", "v"}[op/4%4], Weight: float64(op / 16 % 3)})
		if err == nil {
			r.alive[ids[0]] = &fuzzSeq{history: slices.Clone(prompt), left: arg%29 + 1, score: score}
		} else if !errors.Is(err, ErrQueueFull) && !errors.Is(err, ErrTooLong) {
			r.t.Fatal(err)
		}
	case 1:
		r.step(arg)
	case 2:
		r.cancel(arg)
	case 3:
		if op >= 128 {
			if r.s.EvictBackground(); r.s.Background().Pages > 0 {
				r.t.Fatalf("after all were evicted: %+v", r.s.Background())
			}
			return
		}
		if arg%2 == 0 {
			r.s.Reserve(arg / 2 % 8)
		} else {
			r.pool.Grow(min(arg/2%8, r.pool.Counts().Reserved))
		}
	}
}

func (r *fuzzRun) resume(id SeqID) {
	r.alive[id].aside = false
	r.s.Resume(id)
}

// ids returns the living, sorted.
func (r *fuzzRun) ids() []SeqID { return slices.Sorted(maps.Keys(r.alive)) }

// cancel ends one of the living.
func (r *fuzzRun) cancel(arg int) {
	if ids := r.ids(); len(ids) > 0 {
		id := ids[arg%len(ids)]
		r.s.Cancel(id)
		delete(r.alive, id)
	}
}

// step plans and commits; some arguments abandon the plan or cancel between the two.
func (r *fuzzRun) step(arg int) bool {
	p, ok := r.next(arg)
	for _, id := range p.Preempted {
		if q := r.alive[id]; q != nil {
			q.computed = 0
		}
		if id > 0 && r.s.cfg.RopeSwitch == 0 && r.s.Background().Running > 0 {
			r.t.Fatalf("sequence %d is preempted while background sequences have pages", id)
		}
	}
	if !ok {
		return false
	}
	total, live := 0, len(r.alive) > 0 && slices.Max(r.ids()) > 0
	for i := range p.Chunks {
		c := &p.Chunks[i]
		if c.Seq < 0 && live {
			r.t.Fatalf("background sequence %d is in a step beside another sequence", c.Seq)
		}
		total += len(c.Tokens)
		r.checkChunk(c)
		if i > 0 && p.Chunks[i-1].Key > c.Key {
			r.t.Fatalf("adapter %q after %q", c.Key, p.Chunks[i-1].Key)
		}
	}
	if total != p.Tokens || total > r.s.cfg.MaxBatchTokens || len(p.Chunks) > r.s.cfg.MaxSeqs {
		r.t.Fatalf("a plan of %d tokens in %d chunks, Tokens is %d, limits %d and %d", total, len(p.Chunks), p.Tokens,
			r.s.cfg.MaxBatchTokens, r.s.cfg.MaxSeqs)
	}
	if arg%5 == 3 {
		r.cancel(arg)
	}
	if arg%7 == 3 && r.alive[p.Chunks[0].Seq] != nil {
		r.s.SetAside(p.Chunks[0].Seq)
		defer func() {
			if q := r.alive[p.Chunks[0].Seq]; q != nil {
				r.s.Resume(p.Chunks[0].Seq)
			}
		}()
	}
	if arg%11 == 10 {
		r.s.Abandon(p)
		return true
	}
	tokens, ended := make([]int32, len(p.Chunks)), make([]bool, len(p.Chunks))
	for i := range p.Chunks {
		c := &p.Chunks[i]
		tokens[i] = -1
		q := r.alive[c.Seq]
		if q == nil {
			continue
		}
		q.computed += len(c.Tokens)
		if !c.Sample {
			continue
		}
		tokens[i] = int32(c.Known)
		q.history = append(q.history, tokens[i])
		q.left--
		if ended[i] = q.left <= 0 || len(q.history) >= r.s.Limit(); ended[i] {
			delete(r.alive, c.Seq)
		}
	}
	r.s.Commit(p, tokens, ended)
	return true
}

// checkChunk compares a chunk with the known state of its sequence.
func (r *fuzzRun) checkChunk(c *Chunk) {
	if len(c.Tokens) == 0 || len(c.Pages)*16 < c.Start+len(c.Tokens) || c.Sample != (c.Start+len(c.Tokens) == c.Known) {
		r.t.Fatalf("chunk %+v contradicts itself", c)
	}
	if limit := r.s.cfg.MaxPrefillChunk; limit > 0 && len(c.Tokens) > limit {
		r.t.Fatalf("a chunk of %d tokens, the limit is %d", len(c.Tokens), limit)
	}
	q := r.alive[c.Seq]
	if q == nil || q.aside {
		r.t.Fatalf("sequence %d is over, or set aside, and was planned", c.Seq)
	}
	if c.First {
		if q.computed = c.Start; c.Start%16 != 0 || c.Start > 0 && (q.score || !r.s.cfg.PrefixCache) {
			r.t.Fatalf("sequence %d begins at %d (scored: %v)", c.Seq, c.Start, q.score)
		}
	}
	if c.Start != q.computed || c.Known != len(q.history) ||
		!slices.Equal(c.Tokens, q.history[c.Start:c.Start+len(c.Tokens)]) {
		r.t.Fatalf("sequence %d stood at %d of %d tokens, chunk %+v", c.Seq, q.computed, len(q.history), c)
	}
}
