package engine

import (
	"fmt"
	"runtime/debug"
	"time"

	"weft/internal/invariant"
	"weft/runtime/cost"
	"weft/runtime/lora"
	"weft/runtime/sched"
)

// loop computes steps while there is something to compute.
func (e *Engine) loop() {
	defer close(e.done)
	defer e.rest()
	for {
		worked, err := e.turn()
		if e.over(err) {
			return
		}
		if !worked {
			e.rest()
			<-e.wake
		}
	}
}

// rest releases the device to a background job.
func (e *Engine) rest() {
	if e.working {
		e.working = false
		e.turns.give()
	}
}

// over records a failure and, if the engine is closed or has failed, ends all live requests.
func (e *Engine) over(err error) bool {
	if err != nil {
		_ = e.cfg.Device.Sync() // operations of the failed step may refer to adapters
	}
	e.mu.Lock()
	defer e.unlock()
	if err != nil {
		e.failure = err
		e.settle()
	}
	if !e.closed && e.failure == nil {
		return false
	}
	for _, q := range e.live {
		e.sched.Cancel(q.id)
		if e.failure != nil {
			e.end(q, Event{Token: -1, Finish: Failed, StopID: -1, Err: fmt.Errorf("%w: %w", ErrUnhealthy, e.failure)})
		} else {
			e.end(q, Event{Token: -1, Finish: Cancelled, StopID: -1})
		}
	}
	return true
}

// turn plans a step, computes it and delivers its tokens; false if there is nothing to compute. An error, or a panic
// turned into one, means that the engine cannot go on.
func (e *Engine) turn() (worked bool, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic in a step: %v\n%s", r, debug.Stack())
		}
	}()
	start := time.Now()
	plan, err := e.next(start)
	if plan == nil {
		return false, err
	}
	if !e.working {
		e.turns.take(false)
		e.working = true
	}
	began := time.Now() // without the time that a background job had the device
	device, err := e.compute(plan)
	if err != nil {
		e.mu.Lock()
		e.sched.Abandon(plan)
		e.mu.Unlock() // over settles
		return true, err
	}
	info := StepInfo{Tokens: plan.Tokens, Seqs: len(plan.Chunks), Preempted: len(plan.Preempted), Device: device,
		Background: e.results[0].seq.background}
	work := e.workOf(plan)
	e.commit(plan)
	took := time.Since(began).Seconds()
	if e.allCosts.Observe(work, took); !info.Background {
		e.costs.Observe(work, took)
	}
	info.Duration = time.Since(start)
	e.count(&info)
	if e.cfg.OnStep != nil {
		e.cfg.OnStep(info)
	}
	return true, nil
}

// count adds a step to the figures.
func (e *Engine) count(info *StepInfo) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if info.Background {
		e.stats.Background.Steps++
		e.stats.Background.Tokens += uint64(info.Tokens)
		return
	}
	e.stats.Steps++
	e.stats.StepTime += info.Duration
	e.stats.DeviceTime += info.Device
}

// next returns the plan of the next step, nil if there is nothing to compute.
func (e *Engine) next(now time.Time) (plan *sched.Plan, err error) {
	if e.cfg.UseIdle == nil || !e.hasReserved() {
		plan, _, err = e.plan(now, 0)
		return plan, err
	}
	e.cfg.UseIdle(func(idle int64) (used int64) {
		plan, used, err = e.plan(now, idle)
		return used
	})
	return plan, err
}

// plan is next with bytes of idle memory. It returns how many of them it uses.
func (e *Engine) plan(now time.Time, idle int64) (*sched.Plan, int64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, 0, nil
	}
	plan, ok := e.sched.Next(sched.Input{Idle: e.idlePages(idle), Costs: e.costs.Costs(), Hold: e.held > 0,
		Background: e.allCosts.Costs(), Longest: e.cfg.BackgroundStep.Seconds()})
	used := e.use(plan.Reclaimed)
	if !ok {
		return nil, used, e.checkIdle()
	}
	for _, id := range plan.Preempted {
		if q := e.live[id]; q != nil {
			q.times.Preemptions++
		}
	}
	e.results = e.results[:0]
	for i := range plan.Chunks {
		q := e.live[plan.Chunks[i].Seq]
		q.stepped = true
		if q.times.Scheduled.IsZero() {
			q.times.Scheduled = now
		}
		e.results = append(e.results, result{seq: q, token: -1})
	}
	return plan, used, nil
}

