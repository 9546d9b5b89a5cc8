package bench

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"weft/internal/limits"
	"weft/internal/node"
	"weft/runtime/device"
	"weft/runtime/device/cpu"
	"weft/runtime/engine"
)

// OpRow is one operation of a step, compared with the limit that it is closer to: memory bandwidth or arithmetic.
type OpRow struct {
	Op            string  `json:"op"`
	Rows          int     `json:"rows"`
	In            int     `json:"in"`
	Out           int     `json:"out"`
	CallsPerStep  float64 `json:"calls_per_step"`
	Micros        float64 `json:"microseconds"` // of one call
	StepFraction  float64 `json:"share_of_step"`
	GBs           float64 `json:"gb_per_second"`
	GOPs          float64 `json:"gop_per_second"`
	Limit         string  `json:"limit"` // "bandwidth", "int8", "bf16" or "float"
	LimitFraction float64 `json:"share_of_limit"`
}

// stepKind is a kind of step: how many tokens of how many sequences.
type stepKind struct{ tokens, seqs int }

func (k stepKind) String() string {
	if k.tokens == k.seqs {
		return fmt.Sprintf("decode, %d sequence(s)", k.seqs)
	}
	return fmt.Sprintf("prefill, %d tokens", k.tokens)
}

// OpsStep is the time of the operations in steps of one kind.
type OpsStep struct {
	Step         string  `json:"step"`
	Steps        int     `json:"steps"`
	Milliseconds float64 `json:"milliseconds"` // of one step
	Outside      float64 `json:"share_outside_device"`
	Ops          []OpRow `json:"ops"`
	kind         stepKind
}

// OpsResult is the result of Ops.Run.
type OpsResult struct {
	Model     string    `json:"model"`
	Device    string    `json:"device"`
	Bandwidth float64   `json:"read_bandwidth_bytes_per_second"`
	Peaks     cpu.Peaks `json:"peak_gop_per_second"`
	Steps     []OpsStep `json:"steps"`
}

// stepCost collects the profiles of steps of one kind.
type stepCost struct {
	steps         int
	total, device time.Duration
	ops           map[cpu.OpCost]*cpu.OpCost // by shape: the key has no figures
}

// opsMeter reads the device's profile after each step. The engine's loop writes it; report reads it while the engine is
// idle.
type opsMeter struct {
	mu    sync.Mutex
	dev   cpu.Profiler
	steps map[stepKind]*stepCost
}

func (m *opsMeter) step(i engine.StepInfo) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dev == nil {
		return
	}
	profile := m.dev.TakeProfile()
	if len(profile) == 0 { // the step was computed before start, and is reported late
		return
	}
	kind := stepKind{i.Tokens, i.Seqs}
	c := m.steps[kind]
	if c == nil {
		c = &stepCost{ops: map[cpu.OpCost]*cpu.OpCost{}}
		m.steps[kind] = c
	}
	c.steps++
	c.total += i.Duration
	c.device += i.Device
	for _, o := range profile {
		key := cpu.OpCost{Op: o.Op, Rows: o.Rows, In: o.In, Out: o.Out, Integers: o.Integers, Halves: o.Halves}
		if sum := c.ops[key]; sum != nil {
			sum.Calls, sum.Nanos, sum.Bytes, sum.Ops = sum.Calls+o.Calls, sum.Nanos+o.Nanos, sum.Bytes+o.Bytes,
				sum.Ops+o.Ops
		} else {
			c.ops[key] = &o
		}
	}
}

// start begins a new measurement.
func (m *opsMeter) start(dev cpu.Profiler) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dev.TakeProfile()
	m.dev, m.steps = dev, map[stepKind]*stepCost{}
}

