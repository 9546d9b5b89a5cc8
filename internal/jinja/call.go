package jinja

import (
	"slices"
	"strings"
)

// callArgs are evaluated arguments.
type callArgs struct {
	pos   []any
	names []string
	named []any
}

// absent marks an optional argument that was not given.
type absent struct{}

func given(v any) bool { return v != absent{} }

func (a argList) eval(ev *evaluator, sc *scope) (callArgs, error) {
	var out callArgs
	var err error
	if err = ev.step(); err != nil {
		return out, err
	}
	if out.pos, err = evalAll(ev, sc, a.pos); err != nil {
		return out, err
	}
	for i, x := range a.named {
		v, err := x.eval(ev, sc)
		if err != nil {
			return out, err
		}
		if slices.Contains(out.names, a.names[i]) {
			return out, typeError("keyword argument repeated: %s", a.names[i])
		}
		out.names, out.named = append(out.names, a.names[i]), append(out.named, v)
	}
	if a.star != nil {
		v, err := a.star.eval(ev, sc)
		if err != nil {
			return out, err
		}
		more, err := ev.collect(v)
		if err != nil {
			return out, err
		}
		out.pos = append(out.pos, more...)
	}
	if a.kwstar == nil {
		return out, nil
	}
	v, err := a.kwstar.eval(ev, sc)
	if err != nil {
		return out, err
	}
	m, ok := v.(*Map)
	if !ok {
		return out, typeError("argument after ** must be a mapping, not %s", typeName(v))
	}
	for i, k := range m.keys {
		name, ok := k.(string)
		if !ok || slices.Contains(out.names, name) {
			return out, typeError("bad or repeated keyword after **")
		}
		out.names, out.named = append(out.names, name), append(out.named, m.vals[i])
	}
	return out, nil
}

// bind matches the arguments to the parameters in spec, separated by spaces; a name with ? may be left out and is then
// absent.
func (a callArgs) bind(fn, spec string) ([]any, error) {
	params := strings.Fields(spec)
	if len(a.pos) > len(params) {
		return nil, typeError("%s() takes at most %d arguments (%d given)", fn, len(params), len(a.pos))
	}
	out := make([]any, len(params))
	for i := range params {
		out[i] = absent{}
	}
	copy(out, a.pos)
	for i, name := range a.names {
		k := slices.IndexFunc(params, func(p string) bool { return strings.TrimSuffix(p, "?") == name })
		if k < 0 {
			return nil, typeError("%s() got an unexpected keyword argument '%s'", fn, name)
		}
		if given(out[k]) {
			return nil, typeError("%s() got multiple values for argument '%s'", fn, name)
		}
		out[k] = a.named[i]
	}
	for i, p := range params {
		if !given(out[i]) && !strings.HasSuffix(p, "?") {
			return nil, typeError("%s() missing required argument '%s'", fn, p)
		}
	}
	return out, nil
}

// call calls any value.
func (ev *evaluator) call(fn any, a callArgs) (any, error) {
	switch f := fn.(type) {
	case *function:
		return f.call(ev, a)
	case *macro:
		return f.call(ev, a)
	case *loop:
		return f.call(ev, a)
	case *undefined:
		return nil, f.err()
	}
	return nil, typeError("'%s' object is not callable", typeName(fn))
}

// macro is a {% macro %} together with the scope it was defined in.
type macro struct {
	node *macroStmt
	sc   *scope
}

func (m *macro) attr(name string) (any, bool) {
	switch name {
	case "name":
		return m.node.name, true
	case "arguments":
		out := Tuple{}
		for _, p := range m.node.params {
			out = append(out, p)
		}
		return out, true
	case "catch_kwargs":
		return m.node.usesKwds, true
	case "catch_varargs":
		return m.node.usesVarargs, true
	case "caller":
		return m.node.usesCaller, true
	}
	return nil, false
}

func (m *macro) call(ev *evaluator, a callArgs) (any, error) {
	if err := ev.enter(); err != nil {
		return nil, err
	}
	defer ev.leave()
	in := m.sc.inner()
	if err := m.bind(ev, in, a); err != nil {
		return nil, err
	}
	text, _, err := ev.capture(m.node.body, in)
	return text, err
}

// bind sets the parameters in the macro's scope; defaults are evaluated there, so they see the parameters before them.
func (m *macro) bind(ev *evaluator, in *scope, a callArgs) error {
	n := m.node
	rest := NewMap()
	for i, name := range a.names {
		rest.Set(name, a.named[i])
	}
	take := func(name string) (any, bool) {
		v, ok := rest.Get(name)
		if ok {
			rest.remove(name)
		}
		return v, ok
	}
	explicit := slices.Contains(n.params, "caller")
	for i, p := range n.params {
		if i < len(a.pos) {
			in.set(p, a.pos[i])
			continue
		}
		v, ok := take(p)
		if !ok {
			v = &undefined{msg: "parameter '" + p + "' was not provided"}
			if d := i - (len(n.params) - len(n.defaults)); d >= 0 {
				var err error
				if v, err = n.defaults[d].eval(ev, in); err != nil {
					return err
				}
			}
		}
		in.set(p, v)
	}
	if n.usesCaller && !explicit {
		c, ok := take("caller")
		if !ok {
			c = &undefined{msg: "No caller defined"}
		}
		in.set("caller", c)
	}
	if n.usesKwds {
		in.set("kwargs", rest)
	} else if rest.Len() > 0 {
		return typeError("macro '%s' takes no keyword argument '%v'", n.name, rest.keys[0])
	}
	if n.usesVarargs {
		in.set("varargs", Tuple(a.pos[min(len(n.params), len(a.pos)):]))
	} else if len(a.pos) > len(n.params) {
		return typeError("macro '%s' takes not more than %d argument(s)", n.name, len(n.params))
	}
	return nil
}

