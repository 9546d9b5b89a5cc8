// Package jinja renders Jinja templates as transformers runs them: the immutable sandbox with trim_blocks,
// lstrip_blocks, break and continue, the generation tag, tojson in insertion order, raise_exception and strftime_now.
//
// The lexer and the parser make a syntax tree (ast.go), eval*.go walks it under Limits. Values are plain data
// (value.go); a template can reach nothing else, and neither files nor other templates. The package does not depend on
// the format of messages. Source of the semantics: Jinja 3.1 and Python 3 as documented, checked against recorded
// renderings.
package jinja

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Template is a parsed template. It is immutable and safe for use by many goroutines.
type Template struct {
	source string
	body   []stmt
	limits Limits
}

// Parse reads a template under DefaultLimits. Errors wrap ErrTemplate and name the line.
func Parse(src string) (*Template, error) { return ParseLimits(src, Limits{}) }

// ParseLimits is Parse with other limits, for the parse and for every rendering.
func ParseLimits(src string, lim Limits) (*Template, error) {
	lim = lim.withDefaults()
	if len(src) > lim.MaxSource {
		return nil, &limitError{name: "MaxSource", value: lim.MaxSource}
	}
	if !utf8.ValidString(src) {
		return nil, syntaxError(0, "the template is not valid UTF-8")
	}
	toks, err := lex(src)
	if err != nil {
		return nil, err
	}
	p := &parser{toks: toks, max: lim.MaxNesting}
	body, err := p.body()
	if err != nil {
		return nil, err
	}
	if err := checkNames(body, false); err != nil {
		return nil, err
	}
	return &Template{src, body, lim}, nil
}

// checkNames refuses filters and tests that do not exist. Inside an `if` they fail only when reached, as in Jinja.
func checkNames(nodes []stmt, soft bool) error {
	for _, n := range nodes {
		if err := checkNode(n, soft); err != nil {
			return err
		}
	}
	return nil
}

func checkNode(node any, soft bool) error {
	if isNilNode(node) {
		return nil
	}
	switch n := node.(type) {
	case *filterExpr:
		if _, ok := filters[n.name]; !ok && !soft {
			return &failure{kind: "TemplateAssertionError", msg: "No filter named '" + n.name + "'.", line: n.line}
		}
	case *testExpr:
		if _, ok := isTests[n.name]; !ok && !soft {
			return &failure{kind: "TemplateAssertionError", msg: "No test named '" + n.name + "'.", line: n.line}
		}
	case *ifStmt, *condExpr:
		soft = true
	case *forStmt, *macroStmt, *setBlockStmt, *filterBlockStmt, *withStmt, *blockStmt:
		soft = false
	}
	for _, c := range children(node) {
		if err := checkNode(c, soft); err != nil {
			return err
		}
	}
	return nil
}

// Options are what a rendering takes besides its variables.
type Options struct {
	Now func() time.Time // the clock of strftime_now; nil: time.Now
}

// Render returns the text, and where in it the output of each {% generation %} block lies: [start, end) in code points,
// in the order of rendering. The values of variables are what FromGo takes; nothing in them is changed. A refusal by
// raise_exception is a *RaisedError; every error wraps ErrTemplate, and one of a limit ErrLimit too.
func (t *Template) Render(variables map[string]any, opt Options) (text string, spans [][2]int, err error) {
	ev := newEvaluator(t.limits)
	ev.now, ev.context = opt.Now, make(map[string]any, len(variables))
	for name, v := range variables {
		if ev.context[name], err = FromGo(v); err != nil {
			return "", nil, fmt.Errorf("%w: variable %s: %w", ErrTemplate, name, err)
		}
	}
	var w writer
	ev.root = &w
	if _, err := ev.run(t.body, &scope{}, &w); err != nil {
		return "", nil, err
	}
	return w.b.String(), ev.spans, nil
}

func newEvaluator(lim Limits) *evaluator {
	return &evaluator{lim: lim, deadline: time.Now().Add(lim.Time)}
}

// Mentions says whether the source contains the text anywhere.
func (t *Template) Mentions(text string) bool { return strings.Contains(t.source, text) }

// IteratesAttribute says whether a loop walks over an attribute or item of that name, directly or through a variable
// that was set from one.
func (t *Template) IteratesAttribute(name string) bool {
	vars := map[string]bool{}
	found := false
	for _, s := range t.body {
		walk(s, func(n any) {
			switch n := n.(type) {
			case *setStmt:
				if target, ok := n.target.(*nameExpr); ok && isAttribute(n.value, name, vars) {
					vars[target.name] = true
				}
			case *forStmt:
				found = found || isAttribute(n.iter, name, vars)
			}
		})
	}
	return found
}

// isAttribute sees x.name, x['name'] and variables holding one, also behind filters and slices.
func isAttribute(x expr, name string, vars map[string]bool) bool {
	switch n := x.(type) {
	case *attrExpr:
		return n.name == name
	case *itemExpr:
		switch k := n.key.(type) {
		case *constExpr:
			return k.v == name
		case *sliceExpr:
			return isAttribute(n.x, name, vars)
		}
	case *filterExpr:
		return (n.name == "list" || n.name == "selectattr" || n.name == "rejectattr" || n.name == "reverse") &&
			isAttribute(n.x, name, vars)
	case *nameExpr:
		return vars[n.name]
	}
	return false
}
