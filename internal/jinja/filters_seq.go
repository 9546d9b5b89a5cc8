package jinja

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"
)

func listFilter(ev *evaluator, v any, _ []any) (any, error) {
	s, err := ev.collect(v)
	if err != nil {
		return nil, err
	}
	return append(make([]any, 0, len(s)), s...), ev.grow(16 * len(s))
}

func firstFilter(_ *evaluator, v any, _ []any) (any, error) {
	next, err := iterate(v)
	if err != nil {
		return nil, err
	}
	x, ok, err := next()
	if err == nil && !ok {
		return &undefined{msg: "No first item, sequence was empty."}, nil
	}
	return x, err
}

func lastFilter(ev *evaluator, v any, _ []any) (any, error) {
	switch x := v.(type) {
	case *generator:
		return nil, typeError("'generator' object is not reversible")
	case *undefined:
		return &undefined{msg: "No last item, sequence was empty."}, nil
	case string:
		if x != "" {
			_, n := utf8.DecodeLastRuneInString(x)
			return x[len(x)-n:], nil
		}
	}
	s, err := ev.collect(v)
	if err != nil {
		return nil, err
	}
	if len(s) == 0 {
		return &undefined{msg: "No last item, sequence was empty."}, nil
	}
	return s[len(s)-1], nil
}

func reverseFilter(ev *evaluator, v any, _ []any) (any, error) {
	if s, ok := v.(string); ok {
		r, err := cutString(ev, s, int64(runeLen(s)-1), -1, int64(runeLen(s)))
		return r, err
	}
	s, err := ev.collect(v)
	if err != nil {
		return nil, err
	}
	n := len(s)
	return &generator{"reversed", iterN(n, func(i int) any { return s[n-1-i] })}, nil
}

// late makes a generator that starts with its first item, so that a generator that is never read cannot fail.
func late(name string, start func() (nextFunc, error)) *generator {
	var next nextFunc
	return &generator{name, func() (any, bool, error) {
		if next == nil {
			var err error
			if next, err = start(); err != nil {
				return nil, false, err
			}
		}
		return next()
	}}
}

func itemsFilter(_ *evaluator, v any, _ []any) (any, error) {
	return late("do_items", func() (nextFunc, error) {
		switch m := v.(type) {
		case *undefined:
			return iterSlice(nil), nil
		case *Map:
			return iterate(view{m, "dict_items"})
		}
		return nil, typeError("Can only get item pairs from a mapping.")
	}), nil
}

// getter returns the function that reads attribute, a dotted path or an index, from an item; absent or none gives the
// item itself.
func getter(ev *evaluator, attribute, def any) func(any) (any, error) {
	if !given(attribute) || attribute == nil {
		return func(v any) (any, error) { return v, nil }
	}
	parts := []any{attribute}
	if s, ok := attribute.(string); ok {
		parts = parts[:0]
		for _, p := range strings.Split(s, ".") {
			if n, err := strconv.ParseUint(p, 10, 32); err == nil {
				parts = append(parts, int64(n))
			} else {
				parts = append(parts, p)
			}
		}
	}
	return func(v any) (any, error) {
		for _, p := range parts {
			var err error
			if v, err = getItem(ev, v, p); err != nil {
				return nil, err
			}
			if _, u := v.(*undefined); u && given(def) && def != nil {
				v = def
			}
		}
		return v, nil
	}
}

func joinFilter(ev *evaluator, v any, args []any) (any, error) {
	sep := ""
	if given(args[0]) {
		var err error
		if sep, err = toStr(ev, args[0]); err != nil {
			return nil, err
		}
	}
	next, err := iterate(v)
	if err != nil {
		return nil, err
	}
	get := getter(ev, args[1], absent{})
	var w writer
	for first := true; ; first = false {
		x, ok, err := next()
		if err != nil || !ok {
			return w.b.String(), err
		}
		if x, err = get(x); err != nil {
			return nil, err
		}
		s, err := toStr(ev, x)
		if err != nil {
			return nil, err
		}
		if !first {
			s = sep + s
		}
		if err = w.write(ev, s); err == nil {
			err = ev.step()
		}
		if err != nil {
			return nil, err
		}
	}
}

func sumFilter(ev *evaluator, v any, args []any) (any, error) {
	total := args[1]
	if !given(total) {
		total = int64(0)
	}
	if _, ok := total.(string); ok {
		return nil, typeError("sum() can't sum strings [use ''.join(seq) instead]")
	}
	items, err := ev.collect(v)
	if err != nil {
		return nil, err
	}
	get := getter(ev, args[0], absent{})
	for _, x := range items {
		if x, err = get(x); err != nil {
			return nil, err
		}
		if total, err = binary(ev, "+", total, x); err != nil {
			return nil, err
		}
	}
	return total, nil
}

func batchFilter(ev *evaluator, v any, args []any) (any, error) {
	return late("do_batch", func() (nextFunc, error) { return batchLines(ev, v, args) }), nil
}

