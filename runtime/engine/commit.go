package engine

import (
	"slices"
	"time"

	"weft/runtime/sched"
)

// commit advances the scheduler and delivers events. Sequences that were cancelled during the step have had their
// terminal event and get no other.
func (e *Engine) commit(p *sched.Plan) {
	e.mu.Lock()
	defer e.unlock()
	e.tokens, e.ended = e.tokens[:0], e.ended[:0]
	for i := range e.results {
		r, c := &e.results[i], &p.Chunks[i]
		r.event = Event{Token: -1, StopID: -1}
		switch {
		case e.live[c.Seq] != r.seq:
		case r.err != nil:
			r.event.Finish, r.event.Err = Failed, r.err
		case c.Sample:
			r.seq.advance(r, c.Known, e.sched.Limit())
		}
		e.tokens = append(e.tokens, r.token)
		e.ended = append(e.ended, r.event.Finish != Running)
	}
	e.sched.Commit(p, e.tokens, e.ended)
	now := time.Now()
	for i := range e.results {
		r, c := &e.results[i], &p.Chunks[i]
		if e.live[c.Seq] == r.seq && (c.Sample || r.err != nil) {
			e.deliver(r, c, now)
		}
	}
	e.settle()
}

// deliver sends the events of a chunk that ended its sequence's known tokens.
func (e *Engine) deliver(r *result, c *sched.Chunk, now time.Time) {
	q := r.seq
	if !q.began && r.err == nil {
		q.began = true
		q.times.FirstToken = now
		if !q.background {
			e.stats.TokensIn += uint64(len(q.req.Prompt))
		}
		q.stream.push(Event{Token: -1, StopID: -1, PromptLogprobs: q.prompt, CachedTokens: c.Cached})
		q.prompt = nil
	}
	if r.token >= 0 && !q.background {
		e.stats.TokensOut++
	}
	if r.event.Finish == Running {
		q.stream.push(r.event)
	} else {
		e.end(q, r.event)
	}
}

// advance appends the result's token to the sequence and sets r.event, with the finish reason if that ends it. known
// counts the tokens before it.
func (q *sequence) advance(r *result, known, limit int) {
	ev := &r.event
	ev.Token, ev.Logprobs = r.token, r.logprobs
	if r.token < 0 { // the request asked for the prompt only
		ev.Finish = Length
		return
	}
	q.out++
	q.sampler.Accept(r.token)
	switch {
	case slices.Contains(q.req.StopIDs, r.token):
		ev.Finish, ev.StopID = Stop, r.token
	case q.out >= q.req.MaxTokens || known+1 >= limit:
		ev.Finish = Length
	}
}
