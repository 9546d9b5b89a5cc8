package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"weft/internal/invariant"
	"weft/runtime/device"
	"weft/runtime/kv"
	"weft/runtime/lora"
	"weft/runtime/model"
	"weft/runtime/sample"
	"weft/runtime/sched"
	"weft/runtime/tensor"
)

// Config is an engine's model and limits. The engine uses Model and Device alone until Close and owns neither.
type Config struct {
	Model          model.Model
	Device         device.Device
	PageLen        int
	NumPages       int
	KVDType        tensor.DType
	MaxSeqs        int
	MaxQueued      int
	MaxBatchTokens int
	MaxContext     int
	PrefixCache    bool
	OnStep         func(StepInfo) // called on the loop after each step; may be nil
}

// StepInfo describes a finished step.
type StepInfo struct {
	Tokens, Seqs int
	Duration     time.Duration
	Device       time.Duration // of Duration, spent in the model's forward and head
}

// Stats are the engine's figures; counters never fall.
type Stats struct {
	Running, Waiting           int
	Pages                      kv.Counts
	PrefixQueries, PrefixHits  uint64
	Preemptions                uint64
	TokensIn, TokensOut, Steps uint64
	StepTime, DeviceTime       time.Duration
}

// Engine owns scheduler, pages, model and device; its loop is the only goroutine that touches them.
type Engine struct {
	cfg   Config
	cache device.KVCache
	sched *sched.Scheduler
	pool  *kv.Pool
	live  map[sched.SeqID]*sequence
	batch model.Batch

	mu       sync.Mutex
	stats    Stats
	draining bool
	closed   bool
	failure  error
	wake     chan struct{}
	idle     chan struct{} // closed when draining and nothing is live
	done     chan struct{}
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
	times   Times
	unhook  func() bool
}

// New allocates the KV cache and starts the loop.
func New(cfg Config) (*Engine, error) {
	if cfg.MaxSeqs < 1 || cfg.MaxQueued < 1 || cfg.MaxBatchTokens < 1 || cfg.MaxContext < 1 {
		return nil, fmt.Errorf("%w: max seqs %d, max queued %d, max batch tokens %d and max context %d must be positive",
			ErrInvalid, cfg.MaxSeqs, cfg.MaxQueued, cfg.MaxBatchTokens, cfg.MaxContext)
	}
	if m := cfg.Model.MaxBatchTokens(); cfg.MaxBatchTokens > m {
		return nil, fmt.Errorf("%w: %d tokens a step, the model was loaded for %d", ErrInvalid, cfg.MaxBatchTokens, m)
	}
	kvc := cfg.Model.KVConfig()
	kvc.PageLen, kvc.NumPages, kvc.DType = cfg.PageLen, cfg.NumPages, cfg.KVDType
	cache, err := cfg.Device.NewKVCache(kvc)
	if err != nil {
		return nil, err
	}
	pool := kv.NewPool(cfg.NumPages, cfg.PageLen)
	e := &Engine{
		cfg: cfg, cache: cache, pool: pool, live: map[sched.SeqID]*sequence{},
		sched: sched.New(sched.Config{
			MaxSeqs: cfg.MaxSeqs, MaxQueued: cfg.MaxQueued, MaxBatchTokens: cfg.MaxBatchTokens, MaxContext: cfg.MaxContext,
			PrefixCache: cfg.PrefixCache, RopeSwitch: cfg.Model.RopeSwitch(),
		}, pool),
		wake: make(chan struct{}, 1), idle: make(chan struct{}), done: make(chan struct{}),
	}
	go e.loop()
	return e, nil
}

