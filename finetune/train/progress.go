package train

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"weft/finetune/data"
	"weft/internal/bytesize"
	"weft/internal/terminal"
)

// Progress shows a run: on a terminal one line that each step rewrites, elsewhere log lines. Its methods are a Job's
// OnBegin, OnStep and OnEval. Log lines that are written through it while the line is shown replace it, and the next
// step shows it again. Its methods may be called concurrently.
type Progress struct {
	Log *slog.Logger // for steps and evaluations; may write to the Progress itself

	mu       sync.Mutex
	w        io.Writer
	terminal bool
	columns  func() int // of the terminal, 0: unknown
	every    int
	seconds  float64
	tokens   int
	steps    int // of this process; a resumed run made others before
	width    int // of the line that is shown
}

// NewProgress shows a run on w where that is a terminal, else logs every so many steps, at least 1. Log discards.
func NewProgress(w io.Writer, every int) *Progress {
	return &Progress{Log: slog.New(slog.DiscardHandler), w: w, terminal: terminal.Is(w), every: every,
		columns: func() int { return terminal.Width(w) }}
}

// Write writes whole lines, such as those of a log, in place of the line that is shown.
func (p *Progress) Write(lines []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.width > 0 {
		fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", p.width))
		p.width = 0
	}
	return p.w.Write(lines)
}

// Begin writes how many parameters are trained of how many, and the memory that the run is planned to take.
func (p *Progress) Begin(trainable, all int64, bytes int64) {
	line := fmt.Sprintf("trainable params: %s || all params: %s || trainable%%: %.4f || %s\n", thousands(trainable),
		thousands(all), 100*float64(trainable)/float64(all), bytesize.Format(bytes))
	_, _ = p.Write([]byte(line))
}

// Step shows a step with the mean speed and the time left.
func (p *Progress) Step(s StepInfo) {
	p.mu.Lock()
	p.seconds += s.Seconds
	p.tokens += s.Tokens
	p.steps++
	rate := float64(p.tokens) / max(p.seconds, 1e-9)
	left := time.Duration(p.seconds / float64(p.steps) * float64(s.Total-s.Step) * float64(time.Second)).Round(
		time.Second)
	if p.terminal {
		p.show(line(s, rate, left, p.columns()))
	}
	p.mu.Unlock()
	if !p.terminal && (s.Step%p.every == 0 || s.Step == s.Total) {
		with := []any{"step", s.Step, "of", s.Total, "epoch", fmt.Sprintf("%.2f", s.Epoch), "loss",
			fmt.Sprintf("%.4f", s.Loss), "grad_norm", fmt.Sprintf("%.4f", s.GradNorm),
			"lr", fmt.Sprintf("%.3g", s.LR), "tokens_per_second", fmt.Sprintf("%.0f", rate), "left", left}
		if s.LossScale > 0 {
			with = append(with, "loss_scale", s.LossScale)
		}
		p.Log.Info("step", with...)
	}
}

// show replaces the line that is shown.
func (p *Progress) show(line string) {
	fmt.Fprintf(p.w, "\r%-*s", p.width, line)
	if rest := p.width - len(line); rest > 0 {
		fmt.Fprint(p.w, strings.Repeat("\b", rest))
	}
	p.width = len(line)
}

// defaultColumns is the width of a terminal that does not say it.
const defaultColumns = 80

// line is a step in ASCII, in fewer characters than the terminal has columns, so that it never wraps: a bar where there
// is room for one, and of the values as many as fit, the first ones first.
func line(s StepInfo, rate float64, left time.Duration, columns int) string {
	if columns <= 0 {
		columns = defaultColumns
	}
	text := fmt.Sprintf("%d/%d", s.Step, s.Total)
	for _, part := range []string{fmt.Sprintf(" loss %.4f", s.Loss), fmt.Sprintf(" %s left", left),
		fmt.Sprintf(" %.0f tokens/s", rate), fmt.Sprintf(" lr %.2g", s.LR)} {
		if len(text)+len(part) < columns {
			text += part
		}
	}
	cells := min(24, columns-len(text)-len("[] ")-1)
	if cells < 4 {
		return text[:min(len(text), columns-1)]
	}
	done := min(cells, cells*s.Step/max(s.Total, 1))
	return fmt.Sprintf("[%s%s] %s", strings.Repeat("=", done), strings.Repeat(" ", cells-done), text)
}

// Eval logs the loss of an evaluation.
func (p *Progress) Eval(step int, loss float64) {
	p.End()
	p.Log.Info("evaluation", "step", step, "loss", fmt.Sprintf("%.4f", loss))
}

// End ends the line of a terminal.
func (p *Progress) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.width > 0 {
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

// sayEvery is how often the reading of the data says how far it is.
const sayEvery = 3 * time.Second

// Reading returns a Files.Progress that prints to w how far the reading is, unless it is short.
func Reading(w io.Writer, now func() time.Time) func(data.Progress) {
	last := now()
	return func(p data.Progress) {
		if now().Sub(last) < sayEvery {
			return
		}
		last = now()
		of := ""
		if p.Size > 0 {
			of = fmt.Sprintf(" of %d", p.Size>>20)
		}
		fmt.Fprintf(w, "reading %s: %d records, %d%s MiB\n", p.Path, p.Records, p.Bytes>>20, of)
	}
}
