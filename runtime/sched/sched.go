// Package sched decides what each step computes: continuous batching as a pure state machine. Add, Cancel, Next, Commit; no clock, lock, goroutine
// or device.
//
// A sequence has known tokens (prompt and output so far) and a count of computed ones, which must catch up; there is no separate prefill or decode phase.
// Each step hands out a budget of tokens, running sequences first (decode before chunks of prompts), then waiting ones. When pages run out, the sequence
// admitted last gives its pages back and waits to be recomputed.
package sched

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"weft/internal/invariant"
	"weft/runtime/kv"
)

// Errors of Add.
var (
	ErrQueueFull = errors.New("queue is full")
	ErrTooLong   = errors.New("sequence cannot fit")
)

// SeqID names an admitted sequence; it is never used again.
type SeqID int64

// Config are the limits of a scheduler.
type Config struct {
	MaxSeqs        int  // sequences computed in one step
	MaxQueued      int  // sequences waiting
	MaxBatchTokens int  // tokens of one step
	MaxContext     int  // tokens of one sequence
	PrefixCache    bool // look prompts up and index full pages
	RopeSwitch     int  // sequences longer than this are recomputed with another RoPE table; 0: none
}

// Seq is what Add needs to know of a sequence. The scheduler owns Prompt afterwards.
type Seq struct {
	Prompt    []int32
	MaxTokens int
	Key       string // the adapter's digest, part of the prefix key; batches are sorted by it, "" (the base) first
	Salt      string
	ScoreAll  bool // logits of every prompt token are wanted: no prefix hits, and every chunk is sampled
}

// Chunk is a run of consecutive tokens of one sequence within a step.
type Chunk struct {
	Seq    SeqID
	Start  int         // position of its first token
	Tokens []int32     // read-only; owned by the scheduler until Commit
	Known  int         // known tokens of the sequence
	Pages  []kv.PageID // pages that hold [0, Start+len(Tokens))
	Key    string
	Sample bool // ends at the last known token: its logits give the next one
	Score  bool // logits of all its tokens are wanted
	Cached int  // with the first chunk: prompt tokens taken from the prefix cache
	First  bool // the sequence's first chunk since it was admitted (again after a preemption)
}

// Plan is one step. It is read-only and valid until Commit.
type Plan struct {
	Chunks    []Chunk
	Preempted []SeqID
	Tokens    int
}

type state uint8

const (
	waiting state = iota
	running
)

type seq struct {
	id SeqID
	Seq
	tokens   []int32 // prompt and output so far
	computed int
	pages    []kv.PageID
	root     kv.Key
	keys     []kv.Key // of the full pages computed so far
	rope     int
	state    state
	cancel   bool
	first    bool
	planned  int // tokens in the plan that is not committed yet
	cached   int
}

// Scheduler is the state. It is not safe for concurrent use.
type Scheduler struct {
	cfg     Config
	pool    *kv.Pool
	seqs    map[SeqID]*seq
	running []*seq // by admission, the oldest first
	waiting []*seq // the next first
	last    SeqID
	inPlan  bool
	stats   Stats
}

// Stats count since the start.
type Stats struct {
	Preemptions   uint64
	PrefixQueries uint64 // prompt tokens looked up
	PrefixHits    uint64 // of these, found
}

// New returns an empty scheduler over pool.
func New(cfg Config, pool *kv.Pool) *Scheduler {
	return &Scheduler{cfg: cfg, pool: pool, seqs: map[SeqID]*seq{}}
}

// Add queues sequences, all or none.
func (s *Scheduler) Add(in ...Seq) ([]SeqID, error) {
	if len(s.waiting)+len(in) > s.cfg.MaxQueued {
		return nil, fmt.Errorf("%w: %d wait, %d more would exceed %d", ErrQueueFull, len(s.waiting), len(in), s.cfg.MaxQueued)
	}
	for i := range in {
		if err := s.fits(&in[i]); err != nil {
			return nil, err
		}
	}
	ids := make([]SeqID, len(in))
	for i, a := range in {
		s.last++
		q := &seq{id: s.last, Seq: a, tokens: a.Prompt}
		s.seqs[q.id] = q
		s.waiting = append(s.waiting, q)
		ids[i] = q.id
	}
	return ids, nil
}

