package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"weft/runtime/device"
	"weft/runtime/device/cpu"
	"weft/runtime/engine"
)

// opRow is one operation of a step, against the limit that is nearer: reading memory, or computing.
type opRow struct {
	Op           string  `json:"op"`
	Rows         int     `json:"rows"`
	In           int     `json:"in"`
	Out          int     `json:"out"`
	CallsPerStep float64 `json:"calls_per_step"`
	Micros       float64 `json:"microseconds"` // of one call
	StepShare    float64 `json:"share_of_step"`
	GBs          float64 `json:"gb_per_second"`
	GOPs         float64 `json:"gop_per_second"`
	Limit        string  `json:"limit"` // "bandwidth", "int8", "bf16" or "float"
	LimitShare   float64 `json:"share_of_limit"`
}

// stepKind tells steps apart: how many tokens of how many sequences.
type stepKind struct{ tokens, seqs int }

func (k stepKind) String() string {
	if k.tokens == k.seqs {
		return fmt.Sprintf("decode, %d sequence(s)", k.seqs)
	}
	return fmt.Sprintf("prefill, %d tokens", k.tokens)
}

// opsStep is where the time of steps of one kind goes.
type opsStep struct {
	Step         string  `json:"step"`
	Steps        int     `json:"steps"`
	Milliseconds float64 `json:"milliseconds"` // of one step
	Outside      float64 `json:"share_outside_device"`
	Ops          []opRow `json:"ops"`
	kind         stepKind
}

type opsResult struct {
	Model     string    `json:"model"`
	Device    string    `json:"device"`
	Bandwidth float64   `json:"read_bandwidth_bytes_per_second"`
	Peaks     cpu.Peaks `json:"peak_gop_per_second"`
	Steps     []opsStep `json:"steps"`
}

// stepCost collects the profiles of steps of one kind.
type stepCost struct {
	steps         int
	total, device time.Duration
	ops           map[cpu.OpCost]*cpu.OpCost // by shape: the key has no figures
}

// opsMeter takes the device's profile after each step. The engine's loop writes, report reads when the engine is idle.
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
	kind := stepKind{i.Tokens, i.Seqs}
	c := m.steps[kind]
	if c == nil {
		c = &stepCost{ops: map[cpu.OpCost]*cpu.OpCost{}}
		m.steps[kind] = c
	}
	c.steps++
	c.total += i.Duration
	c.device += i.Device
	for _, o := range m.dev.TakeProfile() {
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

// report returns the steps of a kind that came often enough to be called one.
func (m *opsMeter) report(r *opsResult) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for kind, c := range m.steps {
		n := float64(c.steps)
		s := opsStep{Step: kind.String(), Steps: c.steps, kind: kind, Milliseconds: c.total.Seconds() * 1e3 / n,
			Outside: 1 - c.device.Seconds()/c.total.Seconds()}
		for _, o := range slices.SortedFunc(maps.Values(c.ops),
			func(a, b *cpu.OpCost) int { return cmp.Compare(b.Nanos, a.Nanos) }) {
			s.Ops = append(s.Ops, r.row(o, n, c.total))
		}
		r.Steps = append(r.Steps, s)
	}
	slices.SortFunc(r.Steps, func(a, b opsStep) int { return cmp.Compare(a.kind.tokens, b.kind.tokens) })
}

func (r *opsResult) row(o *cpu.OpCost, steps float64, total time.Duration) opRow {
	seconds := float64(o.Nanos) / 1e9
	row := opRow{
		Op: o.Op, Rows: o.Rows, In: o.In, Out: o.Out, CallsPerStep: float64(o.Calls) / steps,
		Micros:    seconds * 1e6 / float64(o.Calls),
		StepShare: seconds / total.Seconds(), GBs: float64(o.Bytes) / seconds / 1e9, GOPs: o.Ops / seconds / 1e9,
	}
	peak, name := r.Peaks.Float, "float"
	if o.Integers {
		peak, name = r.Peaks.Int8, "int8"
	} else if o.Halves {
		peak, name = r.Peaks.BF16, "bf16"
	}
	row.Limit, row.LimitShare = "bandwidth", row.GBs*1e9/max(r.Bandwidth, 1)
	if share := row.GOPs / max(peak, 1e-9); share > row.LimitShare {
		row.Limit, row.LimitShare = name, share
	}
	return row
}

