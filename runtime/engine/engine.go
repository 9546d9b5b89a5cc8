package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"weft/internal/invariant"
	"weft/runtime/cost"
	"weft/runtime/device"
	"weft/runtime/kv"
	"weft/runtime/model"
	"weft/runtime/sample"
	"weft/runtime/sched"
	"weft/runtime/tensor"
)

// Config is an engine's model and limits. Until Close only the engine uses Model and Device; it owns neither.
type Config struct {
	Model           model.Model
	Device          device.Device
	PageLen         int // tokens in a KV page
	NumPages        int
	KVDType         tensor.DType
	MaxSeqs         int // sequences computed at once
	MaxQueued       int // sequences waiting
	MaxBatchTokens  int // tokens of one step
	MaxPrefillChunk int // tokens of one prompt in one step; 0: as many as the step has
	MaxContext      int // tokens of one sequence; fewer if all pages together hold fewer
	PrefixCache     bool
	// UseIdle lets a step use memory of ReserveIdle that is idle, such as that of adapters without a request: it calls
	// plan once with the idle bytes and frees as many as plan returns, which belong to the engine again without a call
	// of ReleaseIdle. Idle memory stays idle until plan returns. The engine calls it while memory is reserved, without
	// a lock. nil: no step uses it.
	UseIdle func(plan func(idle int64) (used int64))
	OnStep  func(StepInfo) // called by the loop after each step; may be nil
	// BackgroundStep is how long a step of background sequences takes at most, about: a request that comes waits for
	// its end. At least a token is computed. 0: no limit.
	BackgroundStep time.Duration
}

// Validate returns an error if the limits are invalid.
func (c *Config) Validate() error {
	if c.MaxSeqs < 1 || c.MaxQueued < 1 || c.MaxBatchTokens < 1 || c.MaxContext < 1 || c.PageLen < 1 ||
		c.NumPages < 1 || c.MaxPrefillChunk < 0 {
		return fmt.Errorf(
			"%w: max seqs %d, max queued %d, max batch tokens %d, max context %d, page length %d and pages %d must "+
				"be positive, max prefill chunk %d not negative",
			ErrInvalid, c.MaxSeqs, c.MaxQueued, c.MaxBatchTokens, c.MaxContext, c.PageLen, c.NumPages,
			c.MaxPrefillChunk)
	}
	if m := c.Model.MaxBatchTokens(); c.MaxBatchTokens > m {
		return fmt.Errorf("%w: %d tokens a step, the model was loaded for %d", ErrInvalid, c.MaxBatchTokens, m)
	}
	if m := c.Model.Config().MaxContext; c.MaxContext > m {
		return fmt.Errorf("%w: a context of %d tokens, the model has %d", ErrInvalid, c.MaxContext, m)
	}
	return nil
}

// StepInfo describes a finished step.
type StepInfo struct {
	Tokens, Seqs int
	Preempted    int           // sequences preempted since the last step
	Duration     time.Duration // from planning to delivery
	Device       time.Duration // of Duration, spent in the model's forward and head
	Background   bool          // of background sequences
}

// Stats are the engine's figures; counters never decrease. Background sequences are in Pages and Background only.
type Stats struct {
	Running, Waiting           int
	Pages                      kv.Counts
	PageBytes, Reserved        int64  // Reserved: from ReserveIdle, not released yet
	PrefixQueries, PrefixHits  uint64 // prompt tokens
	Preemptions                uint64
	TokensIn, TokensOut, Steps uint64
	StepTime, DeviceTime       time.Duration // DeviceTime of StepTime was spent in the model
	Background                 BackgroundStats
}

// Engine uses scheduler, pages, model and device; its loop is the only goroutine that calls model and device. mu guards
// the scheduler, the pages and the state that Submit, Cancel and Stats use together with the loop.
type Engine struct {
	cfg       Config
	vocab     int
	cache     device.KVCache
	pageBytes int64

	turns   turns
	working bool // the loop has the device; used by the loop only

	costs    cost.Estimator // of steps of requests; used by the loop only
	allCosts cost.Estimator // of all steps, for those of background sequences; used by the loop only

	// The memory of a step; used by the loop only.
	batch   model.Batch
	results []result // one per chunk
	rows    []int32  // rows of the batch whose logits are needed
	want    []wanted // one per row
	work    rowWork
	tokens  []int32
	ended   []bool

	mu       sync.Mutex
	sched    *sched.Scheduler
	pool     *kv.Pool
	live     map[sched.SeqID]*sequence
	asides   int           // of live, those that are set aside
	places   []*Background // the one that has the place, then those that wait for it
	held     int           // callers that keep background sequences out of steps
	settled  sync.Cond     // L is mu; when a step is over
	stats    Stats
	reserved int64
	// pages that ReserveIdle has reserved are being returned to the system: none leaves the reserved ones meanwhile
	returning bool
	returns   sync.Mutex // held while pages are returned and while the cache is freed; taken before mu
	freed     []func()   // Release functions of sequences that are over, called by unlock
	draining  bool
	closed    bool
	failure   error

	reacquiring sync.WaitGroup // calls of Request.Reacquire
	wake        chan struct{}
	idle        chan struct{} // closed when draining and nothing is live
	done        chan struct{}
}