// Submit admits all of reqs or none and returns one stream each. When ctx ends they are cancelled.
func (e *Engine) Submit(ctx context.Context, reqs ...Request) ([]*Stream, error) {
	seqs := make([]sched.Seq, len(reqs))
	for i := range reqs {
		r := &reqs[i]
		if err := e.validate(r); err != nil {
			return nil, err
		}
		seqs[i] = sched.Seq{Prompt: r.Prompt, MaxTokens: r.MaxTokens, Key: r.AdapterKey, Salt: r.Salt, ScoreAll: r.PromptLogprobs >= 0}
	}
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.failure != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnhealthy, e.failure)
	case e.draining || e.closed:
		return nil, ErrDraining
	}
	ids, err := e.sched.Add(seqs...)
	switch {
	case errors.Is(err, sched.ErrQueueFull):
		return nil, fmt.Errorf("%w: %w", ErrQueueFull, err)
	case errors.Is(err, sched.ErrTooLong):
		return nil, fmt.Errorf("%w: %w", ErrNoMemory, err)
	case err != nil:
		return nil, err
	}
	streams := make([]*Stream, len(reqs))
	for i, id := range ids {
		q := &sequence{id: id, req: reqs[i], sampler: sample.New(reqs[i].Sampling, reqs[i].Prompt), times: Times{Submitted: now}}
		if reqs[i].PromptLogprobs >= 0 {
			q.prompt = unscored(reqs[i].Prompt)
		}
		q.stream = newStream(func() { e.cancel(id) })
		streams[i] = q.stream
		e.live[id] = q
	}
	for i := range streams {
		e.live[ids[i]].unhook = context.AfterFunc(ctx, streams[i].Cancel)
	}
	e.nudge()
	return streams, nil
}

// validate refuses what no step could compute; the edge checks ranges with better words.
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
	for i, id := range r.Prompt {
		if id < 0 || int(id) >= e.cfg.Model.Config().Vocab {
			return fmt.Errorf("%w: prompt token %d is %d, the vocabulary has %d", ErrInvalid, i, id, e.cfg.Model.Config().Vocab)
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

// cancel ends a sequence before its time; the stream gets its terminal event when the step under way is over.
func (e *Engine) cancel(id sched.SeqID) {
	e.mu.Lock()
	defer e.mu.Unlock()
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
	q.times.Ended = time.Now()
	ev.Times = q.times
	q.stream.push(ev)
	q.unhook()
	if e.draining && len(e.live) == 0 {
		close(e.idle)
	}
}

// loop computes steps while there is something to compute.
func (e *Engine) loop() {
	defer close(e.done)
	for {
		e.mu.Lock()
		if e.closed || e.failure != nil {
			e.endAll()
			e.mu.Unlock()
			return
		}
		plan, ok := e.sched.Next()
		if ok {
			e.noteScheduled(plan)
		} else {
			c := e.pool.Counts()
			invariant.Check(len(e.live) > 0 || c.InUse == 0, "idle with %d pages in use", c.InUse)
		}
		e.mu.Unlock()
		if !ok {
			<-e.wake
			continue
		}
		if err := e.step(plan); err != nil {
			e.mu.Lock()
			e.failure = err
			e.mu.Unlock()
		}
	}
}

// endAll fails or cancels whatever lives, when the loop ends.
func (e *Engine) endAll() {
	for _, q := range e.live {
		e.sched.Cancel(q.id)
		if e.failure != nil {
			e.end(q, Event{Token: -1, Finish: Failed, StopID: -1, Err: fmt.Errorf("%w: %w", ErrUnhealthy, e.failure)})
		} else {
			e.end(q, Event{Token: -1, Finish: Cancelled, StopID: -1})
		}
	}
}

func (e *Engine) noteScheduled(p *sched.Plan) {
	for _, id := range p.Preempted {
		if q := e.live[id]; q != nil {
			q.times.Preemptions++
		}
	}
	for i := range p.Chunks {
		if q := e.live[p.Chunks[i].Seq]; q != nil && q.times.Scheduled.IsZero() {
			q.times.Scheduled = time.Now()
		}
	}
}

// step computes a plan and delivers its tokens. An error, or a panic turned into one, means that the engine cannot go on.
func (e *Engine) step(p *sched.Plan) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic in a step: %v\n%s", r, debug.Stack())
		}
	}()
	start := time.Now()
	e.fill(p)
	if err := e.cfg.Model.Forward(&e.batch, e.cache); err != nil {
		return fmt.Errorf("forward of %d tokens: %w", p.Tokens, err)
	}
	results, device, err := e.readLogits(p)
	if err != nil {
		return err
	}
	e.commit(p, results)
	e.mu.Lock()
	e.stats.Steps++
	e.stats.StepTime += time.Since(start)
	e.stats.DeviceTime += device
	info := StepInfo{Tokens: p.Tokens, Seqs: len(p.Chunks), Duration: time.Since(start), Device: device}
	e.mu.Unlock()
	if e.cfg.OnStep != nil {
		e.cfg.OnStep(info)
	}
	return nil
}

