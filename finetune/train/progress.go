package train

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"weft/internal/bytesize"
	"weft/internal/terminal"
)

// Progress shows a run: on a terminal one line that each step rewrites, elsewhere log lines. Its methods are a Job's
// OnBegin, OnStep and OnEval.
type Progress struct {
	w        io.Writer
	log      *slog.Logger
	terminal bool
	every    int
	seconds  float64
	tokens   int
	steps    int // of this process; a resumed run made others before
	width    int
}

// NewProgress shows a run on w where that is a terminal, else logs every so many steps, at least 1.
func NewProgress(w io.Writer, log *slog.Logger, every int) *Progress {
	return &Progress{w: w, log: log, terminal: terminal.Is(w), every: every}
}

// Begin writes how many parameters are trained of how many, and the memory that the run is planned to take.
func (p *Progress) Begin(trainable, all int64, bytes int64) {
	line := fmt.Sprintf("trainable params: %s || all params: %s || trainable%%: %.4f || %s", thousands(trainable),
		thousands(all), 100*float64(trainable)/float64(all), bytesize.Format(bytes))
	fmt.Fprintln(p.w, line)
}

// Step shows a step with the mean speed and the time left.
func (p *Progress) Step(s StepInfo) {
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

// Eval logs the loss of an evaluation.
func (p *Progress) Eval(step int, loss float64) {
	p.End()
	p.log.Info("evaluation", "step", step, "loss", fmt.Sprintf("%.4f", loss))
}

// End ends the line of a terminal.
func (p *Progress) End() {
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