// sequence is one admitted request.
type sequence struct {
	id      sched.SeqID
	req     Request
	stream  *Stream
	sampler *sample.Sampler
	out     int
	prompt  []TokenLogprobs
	began   bool
	stepped bool // the current step refers to it
	aside   bool // set aside, or will be after the current step
	// it was set aside and has come back; it is not again before it has least tokens of output
	returned bool
	least    int
	stop     func() // ends Reacquire; nil: it was not called
	ended    bool   // its terminal event was sent

	background bool
	times      Times
	unhook     func() bool
}

// New allocates the KV cache and starts the loop.
func New(cfg Config) (*Engine, error) {
	e, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	go e.loop()
	return e, nil
}

// prepare returns an engine whose loop does not run yet.
func prepare(cfg Config) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	kvc := cfg.Model.KVConfig()
	kvc.PageLen, kvc.NumPages, kvc.DType = cfg.PageLen, cfg.NumPages, cfg.KVDType
	cache, err := cfg.Device.NewKVCache(kvc)
	if err != nil {
		return nil, fmt.Errorf("start engine: %d KV pages of %d bytes: %w", cfg.NumPages, kvc.PageBytes(), err)
	}
	pool := kv.NewPool(cfg.NumPages, cfg.PageLen)
	e := &Engine{
		cfg: cfg, vocab: cfg.Model.Config().Vocab, cache: cache, pageBytes: kvc.PageBytes(), pool: pool,
		live: map[sched.SeqID]*sequence{},
		wake: make(chan struct{}, 1), idle: make(chan struct{}), done: make(chan struct{}),
	}
	e.turns.init()
	e.settled.L = &e.mu
	limits := sched.Config{
		MaxSeqs: cfg.MaxSeqs, MaxQueued: cfg.MaxQueued, MaxBatchTokens: cfg.MaxBatchTokens,
		MaxPrefillChunk: cfg.MaxPrefillChunk,
		MaxContext:      cfg.MaxContext, PrefixCache: cfg.PrefixCache, RopeSwitch: cfg.Model.RopeSwitch(),
	}
	e.sched = sched.New(limits, pool)
	return e, nil
}

// Submit admits all of reqs or none and returns one stream each. When ctx ends they are cancelled.
func (e *Engine) Submit(ctx context.Context, reqs ...Request) ([]*Stream, error) {
	return e.submit(ctx, nil, reqs)
}

// submit is Submit; of background sequences where b is not nil.
func (e *Engine) submit(ctx context.Context, b *Background, reqs []Request) ([]*Stream, error) {
	seqs := make([]sched.Seq, len(reqs))
	for i := range reqs {
		r := &reqs[i]
		if err := e.validate(r); err != nil {
			return nil, err
		}
		seqs[i] = sched.Seq{Prompt: r.Prompt, MaxTokens: r.MaxTokens, Key: r.AdapterKey, Salt: r.Salt,
			Tenant: r.tenant(),
			Weight: r.Weight, ScoreAll: r.PromptLogprobs >= 0}
		if b != nil {
			seqs[i].Salt = backgroundSalt + r.Salt
		}
	}
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.failure != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnhealthy, e.failure)
	case e.draining || e.closed:
		return nil, ErrDraining
	case b != nil && !e.holds(b):
		return nil, fmt.Errorf("%w: the place for background work is closed", ErrInvalid)
	}
	add := e.sched.Add
	if b != nil {
		add = e.sched.AddBackground
	}
	ids, err := add(seqs...)
	switch {
	case errors.Is(err, sched.ErrTooLong):
		return nil, fmt.Errorf("%w: %w", ErrNoMemory, err)
	case err != nil:
		return nil, err
	}
	streams := make([]*Stream, len(reqs))
	for i, id := range ids {
		q := &sequence{id: id, req: reqs[i], sampler: sample.New(reqs[i].Sampling, reqs[i].Prompt),
			times: Times{Submitted: now}, background: b != nil}
		if reqs[i].PromptLogprobs >= 0 {
			q.prompt = unscored(reqs[i].Prompt)
		}
		q.stream = newStream(ctx.Done(), func() { e.cancel(id) })
		streams[i] = q.stream
		e.live[id] = q
	}
	for i := range streams {
		e.live[ids[i]].unhook = context.AfterFunc(ctx, streams[i].Cancel)
	}
	e.nudge()
	return streams, nil
}

