// Package sched decides what each step computes: continuous batching as a pure state machine. Add, Cancel, Next,
// Commit; no clock, lock, goroutine or device.
//
// A sequence has known tokens (prompt and output so far) and a count of computed ones, which must catch up; there is no
// separate prefill or decode phase. Each step assigns a budget of tokens to running sequences first (decode before
// chunks of prompts), then waiting ones. When pages run out, the sequence admitted last is preempted: its pages are
// freed and it waits to be recomputed.
//
// Invariants, checked after every Commit under the tag invariants:
//
//   - a sequence that waits or is set aside has no page; a running one has pages for its computed tokens at least
//   - the pool's references are those of the running sequences
//   - no more than MaxSeqs are in a step, and no more than twice as many run
//   - no background sequence is in a step while another sequence is live
package sched

import (
	"errors"
	"fmt"
	"slices"

	"weft/internal/invariant"
	"weft/runtime/cost"
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
	MaxSeqs        int // sequences computed in one step; with several tenants twice as many may have pages
	MaxQueued      int // sequences waiting; see queueFull for tenants
	MaxBatchTokens int // tokens of one step
	// tokens of one prompt in one step, so that a long one does not fill the step; 0: no limit
	MaxPrefillChunk int
	MaxContext      int  // tokens of one sequence
	PrefixCache     bool // look prompts up and index full pages
	RopeSwitch      int  // sequences longer than this are recomputed with another RoPE table; 0: none
}

// Input is what Next has to know of the world outside.
type Input struct {
	// Idle is the number of reserved pages that the step may use; nobody else can take them until Next returns. They
	// are used before a sequence is preempted.
	Idle int
	// Costs are those of a step, estimated from the last ones; zero: not known yet.
	Costs cost.Costs
	// Hold keeps background sequences out of the step. Otherwise Background are the costs of a step of them, and
	// Longest how long it may take, in the same unit: at least a token is computed; 0: no limit.
	Hold       bool
	Background cost.Costs
	Longest    float64
}

// Seq is what Add needs to know of a sequence. The scheduler reads Prompt and never writes to it.
type Seq struct {
	Prompt    []int32
	MaxTokens int
	Key       string // the adapter's digest, part of the prefix key; batches are sorted by it, "" (the base) first
	Salt      string
	Tenant    string
	Weight    float64 // of the tenant; the latest value is used; 0: 1
	ScoreAll  bool    // logits of every prompt token are needed: no prefix hits, and every chunk is sampled
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
	Score  bool // logits of all its tokens are needed
	Cached int  // prompt tokens that the prefix cache held when the sequence was first admitted
	First  bool // the sequence's first chunk since it was admitted (again after a preemption)
}

// Plan is one step. It is read-only and valid until the next Next.
type Plan struct {
	Chunks    []Chunk
	Preempted []SeqID // since the last plan
	Tokens    int
	Reclaimed int // of Input.Idle, the pages that are no longer reserved
}

type state uint8

const (
	waiting state = iota
	running
	aside // set aside: neither runs nor waits
)

type seq struct {
	id SeqID
	Seq
	tokens   []int32 // prompt and output so far
	computed int
	pages    []kv.PageID
	root     kv.Key
	keys     []kv.Key // of full pages of tokens, as many as were needed so far
	rooted   bool     // root and keys are those of rope
	rope     int
	indexed  int // full pages offered to the index since the sequence was admitted
	state    state
	cancel   bool
	aside    bool // to be set aside, or set aside
	first    bool
	taken    bool // chosen by victims
	admitted bool // at least once
	planned  int  // tokens in the plan that is not committed yet
	cached   int
	tenant   *tenant
	charged  int    // tokens of the prompt for which the tenant was charged
	served   uint64 // the last step that it was in
	bypassed int    // admissions of later sequences while it was the first that waits
}

// lag is the number of tokens still to be computed.
func (q *seq) lag() int { return len(q.tokens) - q.computed }