// checkIdle is called when there is nothing to compute: then no sequence may be live, and no page may be in use, except
// for background sequences that are kept out.
func (e *Engine) checkIdle() error {
	n, b := len(e.live)-e.asides, e.sched.Background()
	if e.held > 0 || e.asides > 0 {
		n -= b.Running + b.Waiting
	}
	if n > 0 {
		return fmt.Errorf("%d sequences live and none can be computed: %d run, %d wait, pages %+v", n,
			e.sched.Running(), e.sched.Waiting(), e.pool.Counts())
	}
	if invariant.Enabled {
		c := e.pool.Counts()
		err := e.sched.Verify()
		invariant.Check(err == nil && c.InUse == b.Pages, "idle with %d pages in use: %v", c.InUse, err)
	}
	return nil
}

// workOf returns what a step has computed, for the estimate of its costs.
func (e *Engine) workOf(p *sched.Plan) (all cost.Work) {
	for i := range p.Chunks {
		c := &p.Chunks[i]
		w := cost.Chunk(c.Start, len(c.Tokens), c.Sample)
		if c.Score {
			w.Outputs = float64(len(c.Tokens))
		}
		if c.Key != "" && (i == 0 || p.Chunks[i-1].Key != c.Key) { // sorted by key
			w.Adapters = 1
		}
		all.Add(w)
	}
	return all
}

// compute runs the model over the plan and fills e.results. It returns the time spent in the model and its device.
func (e *Engine) compute(p *sched.Plan) (time.Duration, error) {
	start := time.Now()
	e.fill(p)
	filled := time.Now()
	if err := e.cfg.Model.Forward(&e.batch, e.cache); err != nil {
		return 0, fmt.Errorf("forward of %d tokens: %w", p.Tokens, err)
	}
	host, err := e.readLogits(p)
	return time.Since(start) - filled.Sub(start) - host, err
}

// fill writes the plan to the batch.
func (e *Engine) fill(p *sched.Plan) {
	b := &e.batch
	b.IDs, b.Positions, b.Lens, b.PageTables, b.LoRA = b.IDs[:0], b.Positions[:0], b.Lens[:0], b.PageTables[:0],
		b.LoRA[:0]
	b.Indptr = append(b.Indptr[:0], 0)
	for i := range p.Chunks {
		c := &p.Chunks[i]
		begin := len(b.IDs)
		b.IDs = append(b.IDs, c.Tokens...)
		for j := range c.Tokens {
			b.Positions = append(b.Positions, int32(c.Start+j))
		}
		end := len(b.IDs)
		b.Indptr = append(b.Indptr, int32(end))
		b.Lens = append(b.Lens, int32(c.Known))
		b.PageTables = append(b.PageTables, c.Pages)
		b.LoRA = addSegments(b.LoRA, e.results[i].seq.req.LoRA, begin, end)
	}
}

// addSegments applies uses to the tokens [begin, end); it extends the previous segments if they have the same uses.
func addSegments(segments []lora.Segment, uses []lora.Use, begin, end int) []lora.Segment {
	n := len(segments) - len(uses)
	same := n >= 0 && (n == 0 || segments[n-1].End != begin)
	for i := 0; same && i < len(uses); i++ {
		s := &segments[n+i]
		same = s.End == begin && s.Weights == uses[i].Weights && s.Scale == uses[i].Scale
	}
	for i, u := range uses {
		if same {
			segments[n+i].End = end
		} else {
			segments = append(segments, lora.Segment{Begin: begin, End: end, Weights: u.Weights, Scale: u.Scale})
		}
	}
	return segments
}
