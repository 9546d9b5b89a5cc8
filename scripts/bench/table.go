package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// row is one line of the table: figures of rounds in which weft and the baseline were measured in turn.
type row struct {
	what, unit, note string
	goal             float64 // of the ratio weft/baseline; 0: none
	limit            float64 // of weft alone, where there is no ratio
	less             bool    // less is better
	weft, baseline   []float64
}

func (s *suite) add(r row) {
	s.rows = append(s.rows, r)
	log.Print(r.String())
}

func median(xs []float64) float64 {
	x := slices.Sorted(slices.Values(xs))
	if len(x) == 0 {
		return 0
	}
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

// ratios returns weft/baseline of each round.
func (r *row) ratios() []float64 {
	var out []float64
	for i := range min(len(r.weft), len(r.baseline)) {
		out = append(out, r.weft[i]/r.baseline[i])
	}
	return out
}

func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func (r row) String() string {
	sign := "≥"
	if r.less {
		sign = "≤"
	}
	goal, baseline, ratio, reached := "", "", "", ""
	value, bound := median(r.weft), r.limit
	if q := r.ratios(); len(q) > 0 {
		value, bound = median(q), r.goal
		baseline = number(median(r.baseline))
		ratio = fmt.Sprintf("**%.2f** (%.2f–%.2f)", value, slices.Min(q), slices.Max(q))
	} else if r.limit == 0 {
		bound = 0
	}
	if bound > 0 {
		goal = fmt.Sprintf("%s %s", sign, strings.TrimSuffix(fmt.Sprintf("%.2f", bound), ".00"))
		reached = "yes"
		if r.less && value > bound || !r.less && value < bound {
			reached = "**no**"
		}
	}
	return fmt.Sprintf("| %s | %s %s | %s | %s | %s | %s | %s |", r.what, number(median(r.weft)), r.unit, baseline,
		ratio, goal, reached, r.note)
}

func (s *suite) write(ctx context.Context, w io.Writer) error {
	output := func(name string, args ...string) string {
		out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
		if err != nil {
			return "unknown"
		}
		line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return line
	}
	page, baseline := parts[s.part], cmp.Or(s.baselineName, "none")
	if s.baseline != "" {
		baseline = output(filepath.Join(s.baseline, "llama-bench"), "--version")
		if v, err := os.ReadFile(filepath.Join(s.baseline, "..", "VERSION")); err == nil {
			baseline, _, _ = strings.Cut(string(v), "\n")
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	_, err := fmt.Fprintf(w, `# %s

Made by %s, which measures weft and the baseline in turn, %d rounds, on %d threads, with nothing else running; a
figure is the median of the rounds, a ratio the median (smallest to largest) of the rounds' own ratios. %s

%s · weft %s · %s · baseline: %s · %s · load average at the end %s

| what | weft | baseline | ratio | goal | reached | note |
|---|---|---|---|---|---|---|
`, page.title, "`"+page.command+"`", s.rounds, s.threads, page.how, processor(),
		strings.TrimPrefix(output(s.weft, "version"), "weft "), runtime.Version(), baseline,
		time.Now().UTC().Format("2006-01-02"), strings.Join(strings.Fields(string(load))[:1], ""))
	if err != nil {
		return err
	}
	for _, r := range s.rows {
		if _, err := fmt.Fprintln(w, r); err != nil {
			return err
		}
	}
	return nil
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}
