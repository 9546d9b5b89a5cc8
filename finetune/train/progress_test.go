package train

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func progressTo(out *strings.Builder, onTerminal bool, columns int) *Progress {
	p := NewProgress(out, 1)
	p.Log = slog.New(slog.NewTextHandler(p, nil))
	p.terminal, p.columns = onTerminal, func() int { return columns }
	return p
}

// Both kinds of progress show loss, tokens a second and the time left; that of a resumed run counts its own steps.
func TestProgress(t *testing.T) {
	for _, onTerminal := range []bool{true, false} {
		var out strings.Builder
		p := progressTo(&out, onTerminal, 100)
		for step := 91; step <= 93; step++ {
			p.Step(StepInfo{Step: step, Total: 100, Loss: 1.25, LR: 1e-3, Tokens: 300, Seconds: 2})
		}
		p.Eval(93, 2.5)
		p.End()
		want := []string{"step=93 of=100", "loss=1.2500", "tokens_per_second=150", "left=14s",
			"msg=evaluation step=93 loss=2.5000"}
		if onTerminal {
			want = []string{"\r[======================  ] 93/100 loss 1.2500 14s left 150 tokens/s lr 0.001\n",
				"loss=2.5000\n"}
		}
		for _, part := range want {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%q, want %q", out.String(), part)
			}
		}
		if newlines := strings.Count(out.String(), "\n"); onTerminal && newlines != 2 {
			t.Errorf("%d lines on a terminal, want 2: %q", newlines, out.String())
		}
	}
}

// screen is what a terminal of some columns shows after the bytes: lines wrap at the edge.
func screen(text string, columns int) []string {
	lines, at := []string{strings.Repeat(" ", columns)}, 0
	for _, c := range text {
		switch c {
		case '\r':
			at = 0
		case '\n':
			lines, at = append(lines, strings.Repeat(" ", columns)), 0
		case '\b':
			at = max(0, at-1)
		default:
			if at == columns {
				lines, at = append(lines, strings.Repeat(" ", columns)), 0
			}
			last := []rune(lines[len(lines)-1])
			last[at] = c
			lines[len(lines)-1] = string(last)
			at++
		}
	}
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return lines
}

// On a terminal of any width the line of a step stays one line that is not full, shows step and total, and leaves
// nothing of a longer one; a log line in between is whole.
func TestProgressFitsTheTerminal(t *testing.T) {
	for columns := range 160 {
		var out strings.Builder
		p := progressTo(&out, true, columns)
		wide := columns
		if columns == 0 {
			wide = 80
		}
		for _, s := range []StepInfo{{Step: 1, Total: 1_000_000, Loss: 123456.789, LR: 1.2345e-7, Tokens: 1 << 20,
			Seconds: 1e-3},
			{Step: 2, Total: 1_000_000, Loss: 1, LR: 1, Tokens: 1, Seconds: 1e5}, {Step: 7, Total: 9, Loss: 1,
				Seconds: 1}} {
			p.Step(s)
			seen := screen(out.String(), max(wide, 1))
			shown := seen[len(seen)-1]
			if len(seen) != 1 || len(shown) >= max(wide, 1) {
				t.Fatalf("%d columns: %d lines, the last of %d", columns, len(seen), len(shown))
			}
			if counts := fmt.Sprintf("%d/%d", s.Step, s.Total); wide > len(counts) && !strings.Contains(shown, counts) {
				t.Errorf("%d columns: %q does not show %s", columns, shown, counts)
			}
			if strings.Contains(shown, "]") && !strings.HasPrefix(shown, "[") {
				t.Errorf("%d columns: half a bar: %q", columns, shown)
			}
		}
		if wide < 80 {
			continue
		}
		p.Log.Info("a request")
		p.Step(StepInfo{Step: 8, Total: 9, Loss: 1, Seconds: 1})
		if seen := screen(out.String(), 200); len(seen) != 2 || !strings.HasPrefix(seen[0], "time=") ||
			!strings.HasSuffix(seen[0], "a request\"") || !strings.Contains(seen[1], "8/9 loss 1.0000") {
			t.Errorf("%d columns, with a log line: %q", columns, seen)
		}
	}
}

func TestLine(t *testing.T) {
	s := StepInfo{Step: 5, Total: 10, Loss: 2.5, LR: 2e-4}
	for columns, want := range map[int]string{
		80: "[============            ] 5/10 loss 2.5000 1m0s left 150 tokens/s lr 0.0002",
		60: "[===    ] 5/10 loss 2.5000 1m0s left 150 tokens/s lr 0.0002",
		50: "5/10 loss 2.5000 1m0s left 150 tokens/s lr 0.0002",
		40: "5/10 loss 2.5000 1m0s left 150 tokens/s",
		20: "5/10 loss 2.5000",
		3:  "5/",
	} {
		if got := line(s, 150, time.Minute, columns); got != want {
			t.Errorf("%d columns: %q, want %q", columns, got, want)
		}
	}
}