// fill writes the plan to the batch.
func (e *Engine) fill(p *sched.Plan) {
	b := &e.batch
	b.IDs, b.Positions, b.Lens, b.PageTables, b.LoRA = b.IDs[:0], b.Positions[:0], b.Lens[:0], b.PageTables[:0], b.LoRA[:0]
	b.Indptr = append(b.Indptr[:0], 0)
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range p.Chunks {
		c := &p.Chunks[i]
		begin := len(b.IDs)
		b.IDs = append(b.IDs, c.Tokens...)
		for j := range c.Tokens {
			b.Positions = append(b.Positions, int32(c.Start+j))
		}
		b.Indptr = append(b.Indptr, int32(len(b.IDs)))
		b.Lens = append(b.Lens, int32(c.Known))
		b.PageTables = append(b.PageTables, c.Pages)
		q := e.live[c.Seq]
		if q == nil || q.req.Adapter == nil {
			continue
		}
		if n := len(b.LoRA); n > 0 && b.LoRA[n-1].Weights == q.req.Adapter && b.LoRA[n-1].End == begin {
			b.LoRA[n-1].End = len(b.IDs)
		} else {
			b.LoRA = append(b.LoRA, lora.Segment{Begin: begin, End: len(b.IDs), Weights: q.req.Adapter})
		}
	}
}

// result is what a step found for one chunk.
type result struct {
	seq      *sequence // nil: cancelled meanwhile
	token    int32     // -1: none
	logprobs *TokenLogprobs
	err      error
}

// wanted is a row of the batch whose logits are needed.
type wanted struct {
	chunk, pos int
	sample     bool
}

// readLogits runs the head for the rows that are sampled or scored, in blocks, and returns a result for each chunk and the time spent in the head.
func (e *Engine) readLogits(p *sched.Plan) ([]result, time.Duration, error) {
	results := make([]result, len(p.Chunks))
	var rows []int32
	var want []wanted
	e.mu.Lock()
	at := 0
	for i := range p.Chunks {
		c := &p.Chunks[i]
		q := e.live[c.Seq]
		results[i] = result{seq: q, token: -1}
		if q != nil {
			for j := range c.Tokens {
				last := j == len(c.Tokens)-1 && c.Sample && q.req.MaxTokens > 0
				if last || c.Score && !q.began && c.Start+j+1 < len(q.req.Prompt) {
					rows = append(rows, int32(at+j))
					want = append(want, wanted{i, c.Start + j, last})
				}
			}
		}
		at += len(c.Tokens)
	}
	e.mu.Unlock()
	start := time.Now()
	var host time.Duration
	block := e.cfg.Model.MaxLogitRows()
	vocab := e.cfg.Model.Config().Vocab
	for begin := 0; begin < len(rows) || begin == 0; begin += block {
		end := min(begin+block, len(rows))
		logits, err := e.cfg.Model.Logits(rows[begin:end])
		if err != nil {
			return nil, 0, fmt.Errorf("logits of %d rows: %w", end-begin, err)
		}
		hostStart := time.Now()
		for k, w := range want[begin:end] {
			row := logits[k*vocab : (k+1)*vocab]
			r := &results[w.chunk]
			if r.seq.prompt != nil && w.pos+1 < len(r.seq.req.Prompt) {
				r.seq.scorePrompt(row, w.pos+1)
			}
			if w.sample {
				r.sample(row)
			}
		}
		host += time.Since(hostStart)
	}
	return results, time.Since(start) - host, nil
}

// unscored returns a place for the log-probability of each prompt token; the first has none.
func unscored(prompt []int32) []TokenLogprobs {
	out := make([]TokenLogprobs, len(prompt))
	for i, id := range prompt {
		out[i] = TokenLogprobs{Token: id, Logprob: math.NaN()}
	}
	return out
}

// scorePrompt records the log-probability of the prompt token at pos, seen from the one before.
func (q *sequence) scorePrompt(logits []float32, pos int) {
	lp, top := sample.Logprobs(logits, q.req.Prompt[pos], q.req.PromptLogprobs)
	q.prompt[pos] = TokenLogprobs{Token: q.req.Prompt[pos], Logprob: lp, Top: top}
}

// sample draws the next token of r's sequence.
func (r *result) sample(logits []float32) {
	q := r.seq
	var banned []int32
	if q.out < q.req.MinTokens {
		banned = q.req.StopIDs
	}
	token, err := q.sampler.Sample(logits, q.out, banned)
	if err != nil {
		r.err = err
		return
	}
	r.token = token
	if k := q.req.Sampling.Logprobs; k >= 0 {
		lp, top := sample.Logprobs(logits, token, k)
		r.logprobs = &TokenLogprobs{Token: token, Logprob: lp, Top: top}
	}
}