func (s *macroStmt) exec(_ *evaluator, sc *scope, _ *writer) (flow, error) {
	sc.set(s.name, &macro{s, sc})
	return flowNext, nil
}

func (s *callStmt) exec(ev *evaluator, sc *scope, w *writer) (flow, error) {
	fn, err := s.call.fn.eval(ev, sc)
	if err != nil {
		return flowNext, locate(err, s.line)
	}
	a, err := s.call.args.eval(ev, sc)
	if err != nil {
		return flowNext, locate(err, s.line)
	}
	a.names, a.named = append(a.names, "caller"), append(a.named, &macro{s.body, sc})
	v, err := ev.call(fn, a)
	if err == nil {
		var text string
		if text, err = toStr(ev, v); err == nil {
			err = w.write(ev, text)
		}
	}
	return flowNext, locate(err, s.line)
}

// exec records where the tag's text begins and ends, counted from what the template's top level has written so far.
func (s *generationStmt) exec(ev *evaluator, sc *scope, w *writer) (flow, error) {
	text, _, err := ev.capture(s.body.body, sc.inner())
	if err != nil {
		return flowNext, locate(err, s.line)
	}
	start := ev.root.runeCount()
	if err = ev.scan(len(text)); err != nil {
		return flowNext, locate(err, s.line)
	}
	ev.spans = append(ev.spans, [2]int{start, start + runeLen(text)})
	return flowNext, locate(w.write(ev, text), s.line)
}

// loop is the variable loop inside a for block.
type loop struct {
	stmt      *forStmt
	ev        *evaluator
	sc        *scope
	iter      nextFunc
	known     int // total, -1 until it is known
	index0    int
	depth0    int
	prev, cur any
	after     any
	hasAfter  bool
	changed   []any
	hasChange bool
}

// advance moves to the next item.
func (l *loop) advance() (bool, error) {
	x, ok, err := l.peek()
	if err != nil || !ok {
		return false, err
	}
	l.hasAfter, l.after = false, nil
	l.prev, l.cur = l.cur, x
	l.index0++
	return true, nil
}

func (l *loop) peek() (any, bool, error) {
	if l.hasAfter {
		return l.after, true, nil
	}
	x, ok, err := l.iter()
	l.after, l.hasAfter = x, ok && err == nil
	return x, ok, err
}

// length drains a filtered iterator when it must, as Jinja does.
func (l *loop) length() (int, error) {
	if l.known >= 0 {
		return l.known, nil
	}
	rest := []any{}
	for {
		x, ok, err := l.iter()
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
		if err = l.ev.grow(16); err != nil {
			return 0, err
		}
		rest = append(rest, x)
	}
	l.known = l.index0 + 1 + len(rest) + int(boolInt(l.hasAfter))
	l.iter = iterSlice(rest)
	return l.known, nil
}

func (l *loop) attr(name string) (any, bool) {
	lazy := func(f func() (any, error)) (any, bool) {
		v, err := f()
		if err != nil {
			return &undefined{msg: err.Error()}, true
		}
		return v, true
	}
	switch name {
	case "index":
		return int64(l.index0 + 1), true
	case "index0":
		return int64(l.index0), true
	case "depth":
		return int64(l.depth0 + 1), true
	case "depth0":
		return int64(l.depth0), true
	case "first":
		return l.index0 == 0, true
	case "last", "nextitem":
		return lazy(func() (any, error) {
			x, ok, err := l.peek()
			switch {
			case name == "last":
				return !ok, err
			case !ok && err == nil:
				return &undefined{msg: "there is no next item"}, nil
			}
			return x, err
		})
	case "previtem":
		if l.index0 == 0 {
			return &undefined{msg: "there is no previous item"}, true
		}
		return l.prev, true
	case "length", "revindex", "revindex0":
		return lazy(func() (any, error) {
			n, err := l.length()
			if name == "revindex" {
				n -= l.index0
			} else if name == "revindex0" {
				n -= l.index0 + 1
			}
			return int64(n), err
		})
	case "cycle":
		return &function{name: "cycle", call: func(_ *evaluator, a callArgs) (any, error) {
			if len(a.pos) == 0 {
				return nil, typeError("no items for cycling given")
			}
			return a.pos[l.index0%len(a.pos)], nil
		}}, true
	case "changed":
		return &function{name: "changed", call: func(_ *evaluator, a callArgs) (any, error) {
			same := l.hasChange && equalSlices(l.changed, a.pos)
			l.changed, l.hasChange = a.pos, true
			return !same, nil
		}}, true
	}
	return nil, false
}

// call is loop(iterable) in a recursive loop.
func (l *loop) call(ev *evaluator, a callArgs) (any, error) {
	if !l.stmt.recursive {
		return nil, typeError("The loop must have the 'recursive' marker to be called recursively.")
	}
	args, err := a.bind("loop", "iterable")
	if err != nil {
		return nil, err
	}
	if err = ev.enter(); err != nil {
		return nil, err
	}
	defer ev.leave()
	var w writer
	_, err = l.stmt.over(ev, l.sc, &w, args[0], l.depth0+1)
	return w.b.String(), err
}
