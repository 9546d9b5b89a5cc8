package jinja

import (
	"strings"
	"time"
	"unicode/utf8"
)

// evaluator is one rendering. It is used by one goroutine and thrown away.
type evaluator struct {
	lim       Limits
	steps     int
	nextClock int
	deadline  time.Time
	alloc     int
	depth     int
	now       func() time.Time
	context   map[string]any // the variables of the Input
	root      *writer
	spans     [][2]int
}

// scope holds what one block assigned; reads go up the parents, then to the input, then to the globals.
type scope struct {
	parent *scope
	vars   map[string]any
}

func (sc *scope) set(name string, v any) {
	if sc.vars == nil {
		sc.vars = map[string]any{}
	}
	sc.vars[name] = v
}

func (sc *scope) inner() *scope { return &scope{parent: sc} }

func (ev *evaluator) lookup(sc *scope, name string) any {
	for s := sc; s != nil; s = s.parent {
		if v, ok := s.vars[name]; ok {
			return v
		}
	}
	if v, ok := ev.context[name]; ok {
		return v
	}
	if f, ok := globals[name]; ok {
		return f
	}
	return &undefined{msg: "'" + name + "' is undefined"}
}

// writer collects output; runes is the number of characters in the first counted bytes.
type writer struct {
	b              strings.Builder
	counted, runes int
}

func (w *writer) write(ev *evaluator, s string) error {
	if err := ev.checkSize(w.b.Len() + len(s)); err != nil {
		return err
	}
	w.b.WriteString(s)
	return ev.grow(len(s))
}

// runeCount is the length so far in code points.
func (w *writer) runeCount() int {
	w.runes += utf8.RuneCountInString(w.b.String()[w.counted:])
	w.counted = w.b.Len()
	return w.runes
}

func (ev *evaluator) run(body []stmt, sc *scope, w *writer) (flow, error) {
	for _, s := range body {
		if err := ev.step(); err != nil {
			return flowNext, err
		}
		f, err := s.exec(ev, sc, w)
		if err != nil || f != flowNext {
			return f, err
		}
	}
	return flowNext, nil
}

// capture runs body into a string.
func (ev *evaluator) capture(body []stmt, sc *scope) (string, flow, error) {
	var w writer
	f, err := ev.run(body, sc, &w)
	return w.b.String(), f, err
}

// enter counts one level of calls; the returned function leaves it.
func (ev *evaluator) enter() error {
	if ev.depth++; ev.depth > ev.lim.MaxDepth {
		return ev.limit("MaxDepth", ev.lim.MaxDepth)
	}
	return nil
}

func (ev *evaluator) leave() { ev.depth-- }

func (s *textStmt) exec(ev *evaluator, _ *scope, w *writer) (flow, error) {
	return flowNext, w.write(ev, s.text)
}

func (s *outStmt) exec(ev *evaluator, sc *scope, w *writer) (flow, error) {
	v, err := s.x.eval(ev, sc)
	if err == nil {
		var text string
		if text, err = toStr(ev, v); err == nil {
			err = w.write(ev, text)
		}
	}
	return flowNext, locate(err, s.line)
}

func (s *ifStmt) exec(ev *evaluator, sc *scope, w *writer) (flow, error) {
	for i, c := range s.conds {
		v, err := c.eval(ev, sc)
		if err != nil {
			return flowNext, locate(err, s.line)
		}
		if truth(v) {
			return ev.run(s.bodies[i], sc, w)
		}
	}
	return ev.run(s.other, sc, w)
}

func (s *setStmt) exec(ev *evaluator, sc *scope, _ *writer) (flow, error) {
	v, err := s.value.eval(ev, sc)
	if err == nil {
		err = assign(ev, sc, sc, s.target, v)
	}
	return flowNext, locate(err, s.line)
}

// assign stores v in the names of target; namespaces are looked up in outer.
func assign(ev *evaluator, sc, outer *scope, target expr, v any) error {
	switch t := target.(type) {
	case *nameExpr:
		sc.set(t.name, v)
		return nil
	case *attrExpr:
		name := t.x.(*nameExpr).name
		ns, ok := ev.lookup(outer, name).(*namespace)
		if !ok {
			return &failure{kind: "TemplateRuntimeError", msg: "cannot assign attribute on non-namespace object"}
		}
		if err := checkStored(t.name); err != nil {
			return err
		}
		ns.attrs.Set(t.name, v)
		return ev.grow(16)
	}
	items := target.(*tupExpr).items
	vals, err := ev.collect(v)
	if err != nil {
		return err
	}
	if len(vals) != len(items) {
		return valueError("%d values cannot be unpacked into %d names", len(vals), len(items))
	}
	for i, x := range items {
		if err := assign(ev, sc, outer, x, vals[i]); err != nil {
			return err
		}
	}
	return nil
}