// report returns the steps of a kind that occurred often enough to be measured.
func (m *opsMeter) report(r *OpsResult) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for kind, c := range m.steps {
		n := float64(c.steps)
		s := OpsStep{Step: kind.String(), Steps: c.steps, kind: kind, Milliseconds: c.total.Seconds() * 1e3 / n,
			Outside: 1 - c.device.Seconds()/c.total.Seconds()}
		for _, o := range slices.SortedFunc(maps.Values(c.ops),
			func(a, b *cpu.OpCost) int { return cmp.Compare(b.Nanos, a.Nanos) }) {
			s.Ops = append(s.Ops, r.row(o, n, c.total))
		}
		r.Steps = append(r.Steps, s)
	}
	slices.SortFunc(r.Steps, func(a, b OpsStep) int { return cmp.Compare(a.kind.tokens, b.kind.tokens) })
}

func (r *OpsResult) row(o *cpu.OpCost, steps float64, total time.Duration) OpRow {
	seconds := float64(o.Nanos) / 1e9
	row := OpRow{
		Op: o.Op, Rows: o.Rows, In: o.In, Out: o.Out, CallsPerStep: float64(o.Calls) / steps,
		Micros:       seconds * 1e6 / float64(o.Calls),
		StepFraction: seconds / total.Seconds(), GBs: float64(o.Bytes) / seconds / 1e9, GOPs: o.Ops / seconds / 1e9,
	}
	peak, name := r.Peaks.Float, "float"
	if o.Integers {
		peak, name = r.Peaks.Int8, "int8"
	} else if o.Halves {
		peak, name = r.Peaks.BF16, "bf16"
	}
	row.Limit, row.LimitFraction = "bandwidth", row.GBs*1e9/max(r.Bandwidth, 1)
	if share := row.GOPs / max(peak, 1e-9); share > row.LimitFraction {
		row.Limit, row.LimitFraction = name, share
	}
	return row
}

// Ops is a model whose device measures its operations; Close closes it.
type Ops struct {
	*node.Model
	meter   opsMeter
	isa     string
	threads int
}

// OpenOps opens a model with a device that measures, and without a prefix cache.
func OpenOps(c node.ModelConfig) (*Ops, error) {
	o := &Ops{isa: c.ISA, threads: c.NumThreads()}
	c.PrefixCache, c.Profile, c.OnStep = false, true, o.meter.step
	m, err := node.OpenModel(c)
	o.Model = m
	return o, err
}

// Run decodes gen tokens in each number of streams, and prefills prompt tokens of one. device.ErrUnsupported where the
// device does not measure operations.
func (o *Ops) Run(ctx context.Context, prompt, gen int, streams []int) (*OpsResult, error) {
	s, m := o.Model, &o.meter
	dev, ok := s.Device.(cpu.Profiler)
	if !ok {
		return nil,
			fmt.Errorf("bench ops: %w: the %s device does not measure operations; use --device cpu",
				device.ErrUnsupported, s.Device.Name())
	}
	peaks, err := cpu.MeasurePeaks(o.isa, o.threads, bandwidthTime)
	if err != nil {
		return nil, err
	}
	r := &OpsResult{Model: s.Name, Device: s.Device.Describe(), Bandwidth: ReadBandwidth(o.threads, limits.Own()),
		Peaks: peaks}
	if _, _, err := generate(ctx, s, prompt, 8, 1); err != nil { // warms up
		return nil, err
	}
	for i, n := range streams {
		m.start(dev)
		if _, _, err := generate(ctx, s, 8, gen, n); err != nil {
			return nil, err
		}
		m.keep(func(k stepKind, c *stepCost) bool { return k.tokens == n && k.seqs == n && c.steps > 1 })
		m.report(r)
		if i > 0 {
			continue
		}
		m.start(dev)
		for range 3 {
			if _, _, err := generate(ctx, s, prompt, 1, 1); err != nil {
				return nil, err
			}
		}
		m.report(r)
	}
	return r, nil
}

// keep drops the steps of other kinds.
func (m *opsMeter) keep(wanted func(stepKind, *stepCost) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.steps, func(k stepKind, c *stepCost) bool { return !wanted(k, c) })
}