func batchLines(ev *evaluator, v any, args []any) (nextFunc, error) {
	items, err := ev.collect(v)
	if err != nil {
		return nil, err
	}
	var out []any
	line := []any{}
	for _, x := range items {
		if equal(int64(len(line)), args[0]) {
			out, line = append(out, line), []any{}
		}
		if line = append(line, x); len(out)*16 > ev.lim.MaxOutput {
			return nil, ev.limit("MaxOutput", ev.lim.MaxOutput)
		}
		if err = ev.grow(32); err != nil {
			return nil, err
		}
	}
	for len(line) > 0 && given(args[1]) && args[1] != nil {
		short, err := less(int64(len(line)), args[0], "<")
		if err == nil {
			err = ev.checkSize(16 * len(line))
		}
		if err == nil {
			err = ev.grow(16)
		}
		if err != nil {
			return nil, err
		}
		if !short {
			break
		}
		line = append(line, args[1])
	}
	if len(line) > 0 {
		out = append(out, line)
	}
	return iterSlice(out), nil
}

func sliceFilter(ev *evaluator, v any, args []any) (any, error) {
	return late("do_slice", func() (nextFunc, error) { return sliceLines(ev, v, args) }), nil
}

func sliceLines(ev *evaluator, v any, args []any) (nextFunc, error) {
	n, err := intArg(args[0], 0)
	if err != nil {
		return nil, err
	}
	items, err := ev.collect(v)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, &failure{kind: "ZeroDivisionError", msg: "integer division or modulo by zero"}
	}
	if n > ev.lim.MaxOutput/16 {
		return nil, ev.limit("MaxOutput", ev.lim.MaxOutput)
	}
	var out []any
	for i := range max(n, 0) {
		size := len(items) / n
		extra := len(items) % n
		lo := i*size + min(i, extra)
		hi := lo + size
		if i < extra {
			hi++
		}
		line := append([]any{}, items[lo:hi]...)
		if given(args[1]) && args[1] != nil && i >= extra {
			line = append(line, args[1])
		}
		if err = ev.grow(16 * (len(line) + 4)); err != nil {
			return nil, err
		}
		out = append(out, line)
	}
	return iterSlice(out), nil
}

// mapFilter applies a filter or reads an attribute, one item at a time.
func mapFilter(ev *evaluator, v any, a callArgs) (any, error) {
	return lateEach("sync_do_map", v, func() (eachFunc, error) {
		if len(a.pos) == 0 && len(a.names) > 0 {
			args, err := a.bind("map", "attribute default?")
			if err != nil {
				return nil, err
			}
			get := getter(ev, args[0], args[1])
			return func(x any) (any, bool, error) {
				x, err := get(x)
				return x, true, errors.Join(err, ev.step())
			}, nil
		}
		name, rest, err := namedFunction(a, "map requires a filter argument")
		return func(x any) (any, bool, error) {
			x, err := applyFilter(ev, name, x, rest)
			return x, true, errors.Join(err, ev.step())
		}, err
	}), nil
}

// eachFunc is called with each item of an iterable; it returns what takes its place, and whether anything does.
type eachFunc func(x any) (any, bool, error)

// lateEach makes a generator of what each, made with the first item that is asked for, returns for the items of v.
func lateEach(name string, v any, start func() (eachFunc, error)) *generator {
	return late(name, func() (nextFunc, error) {
		if !truth(v) { // whatever its kind
			return iterSlice(nil), nil
		}
		each, err := start()
		if err != nil {
			return nil, err
		}
		next, err := iterate(v)
		if err != nil {
			return nil, err
		}
		return func() (any, bool, error) {
			for {
				x, ok, err := next()
				if err != nil || !ok {
					return nil, false, err
				}
				if x, ok, err = each(x); err != nil || ok {
					return x, err == nil, err
				}
			}
		}, nil
	})
}

// namedFunction takes the name of a filter or test off the arguments.
func namedFunction(a callArgs, missing string) (string, callArgs, error) {
	if len(a.pos) == 0 {
		return "", a, &failure{kind: "FilterArgumentError", msg: missing}
	}
	name, ok := a.pos[0].(string)
	if !ok {
		return "", a, typeError("a filter's or test's name must be a str, not %s", typeName(a.pos[0]))
	}
	return name, callArgs{pos: a.pos[1:], names: a.names, named: a.named}, nil
}

// selector makes select, reject, selectattr and rejectattr.
func selector(want, attr bool) func(*evaluator, any, callArgs) (any, error) {
	return func(ev *evaluator, v any, a callArgs) (any, error) {
		return lateEach("select_or_reject", v, func() (eachFunc, error) { return selection(ev, a, want, attr) }), nil
	}
}

// selection passes on the items that pass the test named in the arguments, or not, as want says.
func selection(ev *evaluator, a callArgs, want, attr bool) (eachFunc, error) {
	get := func(x any) (any, error) { return x, nil }
	if attr {
		if len(a.pos) == 0 {
			return nil, &failure{kind: "FilterArgumentError", msg: "Missing parameter for attribute name"}
		}
		get = getter(ev, a.pos[0], absent{})
		a = callArgs{pos: a.pos[1:], names: a.names, named: a.named}
	}
	test := func(x any) (bool, error) { return truth(x), nil }
	if len(a.pos) > 0 {
		t, rest, err := namedFunction(a, "")
		if err != nil {
			return nil, err
		}
		test = func(x any) (bool, error) { return applyTest(ev, t, x, rest) }
	}
	return func(x any) (any, bool, error) {
		if err := ev.step(); err != nil {
			return nil, false, err
		}
		key, err := get(x)
		if err != nil {
			return nil, false, err
		}
		ok, err := test(key)
		return x, ok == want, err
	}, nil
}