// validate refuses requests that no step can compute; package server checks ranges with better messages.
func (e *Engine) validate(r *Request) error {
	if len(r.Prompt) == 0 {
		return fmt.Errorf("%w: the prompt is empty", ErrInvalid)
	}
	if n := len(r.Prompt); n > e.cfg.MaxContext || r.MaxTokens > 0 && n >= e.cfg.MaxContext {
		return fmt.Errorf("%w: %d tokens in a context of %d", ErrPromptTooLong, n, e.cfg.MaxContext)
	}
	if r.MaxTokens < 0 || r.MinTokens < 0 {
		return fmt.Errorf("%w: negative max or min tokens", ErrInvalid)
	}
	for i, u := range r.LoRA {
		if s := float64(u.Scale); u.Weights == nil || s == 0 || math.IsNaN(s) || math.IsInf(s, 0) {
			return fmt.Errorf(
				"%w: adapter %d of the request has no weights or the scale %v; it must be finite and not 0", ErrInvalid,
				i, s)
		}
		if n, want := len(u.Weights.Layers), e.cfg.Model.Config().Layers; n != want {
			return fmt.Errorf("%w: adapter %d of the request has %d layers, the model %d", ErrInvalid, i, n, want)
		}
		if len(r.LoRA) > 1 || u.Scale != 1 {
			if err := u.Weights.Combinable(); err != nil {
				return fmt.Errorf("%w: adapter %d of the request: %w", ErrInvalid, i, err)
			}
		}
	}
	if (len(r.LoRA) > 0) != (r.AdapterKey != "") {
		return fmt.Errorf("%w: %d adapters with the key %q: a request with adapters has a key, one without has none",
			ErrInvalid, len(r.LoRA), r.AdapterKey)
	}
	if r.Internal && r.Tenant != "" || strings.HasPrefix(r.Tenant, "\x00") {
		return fmt.Errorf("%w: tenant %q: an internal request has none, and no name begins with a zero byte",
			ErrInvalid,
			r.Tenant)
	}
	if !(r.Weight >= 0) || math.IsInf(r.Weight, 0) {
		return fmt.Errorf("%w: weight %v of tenant %q must be finite and not negative", ErrInvalid, r.Weight, r.Tenant)
	}
	for i, id := range r.Prompt {
		if id < 0 || int(id) >= e.vocab {
			return fmt.Errorf("%w: prompt token %d is %d, the model has embeddings for the ids below %d", ErrInvalid, i,
				id, e.vocab)
		}
	}
	return nil
}

func (e *Engine) nudge() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// cancel ends a sequence early: its terminal event is sent at once, its pages are free when the current step is over.
func (e *Engine) cancel(id sched.SeqID) {
	e.mu.Lock()
	defer e.unlock()
	q := e.live[id]
	if q == nil {
		return
	}
	e.sched.Cancel(id)
	e.end(q, Event{Token: -1, Finish: Cancelled, StopID: -1})
	e.nudge()
}

// end delivers the terminal event of q. The caller holds mu.
func (e *Engine) end(q *sequence, ev Event) {
	invariant.Check(e.live[q.id] == q, "sequence %d ends twice", q.id)
	delete(e.live, q.id)
	q.ended = true
	q.times.Ended = time.Now()
	ev.Times = q.times
	q.stream.push(ev)
	q.unhook()
	if q.stop != nil {
		q.stop()
	}
	if q.aside {
		e.asides--
	}
	if !q.stepped {
		e.letGo(q)
	}
	if e.draining && len(e.live) == 0 {
		close(e.idle)
	}
}

// letGo records that nothing refers to the adapters of q any more. The caller holds mu and releases it with unlock.
func (e *Engine) letGo(q *sequence) {
	if q.req.Release != nil {
		e.freed = append(e.freed, q.req.Release)
		q.req.Release = nil
	}
}

// settle is called when the current step is over: it calls letGo for its sequences that have ended, and giveUp for
// those that were set aside. The caller holds mu.
func (e *Engine) settle() {
	for i := range e.results {
		q := e.results[i].seq
		switch q.stepped = false; {
		case q.ended:
			e.letGo(q)
		case q.aside:
			e.giveUp(q)
		}
	}
	clear(e.results) // so that no ended sequence stays reachable
	e.results = e.results[:0]
	e.settled.Broadcast()
}

// unlock releases mu and then calls the collected Release functions, so that a Release may take any lock.
func (e *Engine) unlock() {
	freed := e.freed
	e.freed = nil
	e.mu.Unlock()
	for _, release := range freed {
		release()
	}
}
