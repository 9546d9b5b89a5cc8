package jinja

import (
	"errors"
	"fmt"
	"time"
)

// Limits bound what one rendering may cost. A zero field takes the value of DefaultLimits; going over one is an error
// that wraps ErrLimit and names the field.
type Limits struct {
	Time       time.Duration // wall clock of one Render
	MaxSteps   int           // evaluated nodes, loop turns and, in 64s, bytes touched by string functions
	MaxOutput  int           // bytes of the result and of any one string or list (16 bytes an element) made on the way
	MaxAlloc   int           // bytes made in total, garbage included
	MaxDepth   int           // nesting of macro calls, recursive loops and printed values
	MaxRange   int           // elements of one range(); Jinja's sandbox has the same number
	MaxIntBits int           // size of an integer
	MaxSource  int           // bytes of a template
	MaxNesting int           // nesting of blocks and expressions in a template
}

// DefaultLimits are far above what templates of released models need for a context of a million characters.
var DefaultLimits = Limits{
	Time: 5 * time.Second, MaxSteps: 20_000_000, MaxOutput: 32 << 20, MaxAlloc: 1 << 30, MaxDepth: 200,
	MaxRange:   100_000,
	MaxIntBits: 1 << 14, MaxSource: 1 << 20, MaxNesting: 200,
}

func (l Limits) withDefaults() Limits {
	fill := func(p *int, d int) {
		if *p <= 0 {
			*p = d
		}
	}
	d := DefaultLimits
	if l.Time <= 0 {
		l.Time = d.Time
	}
	fill(&l.MaxSteps, d.MaxSteps)
	fill(&l.MaxOutput, d.MaxOutput)
	fill(&l.MaxAlloc, d.MaxAlloc)
	fill(&l.MaxDepth, d.MaxDepth)
	fill(&l.MaxRange, d.MaxRange)
	fill(&l.MaxIntBits, d.MaxIntBits)
	fill(&l.MaxSource, d.MaxSource)
	fill(&l.MaxNesting, d.MaxNesting)
	return l
}

func (ev *evaluator) limit(name string, value any) error {
	return &limitError{name: name, value: value}
}

// step charges one unit of work and looks at the clock now and then.
func (ev *evaluator) step() error { return ev.work(1) }

// work charges n units.
func (ev *evaluator) work(n int) error {
	ev.steps += n
	if ev.steps > ev.lim.MaxSteps {
		return ev.limit("MaxSteps", ev.lim.MaxSteps)
	}
	if ev.steps >= ev.nextClock {
		ev.nextClock = ev.steps + 2048
		if time.Now().After(ev.deadline) {
			return ev.limit("Time", ev.lim.Time)
		}
	}
	return nil
}

// scan charges for reading n bytes.
func (ev *evaluator) scan(n int) error { return ev.work(n >> 6) }

func (ev *evaluator) checkSize(n int) error {
	if n > ev.lim.MaxOutput {
		return ev.limit("MaxOutput", ev.lim.MaxOutput)
	}
	return nil
}

// grow charges for making n bytes.
func (ev *evaluator) grow(n int) error {
	if err := ev.checkSize(n); err != nil {
		return err
	}
	ev.alloc += n
	if ev.alloc > ev.lim.MaxAlloc {
		return ev.limit("MaxAlloc", ev.lim.MaxAlloc)
	}
	return ev.work(n >> 6)
}

// collect drains an iterable into a slice within the limits.
func (ev *evaluator) collect(v any) ([]any, error) {
	switch v := v.(type) {
	case []any:
		return v, ev.grow(16)
	case Tuple:
		return v, ev.grow(16)
	}
	next, err := iterate(v)
	if err != nil {
		return nil, err
	}
	out := []any{}
	for {
		x, ok, err := next()
		if err != nil || !ok {
			return out, err
		}
		if err := ev.grow(16); err != nil {
			return nil, err
		}
		if out = append(out, x); len(out)*16 > ev.lim.MaxOutput {
			return nil, ev.limit("MaxOutput", ev.lim.MaxOutput)
		}
	}
}

// ErrTemplate is wrapped by every error of parsing or rendering: the template or what it was given is wrong.
var ErrTemplate = errors.New("template")

// ErrLimit is wrapped (beside ErrTemplate) by errors that say a named limit of Limits was exceeded.
var ErrLimit = errors.New("limit exceeded")

// RaisedError is a refusal that the template itself expressed with raise_exception; Message is its text, meant for the
// client.
type RaisedError struct {
	Message string
	Line    int
}

// Error returns the template's own message.
func (e *RaisedError) Error() string { return e.Message }

// Unwrap returns ErrTemplate.
func (e *RaisedError) Unwrap() error { return ErrTemplate }

// failure is an error with the Python class that Jinja would have raised and the line in the template.
type failure struct {
	kind, msg string
	line      int
}

func (f *failure) Error() string {
	if f.line == 0 {
		return fmt.Sprintf("%v: %s: %s", ErrTemplate, f.kind, f.msg)
	}
	return fmt.Sprintf("%v: line %d: %s: %s", ErrTemplate, f.line, f.kind, f.msg)
}

func (f *failure) Unwrap() error { return ErrTemplate }

type limitError struct {
	name  string
	value any
	line  int
}

func (e *limitError) Error() string {
	return fmt.Sprintf("%v: line %d: %v: %s (%v)", ErrTemplate, e.line, ErrLimit, e.name, e.value)
}

func (e *limitError) Unwrap() []error { return []error{ErrTemplate, ErrLimit} }

func typeError(format string, a ...any) error {
	return &failure{kind: "TypeError", msg: fmt.Sprintf(format, a...)}
}

func valueError(format string, a ...any) error {
	return &failure{kind: "ValueError", msg: fmt.Sprintf(format, a...)}
}

func syntaxError(line int, format string, a ...any) error {
	return &failure{kind: "TemplateSyntaxError", msg: fmt.Sprintf(format, a...), line: line}
}

// locate adds the line to an error that has none yet.
func locate(err error, line int) error {
	var f *failure
	var l *limitError
	var r *RaisedError
	switch {
	case errors.As(err, &f) && f.line == 0:
		f.line = line
	case errors.As(err, &l) && l.line == 0:
		l.line = line
	case errors.As(err, &r) && r.Line == 0:
		r.Line = line
	}
	return err
}