func benchOpsCommand() *cobra.Command {
	var f stackFlags
	var prompt, gen int
	var streams []int
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ops",
		Short: "Measure each operation of a step against its own limit: the memory's bandwidth or the " +
			"processor's products",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if prompt < 1 || gen < 2 || len(streams) == 0 || slices.Min(streams) < 1 {
				return usagef("--prompt and --streams are at least 1, --gen at least 2")
			}
			m := &opsMeter{}
			f.PrefixCache, f.profile, f.onStep = false, true, m.step
			f.MaxBatchTokens = max(f.MaxBatchTokens, prompt)
			s, err := openStack(&f, nil)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			r, err := s.benchOps(ctx, m, prompt, gen, streams, &f)
			if err = errors.Join(err, s.Close()); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			r.print(cmd.OutOrStdout())
			return nil
		},
	}
	f.register(cmd.Flags())
	cmd.Flags().IntVar(&prompt, "prompt", 512, "prompt tokens")
	cmd.Flags().IntVar(&gen, "gen", 64, "tokens to generate")
	cmd.Flags().IntSliceVar(&streams, "streams", []int{1, 16}, "sequences decoded at once")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON document")
	return cmd
}

func (s *stack) benchOps(ctx context.Context, m *opsMeter, prompt, gen int, streams []int, f *stackFlags) (*opsResult,
	error) {
	dev, ok := s.Device.(cpu.Profiler)
	if !ok {
		return nil,
			fmt.Errorf("bench ops: %w: the %s device does not measure operations; use --device cpu",
				device.ErrUnsupported, s.Device.Name())
	}
	threads := numThreads(f)
	peaks, err := cpu.MeasurePeaks(f.ISA, threads, bandwidthTime)
	if err != nil {
		return nil, err
	}
	r := &opsResult{Model: s.Name, Device: s.Device.Describe(), Bandwidth: readBandwidth(threads), Peaks: peaks}
	if _, _, err := s.benchRun(ctx, prompt, 8, 1); err != nil { // warms up
		return nil, err
	}
	for i, n := range streams {
		m.start(dev)
		if _, _, err := s.benchRun(ctx, 8, gen, n); err != nil {
			return nil, err
		}
		m.keep(func(k stepKind, c *stepCost) bool { return k.tokens == n && k.seqs == n && c.steps > 1 })
		m.report(r)
		if i > 0 {
			continue
		}
		m.start(dev)
		for range 3 {
			if _, _, err := s.benchRun(ctx, prompt, 1, 1); err != nil {
				return nil, err
			}
		}
		m.report(r)
	}
	return r, nil
}

// keep forgets the steps that are not wanted.
func (m *opsMeter) keep(wanted func(stepKind, *stepCost) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.steps, func(k stepKind, c *stepCost) bool { return !wanted(k, c) })
}

func (r *opsResult) print(w io.Writer) {
	fmt.Fprintf(w, "%s on %s\n", r.Model, r.Device)
	fmt.Fprintf(w, "limits: read %.1f GB/s, products of int8 %.0f, bf16 %.0f, float %.0f GOP/s\n", r.Bandwidth/1e9,
		r.Peaks.Int8, r.Peaks.BF16, r.Peaks.Float)
	for _, s := range r.Steps {
		fmt.Fprintf(w, "\n%s: %.3f ms a step (%d steps), %.1f %% of it outside the device\n", s.Step, s.Milliseconds,
			s.Steps, 100*s.Outside)
		fmt.Fprintf(w, "  %-14s %6s %6s %6s %6s %10s %7s %8s %8s  %s\n", "operation", "rows", "in", "out", "calls",
			"µs each", "% step", "GB/s", "GOP/s", "of its limit")
		for _, o := range s.Ops {
			fmt.Fprintf(w, "  %-14s %6d %6d %6d %6.0f %10.1f %6.1f%% %8.1f %8.1f  %3.0f %% of %s\n",
				o.Op, o.Rows, o.In, o.Out, o.CallsPerStep, o.Micros, 100*o.StepShare, o.GBs, o.GOPs, 100*o.LimitShare,
				o.Limit)
		}
	}
}