// Scheduler is the state. It is not safe for concurrent use.
type Scheduler struct {
	cfg     Config
	pool    *kv.Pool
	seqs    map[SeqID]*seq
	running []*seq // by admission, the oldest first
	waiting []*seq // the next first
	lastID  SeqID
	behind  *Scheduler // of background sequences; nil in itself
	inPlan  bool
	plan    Plan    // memory of the current plan
	idle    int     // of Input.Idle, the pages that the current plan may still take
	order   []*seq  // scratch of Next
	moved   []SeqID // preempted by Commit, for the next plan's Preempted
	stats   Stats

	tenants map[string]*tenant // the active ones and the idle ones whose counter must be kept
	active  []*tenant          // with live sequences, by counter as of the last step
	joined  uint64
	step    uint64

	background bool // this is the class of background sequences

	costs    cost.Costs        // of this step, scaled
	known    bool              // costs are estimated
	limit    float64           // how long the step may take, whatever the tenants use
	sum      uint64            // number of the current sum of costs
	adapters map[string]uint64 // by key, the last sum in which a sequence with it was
	cap      float64           // how long the last step might take
	work     float64           // cost that this step may have besides its fixed one
	spent    float64           // cost of what is planned
	decoding float64           // cost of the running sequences that lack one token
	shared   uint64            // the last step in which several tenants were active; 0: none
	last     float64           // cost of the last step
	items    []item            // scratch of divide
	could    []*seq            // scratch: waiting sequences for which there are pages
}

// Stats count since the start.
type Stats struct {
	Preemptions   uint64
	PrefixQueries uint64 // prompt tokens looked up when first admitted
	PrefixHits    uint64 // of these, found
}

// New returns an empty scheduler over pool.
func New(cfg Config, pool *kv.Pool) *Scheduler {
	s := newClass(cfg, pool)
	s.behind = newBehind(cfg, pool)
	return s
}

func newClass(cfg Config, pool *kv.Pool) *Scheduler {
	return &Scheduler{cfg: cfg, pool: pool, seqs: map[SeqID]*seq{}, tenants: map[string]*tenant{},
		adapters: map[string]uint64{}, cap: unlimited, limit: unlimited}
}

// Add queues sequences, all or none.
func (s *Scheduler) Add(in ...Seq) ([]SeqID, error) {
	for i := range in {
		if err := s.fits(&in[i]); err != nil {
			return nil, err
		}
	}
	if err := s.queueFull(in); err != nil {
		return nil, err
	}
	ids := make([]SeqID, len(in))
	for i, a := range in {
		if s.lastID++; s.background {
			s.lastID -= 2
		}
		// the first output token copies it to new memory
		q := &seq{id: s.lastID, Seq: a, tokens: slices.Clip(a.Prompt), tenant: s.join(a.Tenant, a.Weight)}
		s.seqs[q.id] = q
		q.tenant.waiting++
		s.waiting = append(s.waiting, q)
		ids[i] = q.id
	}
	return ids, nil
}

// queueFull refuses more sequences than may wait: MaxQueued in all, and beyond that as many again of tenants that fill
// no more than an eighth of it, so that a tenant that fills the queue does not lock the others out.
func (s *Scheduler) queueFull(in []Seq) error {
	total := len(s.waiting) + len(in)
	if total <= s.cfg.MaxQueued {
		return nil
	}
	own := map[string]int{}
	for i := range in {
		own[in[i].Tenant]++
	}
	for name, n := range own {
		if t := s.tenants[name]; t != nil {
			n += t.waiting
		}
		if n > max(s.cfg.MaxQueued/8, 1) || total > 2*s.cfg.MaxQueued {
			return fmt.Errorf("%w: %d wait, %d more would exceed %d", ErrQueueFull, len(s.waiting), len(in),
				s.cfg.MaxQueued)
		}
	}
	return nil
}

// fits refuses sequences that could never run: a prompt and its first output token must fit the context and all pages
// together.
func (s *Scheduler) fits(a *Seq) error {
	n := len(a.Prompt)
	if n == 0 {
		return fmt.Errorf("%w: the prompt is empty", ErrTooLong)
	}
	least := n + min(a.MaxTokens, 1)
	if least > s.cfg.MaxContext {
		return fmt.Errorf("%w: a prompt of %d tokens leaves no space for output in a context of %d", ErrTooLong, n,
			s.cfg.MaxContext)
	}
	if need := pages(least, s.pool.PageLen()); need > s.pool.Total() {
		return fmt.Errorf("%w: a prompt of %d tokens and %d of output need %d KV pages of %d tokens, there are %d",
			ErrTooLong, n, least-n, need, s.pool.PageLen(), s.pool.Total())
	}
	return nil
}