func (s *setBlockStmt) exec(ev *evaluator, sc *scope, _ *writer) (flow, error) {
	text, f, err := ev.capture(s.body, sc.inner())
	if err != nil || f != flowNext {
		return f, err
	}
	var v any = text
	if s.filter != nil {
		v, err = applyTo(ev, sc, s.filter, text)
	}
	if err == nil {
		err = assign(ev, sc, sc, s.target, v)
	}
	return flowNext, locate(err, s.line)
}

func (s *filterBlockStmt) exec(ev *evaluator, sc *scope, w *writer) (flow, error) {
	text, f, err := ev.capture(s.body, sc.inner())
	if err != nil || f != flowNext {
		return f, err
	}
	v, err := applyTo(ev, sc, s.filter, text)
	if err == nil {
		if text, err = plainText(v); err == nil {
			err = w.write(ev, text)
		}
	}
	return flowNext, locate(err, s.line)
}

// applyTo runs a chain of filters whose head has no operand on v.
func applyTo(ev *evaluator, sc *scope, chain expr, v any) (any, error) {
	f := chain.(*filterExpr)
	if f.x != nil {
		var err error
		if v, err = applyTo(ev, sc, f.x, v); err != nil {
			return nil, err
		}
	}
	return f.apply(ev, sc, v)
}

func (s *withStmt) exec(ev *evaluator, sc *scope, w *writer) (flow, error) {
	in := sc.inner()
	for i, x := range s.values {
		v, err := x.eval(ev, sc)
		if err == nil {
			err = assign(ev, in, sc, s.targets[i], v)
		}
		if err != nil {
			return flowNext, locate(err, s.line)
		}
	}
	return ev.run(s.body, in, w)
}

func (s *flowStmt) exec(*evaluator, *scope, *writer) (flow, error) { return s.flow, nil }

func (s *blockStmt) exec(ev *evaluator, sc *scope, w *writer) (flow, error) {
	if s.required {
		msg := "Required block '" + s.name + "' not found"
		return flowNext, &failure{kind: "TemplateRuntimeError", msg: msg, line: s.line}
	}
	for sc.parent != nil && !s.scoped { // others see the top level only
		sc = sc.parent
	}
	return ev.run(s.body, sc.inner(), w)
}

func (s *forStmt) exec(ev *evaluator, sc *scope, w *writer) (flow, error) {
	v, err := s.iter.eval(ev, sc)
	if err != nil {
		return flowNext, locate(err, s.line)
	}
	return s.over(ev, sc, w, v, 0)
}

// over runs the loop on an iterable; depth0 counts the recursive loop() calls around it.
func (s *forStmt) over(ev *evaluator, sc *scope, w *writer, v any, depth0 int) (flow, error) {
	lp := &loop{stmt: s, ev: ev, sc: sc, index0: -1, depth0: depth0, known: -1}
	var err error
	if lp.iter, err = iterate(v); err != nil {
		return flowNext, locate(err, s.line)
	}
	if s.test != nil {
		lp.iter = s.filtered(ev, sc, lp.iter)
	} else if n, err := length(v); err == nil {
		lp.known = n
	}
	empty := true
	for {
		ok, err := lp.advance()
		if err == nil {
			err = ev.step()
		}
		if err != nil {
			return flowNext, locate(err, s.line)
		}
		if !ok {
			break
		}
		in := sc.inner()
		in.set("loop", lp)
		if err = assign(ev, in, sc, s.target, lp.cur); err != nil {
			return flowNext, locate(err, s.line)
		}
		f, err := ev.run(s.body, in, w)
		if err != nil {
			return flowNext, err
		}
		if f == flowBreak {
			break
		}
		empty = empty && f == flowContinue // as in Jinja, a turn that ends early does not count against else
	}
	if empty {
		return ev.run(s.other, sc.inner(), w)
	}
	return flowNext, nil
}

// filtered passes on the items for which the loop's `if` holds, one at a time: the body may change what the next test
// sees.
func (s *forStmt) filtered(ev *evaluator, sc *scope, next nextFunc) nextFunc {
	return func() (any, bool, error) {
		for {
			x, ok, err := next()
			if err != nil || !ok {
				return nil, false, err
			}
			if err = ev.step(); err != nil {
				return nil, false, err
			}
			in := sc.inner()
			in.set("loop", &undefined{msg: "'loop' is undefined: a loop filter cannot use it"})
			if err = assign(ev, in, sc, s.target, x); err != nil {
				return nil, false, err
			}
			t, err := s.test.eval(ev, in)
			if err != nil {
				return nil, false, err
			}
			if truth(t) {
				return x, true, nil
			}
		}
	}
}