// fits refuses what could never run alone: the sequence must fit the pages at its full length.
func (s *Scheduler) fits(a *Seq) error {
	n := len(a.Prompt)
	if n == 0 {
		return fmt.Errorf("%w: the prompt is empty", ErrTooLong)
	}
	if n > s.cfg.MaxContext || a.MaxTokens > 0 && n >= s.cfg.MaxContext {
		return fmt.Errorf("%w: a prompt of %d tokens leaves no room in a context of %d", ErrTooLong, n, s.cfg.MaxContext)
	}
	whole := min(n+a.MaxTokens, s.cfg.MaxContext)
	if need := pages(whole, s.pool.PageLen()); need > s.pool.Total() {
		return fmt.Errorf("%w: %d prompt and %d output tokens need %d KV pages of %d tokens, there are %d",
			ErrTooLong, n, whole-n, need, s.pool.PageLen(), s.pool.Total())
	}
	return nil
}

func pages(tokens, pageLen int) int { return (tokens + pageLen - 1) / pageLen }

// Cancel ends a sequence; its pages are free when the step that is under way is committed, or at once if none is.
func (s *Scheduler) Cancel(id SeqID) {
	q := s.seqs[id]
	if q == nil {
		return
	}
	q.cancel = true
	if !s.inPlan || q.planned == 0 {
		s.remove(q)
	}
}

// remove takes a sequence out and gives its pages back.
func (s *Scheduler) remove(q *seq) {
	s.release(q)
	delete(s.seqs, q.id)
	list := &s.running
	if q.state == waiting {
		list = &s.waiting
	}
	if i := slices.Index(*list, q); i >= 0 {
		*list = slices.Delete(*list, i, i+1)
	}
}

func (s *Scheduler) release(q *seq) {
	s.pool.Release(q.pages)
	q.pages, q.keys, q.computed = q.pages[:0], q.keys[:0], 0
}

// preempt sends a running sequence back to the head of the queue, to be recomputed from its first token (or what the cache still holds).
func (s *Scheduler) preempt(q *seq) {
	s.release(q)
	s.running = slices.Delete(s.running, slices.Index(s.running, q), slices.Index(s.running, q)+1)
	q.state, q.planned = waiting, 0
	s.waiting = slices.Insert(s.waiting, 0, q)
	s.stats.Preemptions++
}