// Reserve reserves n more pages for another purpose: those with the highest ids of the pool, unless one of them is in
// use. The pages that the longest sequence can need are never reserved, so that each sequence can continue when all
// others have ended, whether or not reserved pages can be reclaimed.
func (s *Scheduler) Reserve(n int) bool {
	return s.pool.Counts().Reserved+n <= s.Reservable() && s.pool.Shrink(n)
}

// Reservable returns the maximum number of pages that can be reserved at once.
func (s *Scheduler) Reservable() int {
	return max(s.pool.Total()-pages(s.cfg.MaxContext, s.pool.PageLen()), 0)
}

// Limit returns the tokens that one sequence can reach: its context, or the tokens of all pages together if that is
// less. The caller of Commit ends a sequence there.
func (s *Scheduler) Limit() int { return min(s.cfg.MaxContext, s.pool.Total()*s.pool.PageLen()) }

func pages(tokens, pageLen int) int { return (tokens + pageLen - 1) / pageLen }

// SetAside takes a sequence's pages and its place in the queue, at once or, if it is in the current step, when that is
// committed or abandoned, until Resume. Its tenant is idle meanwhile where it has no other.
func (s *Scheduler) SetAside(id SeqID) {
	s = s.class(id)
	if q := s.seqs[id]; q != nil && !q.aside {
		if q.aside = true; q.planned == 0 {
			s.setAside(q)
		}
	}
}

// setAside is SetAside of a sequence that is in no step.
func (s *Scheduler) setAside(q *seq) {
	s.detach(q)
	q.state = aside
	s.stats.Preemptions++
}

// Resume puts a sequence that is set aside at the head of the queue, to be recomputed.
func (s *Scheduler) Resume(id SeqID) {
	s = s.class(id)
	q := s.seqs[id]
	if q == nil || q.state != aside {
		return
	}
	q.state, q.aside = waiting, false
	q.tenant = s.join(q.Tenant, q.Weight)
	q.tenant.waiting++
	s.waiting = slices.Insert(s.waiting, 0, q)
}

// Cancel ends a sequence; its pages are free when the current step is committed, or at once if it is not in the step.
func (s *Scheduler) Cancel(id SeqID) {
	s = s.class(id)
	q := s.seqs[id]
	if q == nil {
		return
	}
	q.cancel = true
	if q.planned == 0 {
		s.remove(q)
	}
}

// remove removes a sequence and releases its pages.
func (s *Scheduler) remove(q *seq) {
	delete(s.seqs, q.id)
	if q.state != aside {
		s.detach(q)
	}
}

// detach releases a sequence's pages and removes it from the running or the waiting ones.
func (s *Scheduler) detach(q *seq) {
	s.release(q)
	list, count := &s.running, &q.tenant.running
	if q.state == waiting {
		list, count = &s.waiting, &q.tenant.waiting
	}
	*count--
	s.leave(q.tenant)
	if i := slices.Index(*list, q); i >= 0 {
		*list = slices.Delete(*list, i, i+1)
	}
}

func (s *Scheduler) release(q *seq) {
	if s.background {
		s.pool.ReleaseEarly(q.pages)
	} else {
		s.pool.Release(q.pages)
	}
	q.pages, q.computed, q.indexed = q.pages[:0], 0, 0
}

// preempt moves a running sequence to the head of the queue, to be recomputed from its first token (or from what is
// still cached).
func (s *Scheduler) preempt(q *seq) {
	s.release(q)
	i := slices.Index(s.running, q)
	s.running = slices.Delete(s.running, i, i+1)
	q.state, q.planned = waiting, 0
	q.tenant.running--
	q.tenant.waiting++
	s.waiting = slices.Insert(s.waiting, 0, q)
	s.stats.Preemptions++
}

// Commit records that the plan was computed: tokens[i] is the new token of Chunks[i], -1 for none; ended[i] that the
// sequence is over. Cancelled sequences of the plan are removed whatever their token.
func (s *Scheduler) Commit(p *Plan, tokens []int32, ended []bool) {
	s.planner(p).commit(p, tokens, ended)
	if invariant.Enabled {
		err := s.Verify()
		invariant.Check(err == nil, "%v", err)
	}
}

