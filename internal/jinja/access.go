package jinja

import (
	"strings"
	"unicode/utf8"
)

func unsafeAttr(v any, name string) *undefined {
	return &undefined{msg: "access to attribute '" + name + "' of '" + typeName(v) + "' object is unsafe.",
		unsafe: true}
}

// getAttr is v.name: an attribute of the value's type first, then the dictionary key. Only the attributes listed in
// this package exist; nothing of Go can be reached.
func getAttr(ev *evaluator, v any, name string) (any, error) {
	if u, ok := v.(*undefined); ok {
		return nil, u.err()
	}
	if a, ok := attribute(v, name); ok {
		return a, nil
	}
	if m, ok := v.(*Map); ok {
		if x, ok := m.Get(name); ok {
			return x, ev.step()
		}
	}
	return noAttr(v, name), nil
}

func noAttr(v any, name string) *undefined {
	if strings.HasPrefix(name, "__") {
		return unsafeAttr(v, name)
	}
	t := typeName(v)
	if v == nil {
		return &undefined{msg: "'None' has no attribute '" + name + "'"}
	}
	return &undefined{msg: "'" + t + " object' has no attribute '" + name + "'"}
}

// attribute returns a built-in attribute or method of v.
func attribute(v any, name string) (any, bool) {
	switch v := v.(type) {
	case *namespace:
		return v.attrs.Get(name)
	case *loop:
		return v.attr(name)
	case *macro:
		return v.attr(name)
	case *function:
		if v.attr != nil {
			return v.attr(name)
		}
		return nil, false
	}
	return method(v, name)
}

// getItem is v[key].
func getItem(ev *evaluator, v, key any) (any, error) {
	if err := ev.step(); err != nil {
		return nil, err
	}
	switch x := v.(type) {
	case *undefined:
		return nil, x.err()
	case *Map:
		if r, ok, err := x.get(key); err == nil && ok {
			return r, nil
		}
	case []any, Tuple, string, span:
		if r, ok, err := index(ev, v, key); err != nil || ok {
			return r, err
		}
	}
	if name, ok := key.(string); ok {
		if a, ok := attribute(v, name); ok {
			return a, nil
		}
		return noAttr(v, name), nil
	}
	text, err := repr(ev, key)
	if err != nil {
		return nil, err
	}
	return &undefined{msg: "'" + typeName(v) + " object' has no element " + text}, nil
}

// index is sequence[i] with negative i counted from the end.
func index(ev *evaluator, v, key any) (any, bool, error) {
	i, ok := small(key)
	if !ok || !isInt(key) {
		return nil, false, nil
	}
	if s, isStr := v.(string); isStr {
		if err := ev.scan(len(s)); err != nil {
			return nil, false, err
		}
	}
	n, _ := length(v)
	if i < 0 {
		i += int64(n)
	}
	if i < 0 || i >= int64(n) {
		return nil, false, nil
	}
	switch v := v.(type) {
	case []any:
		return v[i], true, nil
	case Tuple:
		return v[i], true, nil
	case string:
		at := byteOffset(v, int(i))
		return v[at : at+runeSize(v[at:])], true, nil
	}
	r := v.(span)
	return r.start + i*r.step, true, nil
}

// byteOffset is where the n-th character begins.
func byteOffset(s string, n int) int {
	if len(s) == n || n == 0 {
		return n
	}
	at := 0
	for ; n > 0; n-- {
		_, k := utf8.DecodeRuneInString(s[at:])
		at += k
	}
	return at
}

// eval is not reached: a slice stands only inside brackets, where itemExpr calls cut.
func (x *sliceExpr) eval(*evaluator, *scope) (any, error) {
	return nil, typeError("a slice cannot be a value")
}

// cut is v[start:stop:step].
func (x *sliceExpr) cut(ev *evaluator, sc *scope, v any) (any, error) {
	if u, ok := v.(*undefined); ok {
		return nil, u.err()
	}
	var args [3]any
	for i, e := range []expr{x.start, x.stop, x.step} {
		if e == nil {
			continue
		}
		a, err := e.eval(ev, sc)
		if err != nil {
			return nil, err
		}
		if args[i] = a; a != nil && !isInt(a) {
			return nil, typeError("slice indices must be integers or None or have an __index__ method")
		}
	}
	switch v.(type) {
	case string, []any, Tuple, span:
	default:
		return nil, typeError("'%s' object is not subscriptable", typeName(v))
	}
	n, _ := length(v)
	start, stop, step := sliceBounds(args, int64(n))
	if step == 0 {
		return nil, valueError("slice step cannot be zero")
	}
	count := rangeLen(start, stop, step)
	switch v := v.(type) {
	case string:
		return cutString(ev, v, start, step, count)
	case []any:
		return cutSlice(ev, v, start, step, count)
	case Tuple:
		s, err := cutSlice(ev, v, start, step, count)
		return Tuple(s), err
	}
	r := v.(span)
	return span{r.start + start*r.step, r.start + stop*r.step, r.step * step, count}, nil
}

// sliceBounds applies Python's defaults and clamps to a sequence of n.
func sliceBounds(args [3]any, n int64) (start, stop, step int64) {
	clampInt := func(v any, def int64) int64 {
		if v == nil {
			return def
		}
		i, ok := small(v)
		if !ok {
			i = int64(toBig(v).Sign()) << 62
		}
		return max(min(i, 1<<62), -1<<62)
	}
	step = clampInt(args[2], 1)
	lo, hi := int64(0), n
	start, stop = 0, n
	if step < 0 {
		lo, hi = -1, n-1
		start, stop = n-1, -1
	}
	clamp := func(v any, def int64) int64 {
		if v == nil {
			return def
		}
		i := clampInt(v, 0)
		if i < 0 {
			i += n
		}
		return max(lo, min(i, hi))
	}
	return clamp(args[0], start), clamp(args[1], stop), step
}

// rangeLen is the number of elements of range(start, stop, step), step not 0.
func rangeLen(start, stop, step int64) int64 {
	switch {
	case step > 0 && start < stop:
		return int64((uint64(stop)-uint64(start)-1)/uint64(step)) + 1
	case step < 0 && start > stop:
		return int64((uint64(start)-uint64(stop)-1)/(-uint64(step))) + 1
	}
	return 0
}

func cutSlice(ev *evaluator, s []any, start, step, count int64) ([]any, error) {
	if err := ev.grow(16 * int(count)); err != nil {
		return nil, err
	}
	out := make([]any, count)
	for i := range out {
		out[i] = s[start+int64(i)*step]
	}
	return out, nil
}

func cutString(ev *evaluator, s string, start, step, count int64) (any, error) {
	if count == 0 {
		return "", ev.step()
	}
	if err := ev.grow(len(s)); err != nil {
		return nil, err
	}
	if step == 1 {
		from := byteOffset(s, int(start))
		return s[from : from+byteOffset(s[from:], int(count))], nil
	}
	runes := []rune(s)
	out := make([]rune, count)
	for i := range out {
		out[i] = runes[start+int64(i)*step]
	}
	return string(out), nil
}