// commit advances the scheduler and delivers events.
func (e *Engine) commit(p *sched.Plan, results []result) {
	e.mu.Lock()
	defer e.mu.Unlock()
	tokens, ended := make([]int32, len(results)), make([]bool, len(results))
	events := make([]Event, len(results))
	for i := range results {
		r, c := &results[i], &p.Chunks[i]
		tokens[i] = -1
		q := r.seq
		if q == nil || e.live[q.id] != q {
			continue
		}
		switch {
		case r.err != nil:
			events[i] = Event{Token: -1, Finish: Failed, StopID: -1, Err: r.err}
		case !c.Sample:
			continue
		default:
			events[i] = q.advance(r, c, e.sched.Limit())
		}
		tokens[i], ended[i] = r.token, events[i].Finish != Running
	}
	e.sched.Commit(p, tokens, ended)
	for i := range results {
		r, c := &results[i], &p.Chunks[i]
		q := r.seq
		if q == nil || e.live[q.id] != q || !c.Sample && r.err == nil {
			continue
		}
		if !q.began && r.err == nil {
			q.began = true
			q.times.FirstToken = time.Now()
			e.stats.TokensIn += uint64(len(q.req.Prompt))
			q.stream.push(Event{Token: -1, StopID: -1, PromptLogprobs: q.prompt, CachedTokens: c.Cached})
			q.prompt = nil
		}
		if r.token >= 0 {
			e.stats.TokensOut++
		}
		if events[i].Finish == Running {
			q.stream.push(events[i])
		} else {
			e.end(q, events[i])
		}
	}
}

// advance appends the result's token to the sequence and says whether that ends it.
func (q *sequence) advance(r *result, c *sched.Chunk, context int) Event {
	ev := Event{Token: r.token, Logprobs: r.logprobs, StopID: -1}
	if r.token < 0 { // only the prompt was to be scored
		ev.Finish = Length
		return ev
	}
	q.out++
	q.sampler.Accept(r.token)
	switch {
	case slices.Contains(q.req.StopIDs, r.token):
		ev.Finish, ev.StopID = Stop, r.token
	case q.out >= q.req.MaxTokens || c.Known+1 >= context:
		ev.Finish = Length
	}
	return ev
}

// Drain refuses new requests and waits until the running ones are over; when ctx ends first, the rest are cancelled and its error is returned.
func (e *Engine) Drain(ctx context.Context) error {
	e.mu.Lock()
	if !e.draining {
		e.draining = true
		if len(e.live) == 0 {
			close(e.idle)
		}
	}
	e.mu.Unlock()
	select {
	case <-e.idle:
		return nil
	case <-ctx.Done():
	}
	e.mu.Lock()
	for _, q := range e.live {
		e.sched.Cancel(q.id)
		e.end(q, Event{Token: -1, Finish: Cancelled, StopID: -1})
	}
	e.mu.Unlock()
	return ctx.Err()
}

// Close cancels what lives, ends the loop and frees the KV cache. Model and device stay the caller's.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	e.mu.Unlock()
	e.nudge()
	<-e.done
	e.cache.Free()
	return nil
}

// Health returns nil while the engine can compute.
func (e *Engine) Health() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failure != nil {
		return fmt.Errorf("%w: %w", ErrUnhealthy, e.failure)
	}
	return nil
}

// Stats returns the figures now.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, c := e.stats, e.sched.Stats()
	s.Running, s.Waiting, s.Pages = e.sched.Running(), e.sched.Waiting(), e.pool.Counts()
	s.Preemptions, s.PrefixQueries, s.PrefixHits = c.Preemptions, c.PrefixQueries, c.PrefixHits
	return s
}

// PlanPages returns how many pages fit a budget of bytes, or a refusal with the numbers where not one sequence of a few pages would.
func PlanPages(budget int64, c device.KVConfig) (int, error) {
	const least = 4
	per := c.PageBytes()
	if per <= 0 || budget/per < least {
		return 0, fmt.Errorf("%w: %d bytes are left for the KV cache, a page of %d tokens takes %d and at least %d pages are needed: raise --memory, or lower --max-context or --max-batch-tokens",
			ErrNoMemory, budget, c.PageLen, per, least)
	}
	return int(min(budget/per, 1<<24)), nil
}