// Next plans a step; false where nothing can be computed. Commit must follow.
func (s *Scheduler) Next() (*Plan, bool) {
	invariant.Check(!s.inPlan, "Next before Commit")
	p := &Plan{}
	budget := s.cfg.MaxBatchTokens
	// Decode first: running sequences that lack one token only, then those still in their prompt, each by admission.
	order := slices.Clone(s.running)
	slices.SortStableFunc(order, func(a, b *seq) int { return cmp.Compare(btoi(a.lag() > 1), btoi(b.lag() > 1)) })
	for _, q := range order {
		if q.state == running && budget > 0 { // a preemption below may have sent q back
			budget -= s.plan(p, q, budget)
		}
	}
	for len(s.waiting) > 0 && budget > 0 && len(s.running) < s.cfg.MaxSeqs && len(p.Preempted) == 0 {
		q := s.waiting[0]
		if !s.admit(q) {
			break
		}
		budget -= s.plan(p, q, budget)
	}
	// Adapters side by side, so that a segment is a run; base first; admission order within.
	slices.SortStableFunc(p.Chunks, func(a, b Chunk) int { return cmp.Compare(a.Key, b.Key) })
	for i := range p.Chunks {
		p.Tokens += len(p.Chunks[i].Tokens)
	}
	s.inPlan = len(p.Chunks) > 0
	return p, s.inPlan
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (q *seq) lag() int { return len(q.tokens) - q.computed }

// admit moves the head of the queue to running if its first page can be had, taking what the prefix cache holds.
func (s *Scheduler) admit(q *seq) bool {
	if s.pool.Available() == 0 {
		return false
	}
	q.rope = s.ropeOf(len(q.tokens))
	q.root = kv.Root(q.Key, q.Salt, q.rope)
	q.cached = 0
	if s.cfg.PrefixCache && !q.ScoreAll {
		q.pages = append(q.pages[:0], s.pool.Match(q.root, q.tokens, len(q.tokens)-1)...)
		q.computed = len(q.pages) * s.pool.PageLen()
		q.cached = q.computed
		key := q.root
		for n := 0; n < q.computed; n += s.pool.PageLen() {
			key = key.Next(q.tokens[n : n+s.pool.PageLen()])
			q.keys = append(q.keys, key)
		}
		s.stats.PrefixQueries += uint64(len(q.tokens))
		s.stats.PrefixHits += uint64(q.computed)
	}
	if s.pool.Available() == 0 && q.computed%s.pool.PageLen() == 0 {
		s.release(q)
		return false
	}
	s.waiting = s.waiting[1:]
	s.running = append(s.running, q)
	q.state, q.first = running, true
	return true
}

func (s *Scheduler) ropeOf(n int) int { return btoi(s.cfg.RopeSwitch > 0 && n > s.cfg.RopeSwitch) }

// plan gives q up to budget tokens, preempting those admitted later (or q itself) where pages lack. It returns the tokens planned.
func (s *Scheduler) plan(p *Plan, q *seq, budget int) int {
	n := min(q.lag(), budget)
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
		if victim == nil {
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

// victim is the running sequence admitted last that has no tokens in the plan.
func (s *Scheduler) victim() *seq {
	for _, q := range slices.Backward(s.running) {
		if q.planned == 0 {
			return q
		}
	}
	return nil
}

// Commit says that the plan was computed: tokens[i] is the new token of Chunks[i], -1 for none; ended[i] that the sequence is over.
// Canceled sequences of the plan are removed whatever their token.
func (s *Scheduler) Commit(p *Plan, tokens []int32, ended []bool) {
	invariant.Check(s.inPlan && len(tokens) == len(p.Chunks) && len(ended) == len(tokens), "Commit of %d chunks with %d tokens", len(p.Chunks), len(tokens))
	s.inPlan = false
	for i := range p.Chunks {
		q := s.seqs[p.Chunks[i].Seq]
		if q == nil || q.planned == 0 {
			continue
		}
		q.computed += q.planned
		q.planned = 0
		s.indexPages(q)
		if q.cancel || ended[i] {
			s.remove(q)
			continue
		}
		if tokens[i] >= 0 {
			q.tokens = append(q.tokens, tokens[i])
			if s.ropeOf(len(q.tokens)) != q.rope {
				s.preempt(q) // every position must be recomputed with the other table
				s.stats.Preemptions--
			}
		}
	}
}

// indexPages makes the pages that became full findable.
func (s *Scheduler) indexPages(q *seq) {
	if !s.cfg.PrefixCache {
		return
	}
	n := s.pool.PageLen()
	for i := len(q.keys); (i+1)*n <= q.computed; i++ {
		parent := q.root
		if i > 0 {
			parent = q.keys[i-1]
		}
		q.keys = append(q.keys, s.pool.Index(q.pages[i], parent, q.tokens[i*n:(i+1)*n]))
	}
}

// Running and Waiting count sequences.
func (s *Scheduler) Running() int { return len(s.running) }

// Waiting returns the number of queued sequences.
func (s *Scheduler) Waiting() int { return len(s.waiting) }

// Stats returns the counters.
func (s *Scheduler) Stats() Stats { return s.stats }
