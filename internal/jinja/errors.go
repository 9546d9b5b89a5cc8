package jinja

import (
	"errors"
	"fmt"
)

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