func (s *Scheduler) commit(p *Plan, tokens []int32, ended []bool) {
	invariant.Check(s.inPlan && len(tokens) == len(p.Chunks) && len(ended) == len(tokens),
		"Commit of %d chunks with %d tokens", len(p.Chunks), len(tokens))
	s.inPlan = false
	for i := range p.Chunks {
		q := s.seqs[p.Chunks[i].Seq]
		q.computed += q.planned
		q.planned = 0
		s.indexPages(q)
		if q.cancel || ended[i] {
			s.remove(q)
			continue
		}
		if tokens[i] >= 0 {
			s.extend(q, tokens[i])
		}
		if q.aside {
			s.setAside(q)
		}
	}
}

// extend appends a token.
func (s *Scheduler) extend(q *seq, token int32) {
	q.tokens = append(q.tokens, token)
	invariant.Check(len(q.tokens) <= s.Limit(), "sequence %d has %d tokens, the limit is %d", q.id, len(q.tokens),
		s.Limit())
	if s.ropeOf(len(q.tokens)) != q.rope {
		s.preempt(q) // every position must be recomputed with the other table
		s.moved = append(s.moved, q.id)
	}
}

// Abandon records that the plan was not computed. Its sequences keep their state from before it; those cancelled
// meanwhile are removed.
func (s *Scheduler) Abandon(p *Plan) {
	s = s.planner(p)
	s.inPlan = false
	for i := range p.Chunks {
		q := s.seqs[p.Chunks[i].Seq]
		if q == nil {
			continue
		}
		q.planned = 0
		switch {
		case q.cancel:
			s.remove(q)
		case q.aside:
			s.setAside(q)
		}
	}
}

// indexPages adds the pages that became full to the prefix index.
func (s *Scheduler) indexPages(q *seq) {
	n := s.pool.PageLen()
	if !s.cfg.PrefixCache || (q.indexed+1)*n > q.computed {
		return
	}
	q.keys = kv.Extend(q.keys, q.root, q.tokens[:q.computed], n)
	for ; (q.indexed+1)*n <= q.computed; q.indexed++ {
		i, parent := q.indexed, q.root
		if i > 0 {
			parent = q.keys[i-1]
		}
		s.pool.Index(q.pages[i], parent, q.keys[i], q.tokens[i*n:(i+1)*n])
	}
}

// Verify walks all sequences and pages and returns the first broken invariant of those listed in the package comment.
func (s *Scheduler) Verify() error {
	refs, err := s.verifyClass()
	if err != nil {
		return err
	}
	more, err := s.behind.verifyClass()
	if err != nil {
		return err
	}
	return s.pool.Verify(refs + more)
}

// verifyClass is Verify of the sequences of one class. It returns the references to pages that they have.
func (s *Scheduler) verifyClass() (refs int, err error) {
	for _, q := range s.running {
		refs += len(q.pages)
		if q.state != running || len(q.pages)*s.pool.PageLen() < q.computed || q.computed > len(q.tokens) {
			return 0, fmt.Errorf("sequence %d runs with %d pages for %d of %d tokens", q.id, len(q.pages), q.computed,
				len(q.tokens))
		}
	}
	for _, q := range s.waiting {
		if q.state != waiting || len(q.pages) != 0 || q.computed != 0 {
			return 0, fmt.Errorf("sequence %d waits with %d pages", q.id, len(q.pages))
		}
	}
	if err := s.verifyTenants(); err != nil {
		return 0, err
	}
	apart := 0
	for _, q := range s.seqs {
		if q.state == aside {
			if apart++; len(q.pages) != 0 || q.computed != 0 {
				return 0, fmt.Errorf("sequence %d is set aside with %d pages", q.id, len(q.pages))
			}
		}
	}
	if len(s.running) > 2*s.cfg.MaxSeqs || len(s.running)+len(s.waiting)+apart != len(s.seqs) {
		return 0, fmt.Errorf("%d run, %d wait and %d are set aside of %d, at most %d may run", len(s.running),
			len(s.waiting), apart, len(s.seqs), 2*s.cfg.MaxSeqs)
	}
	return refs, nil
}

// Running returns the number of admitted sequences that are being computed, without background ones.
func (s *Scheduler) Running() int { return len(s.running) }

// Waiting returns the number of queued sequences, without background ones.
func (s *Scheduler) Waiting() int { return len(s.waiting) }

// Stats returns the counters, without those of background sequences.
func (s *Scheduler) Stats() Stats { return s.stats }
