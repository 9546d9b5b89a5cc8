package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-isatty"

	"weft/finetune/train"
)

// progress shows a run: a line that is written over on a terminal, log lines elsewhere.
type progress struct {
	w        io.Writer
	log      *slog.Logger
	terminal bool
	every    int
	seconds  float64
	tokens   int
	steps    int // of this process; a resumed run made others before
	width    int
}

func newProgress(w io.Writer, log *slog.Logger, every int) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, log: log, terminal: ok && isatty.IsTerminal(f.Fd()), every: every}
}

func (p *progress) begin(trainable, all int64, bytes int64) {
	line := fmt.Sprintf("trainable params: %s || all params: %s || trainable%%: %.4f || %s", thousands(trainable),
		thousands(all), 100*float64(trainable)/float64(all), formatBytes(bytes))
	fmt.Fprintln(p.w, line)
}

func (p *progress) step(s train.StepInfo) {
	p.seconds += s.Seconds
	p.tokens += s.Tokens
	p.steps++
	rate := float64(p.tokens) / max(p.seconds, 1e-9)
	left := time.Duration(p.seconds / float64(p.steps) * float64(s.Total-s.Step) * float64(time.Second)).Round(
		time.Second)
	if !p.terminal {
		if s.Step%p.every == 0 || s.Step == s.Total {
			with := []any{"step", s.Step, "of", s.Total, "epoch", fmt.Sprintf("%.2f", s.Epoch), "loss",
				fmt.Sprintf("%.4f", s.Loss), "grad_norm", fmt.Sprintf("%.4f", s.GradNorm),
				"lr", fmt.Sprintf("%.3g", s.LR), "tokens_per_second", fmt.Sprintf("%.0f", rate), "left", left}
			if s.LossScale > 0 {
				with = append(with, "loss_scale", s.LossScale)
			}
			p.log.Info("step", with...)
		}
		return
	}
	const cells = 24
	done := cells * s.Step / max(s.Total, 1)
	line := fmt.Sprintf("[%s%s] %d/%d loss %.4f lr %.2g %.0f tokens/s, %s left", strings.Repeat("=", done),
		strings.Repeat(" ", cells-done), s.Step, s.Total, s.Loss, s.LR, rate, left)
	fmt.Fprintf(p.w, "\r%-*s", p.width, line)
	p.width = len(line)
}

func (p *progress) eval(step int, loss float64) {
	p.end()
	p.log.Info("evaluation", "step", step, "loss", fmt.Sprintf("%.4f", loss))
}

// end leaves the line that is written over.
func (p *progress) end() {
	if p.terminal && p.width > 0 {
		fmt.Fprintln(p.w)
		p.width = 0
	}
}

func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
