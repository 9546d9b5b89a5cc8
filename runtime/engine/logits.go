package engine

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"weft/runtime/sample"
	"weft/runtime/sched"
	"weft/runtime/tensor"
)

// result is the result of a step for one chunk.
type result struct {
	seq      *sequence
	token    int32 // -1: none
	logprobs *TokenLogprobs
	err      error // of this request only
	event    Event
}

// wanted is a row of the batch whose logits are needed.
type wanted struct {
	chunk, pos int // the chunk and the row's position in its sequence
	sample     bool
	err        error
}

// rowWork is the needed rows of one block of logits; several goroutines sample them.
type rowWork struct {
	want   []wanted
	logits []float32
	next   atomic.Int64
	wait   sync.WaitGroup
}

// readLogits runs the head for the rows that are sampled or scored, in blocks of MaxLogitRows, and completes e.results.
// It returns the time spent outside the model.
func (e *Engine) readLogits(p *sched.Plan) (host time.Duration, err error) {
	e.wantRows(p)
	block := e.cfg.Model.MaxLogitRows()
	// no rows: one call all the same, which waits for the device
	for begin := 0; begin < len(e.rows) || begin == 0; begin += block {
		end := min(begin+block, len(e.rows))
		logits, err := e.cfg.Model.Logits(e.rows[begin:end])
		if err != nil {
			return 0, fmt.Errorf("logits of %d rows: %w", end-begin, err)
		}
		start := time.Now()
		e.readRows(e.want[begin:end], logits)
		host += time.Since(start)
	}
	for i := range e.want {
		if w := &e.want[i]; w.err != nil && e.results[w.chunk].err == nil {
			r := &e.results[w.chunk]
			r.err, r.token = w.err, -1
		}
	}
	return host, nil
}

// wantRows lists the rows whose logits the plan needs. Those of a prompt are scored once: not again after a preemption.
func (e *Engine) wantRows(p *sched.Plan) {
	e.rows, e.want = e.rows[:0], e.want[:0]
	at := 0
	for i := range p.Chunks {
		c := &p.Chunks[i]
		q := e.results[i].seq
		for j := range c.Tokens {
			last := j == len(c.Tokens)-1 && c.Sample && q.req.MaxTokens > 0
			if last || c.Score && !q.began && c.Start+j+1 < len(q.req.Prompt) {
				e.rows = append(e.rows, int32(at+j))
				e.want = append(e.want, wanted{chunk: i, pos: c.Start + j, sample: last})
			}
		}
		at += len(c.Tokens)
	}
}

// readRows samples and scores rows, on several cores if there are several rows: each row depends on its own sequence
// only, so the results are the same.
func (e *Engine) readRows(want []wanted, logits []float32) {
	k := &e.work
	k.want, k.logits = want, logits
	k.next.Store(0)
	for range min(len(want), runtime.GOMAXPROCS(0)) - 1 {
		k.wait.Add(1)
		go e.helpReading()
	}
	e.readSome()
	k.wait.Wait()
	k.want, k.logits = nil, nil
}

func (e *Engine) helpReading() {
	defer e.work.wait.Done()
	e.readSome()
}

func (e *Engine) readSome() {
	k, vocab := &e.work, e.vocab
	for {
		i := int(k.next.Add(1)) - 1
		if i >= len(k.want) {
			return
		}
		e.readRow(&k.want[i], k.logits[i*vocab:(i+1)*vocab])
	}
}

// readRow scores and samples one row. A panic here becomes this request's error: only its own sampler is affected.
func (e *Engine) readRow(w *wanted, logits []float32) {
	defer func() {
		if r := recover(); r != nil {
			w.err = fmt.Errorf("panic in sampling: %v\n%s", r, debug.Stack())
		}
	}()
	r := &e.results[w.chunk]
	q := r.seq
	if q.prompt != nil && w.pos+1 < len(q.req.Prompt) {
		w.err = q.scorePrompt(logits, w.pos+1)
	}
	if w.sample && w.err == nil {
		w.err = r.sample(logits)
	}
	if !errors.Is(w.err, sample.ErrNonFinite) {
		return
	}
	if len(q.req.LoRA) > 0 {
		w.err = fmt.Errorf("%w: the adapter's weights may be too large", w.err)
	}
	if e.cfg.KVDType == tensor.F16 {
		w.err = fmt.Errorf("%w: keys or values may be beyond those of f16 (65504), the type of the KV cache: serve "+
			"the model with --kv-type bf16 or f32", w.err)
	}
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
func (q *sequence) scorePrompt(logits []float32, pos int) error {
	id := q.req.Prompt[pos]
	lp, top := sample.Logprobs(logits, id, q.req.PromptLogprobs)
	if math.IsNaN(lp) || math.IsInf(lp, 1) {
		return fmt.Errorf("score prompt token %d: %w", pos, sample.ErrNonFinite)
	}
	q.prompt[pos] = TokenLogprobs{Token: id, Logprob: lp, Top: top}
	return nil
}

// sample draws the next token of r's sequence. Stop ids are banned before MinTokens.
func (r *result) sample(logits []float32) error {
	q := r.seq
	var banned []int32
	if q.out < q.req.MinTokens {
		banned = q.req.StopIDs
	}
	token, err := q.sampler.Sample(logits, q.out, banned)
	if err != nil {
		return err
	}
	r.token = token
	if q.req.Sampling.Logprobs >= 0 {
		lp, top := q.req.Sampling.TopLogprobs(logits, token)
		r.logprobs = &TokenLogprobs{Token: token, Logprob: lp, Top: top}
	}
	return nil
}
