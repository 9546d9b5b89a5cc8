package bench

import (
	"fmt"
	"io"

	"weft/internal/bytesize"
)

// WriteText writes r as text.
func (r *Result) WriteText(w io.Writer) {
	fmt.Fprintf(w, "%s on %s, %d stream(s), median of %d runs (min to max)\n", r.Model, r.Device, r.Streams,
		r.Runs)
	fmt.Fprintf(w, "prefill of %4d tokens  %9.1f tokens/s  (%.1f to %.1f)\n", r.Prompt, r.Prefill,
		r.PrefillSpread.Min, r.PrefillSpread.Max)
	fmt.Fprintf(w, "decode of  %4d tokens  %9.1f tokens/s  (%.1f to %.1f)\n", r.Gen, r.Decode,
		r.DecodeSpread.Min, r.DecodeSpread.Max)
	fmt.Fprintf(w,
		"a decode step reads %s of weights; at %.1f GB/s measured that is %.0f %% of the bandwidth\n",
		bytesize.Format(r.BytesPerToken), r.ReadBandwidth/1e9, 100*r.BandwidthFraction)
	fmt.Fprintf(w, "load %.2f s, start to first token %.2f s\n", r.LoadSeconds, r.FirstTokenSeconds)
}

// WriteText writes r as text.
func (r *OpsResult) WriteText(w io.Writer) {
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
				o.Op, o.Rows, o.In, o.Out, o.CallsPerStep, o.Micros,
				100*o.StepFraction, o.GBs, o.GOPs, 100*o.LimitFraction,
				o.Limit)
		}
	}
}
