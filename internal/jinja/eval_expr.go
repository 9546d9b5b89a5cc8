package jinja

import (
	"math/big"
	"strings"
)

func (x *constExpr) eval(*evaluator, *scope) (any, error) { return x.v, nil }

func (x *nameExpr) eval(ev *evaluator, sc *scope) (any, error) {
	return ev.lookup(sc, x.name), ev.step()
}

func evalAll(ev *evaluator, sc *scope, items []expr) ([]any, error) {
	if err := ev.grow(16 * len(items)); err != nil {
		return nil, err
	}
	out := make([]any, len(items))
	for i, x := range items {
		v, err := x.eval(ev, sc)
		if err != nil {
			return nil, err
		}
		out[i] = v
	}
	return out, nil
}

func (x *listExpr) eval(ev *evaluator, sc *scope) (any, error) {
	items, err := evalAll(ev, sc, x.items)
	return items, err
}

func (x *tupExpr) eval(ev *evaluator, sc *scope) (any, error) {
	items, err := evalAll(ev, sc, x.items)
	return Tuple(items), err
}

func (x *dictExpr) eval(ev *evaluator, sc *scope) (any, error) {
	if err := ev.grow(64 * len(x.keys)); err != nil {
		return nil, err
	}
	m := NewMap()
	for i := range x.keys {
		k, err := x.keys[i].eval(ev, sc)
		if err != nil {
			return nil, err
		}
		v, err := x.vals[i].eval(ev, sc)
		if err != nil {
			return nil, err
		}
		if err = m.set(k, v); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (x *condExpr) eval(ev *evaluator, sc *scope) (any, error) {
	c, err := x.cond.eval(ev, sc)
	switch {
	case err != nil:
		return nil, err
	case truth(c):
		return x.then.eval(ev, sc)
	case x.other == nil:
		return &undefined{msg: "the inline if-expression evaluated to false and no else section was defined."}, nil
	}
	return x.other.eval(ev, sc)
}

func (x *andExpr) eval(ev *evaluator, sc *scope) (any, error) {
	a, err := x.a.eval(ev, sc)
	if err != nil || !truth(a) {
		return a, err
	}
	return x.b.eval(ev, sc)
}

func (x *orExpr) eval(ev *evaluator, sc *scope) (any, error) {
	a, err := x.a.eval(ev, sc)
	if err != nil || truth(a) {
		return a, err
	}
	return x.b.eval(ev, sc)
}

func (x *notExpr) eval(ev *evaluator, sc *scope) (any, error) {
	v, err := x.x.eval(ev, sc)
	return !truth(v), err
}

func (x *signExpr) eval(ev *evaluator, sc *scope) (any, error) {
	v, err := x.x.eval(ev, sc)
	if err != nil {
		return nil, err
	}
	if u, ok := v.(*undefined); ok {
		return nil, u.err()
	}
	f, isF := v.(float64)
	switch {
	case !isNumber(v):
		return nil, typeError("bad operand type for unary sign: '%s'", typeName(v))
	case isF && x.neg:
		return -f, nil
	case isF:
		return f, nil
	case x.neg:
		return normInt(ev, new(big.Int).Neg(toBig(v)))
	}
	return normInt(ev, toBig(v))
}

func (x *binExpr) eval(ev *evaluator, sc *scope) (any, error) {
	a, err := x.a.eval(ev, sc)
	if err != nil {
		return nil, err
	}
	b, err := x.b.eval(ev, sc)
	if err != nil {
		return nil, err
	}
	if err = ev.step(); err != nil {
		return nil, err
	}
	v, err := binary(ev, x.op, a, b)
	return v, locate(err, x.line)
}

// binary is an arithmetic operator on any two values.
func binary(ev *evaluator, op string, a, b any) (any, error) {
	if s, ok := a.(string); ok && op == "%" {
		return percentFormat(ev, s, b)
	}
	for _, v := range []any{a, b} {
		if u, ok := v.(*undefined); ok {
			return nil, u.err()
		}
	}
	if isNumber(a) && isNumber(b) {
		return arith(ev, op, a, b)
	}
	switch op {
	case "+":
		if v, ok, err := joinValues(ev, a, b); ok {
			return v, err
		}
		if t := typeName(a); t == "str" || t == "list" || t == "tuple" {
			return nil, typeError("can only concatenate %s (not \"%s\") to %s", t, typeName(b), t)
		}
	case "*":
		if isInt(b) {
			a, b = b, a
		}
		if isInt(a) {
			if v, ok, err := repeat(ev, b, a); ok {
				return v, err
			}
		}
	}
	return nil, typeError("unsupported operand type(s) for %s: '%s' and '%s'", op, typeName(a), typeName(b))
}

func joinValues(ev *evaluator, a, b any) (v any, ok bool, err error) {
	switch x := a.(type) {
	case string:
		if y, ok := b.(string); ok {
			return x + y, true, ev.grow(len(x) + len(y))
		}
	case []any:
		if y, ok := b.([]any); ok {
			err = ev.grow(16 * (len(x) + len(y)))
			return append(append(make([]any, 0, len(x)+len(y)), x...), y...), true, err
		}
	case Tuple:
		if y, ok := b.(Tuple); ok {
			err = ev.grow(16 * (len(x) + len(y)))
			return append(append(make(Tuple, 0, len(x)+len(y)), x...), y...), true, err
		}
	}
	return nil, false, nil
}

// repeat is sequence * count.
func repeat(ev *evaluator, seq, count any) (v any, ok bool, err error) {
	size := 0
	switch s := seq.(type) {
	case string:
		size = len(s)
	case []any:
		size = 16 * len(s)
	case Tuple:
		size = 16 * len(s)
	default:
		return nil, false, nil
	}
	n, fits := small(count)
	if !fits {
		if toBig(count).Sign() < 0 {
			return nil, true, &failure{kind: "OverflowError", msg: "cannot fit 'int' into an index-sized integer"}
		}
		return nil, true, ev.limit("MaxOutput", ev.lim.MaxOutput)
	}
	n = max(n, 0)
	if size > 0 && n > int64(ev.lim.MaxOutput/size) {
		return nil, true, ev.limit("MaxOutput", ev.lim.MaxOutput)
	}
	if size == 0 {
		n = 0
	}
	if err = ev.grow(size * int(n)); err != nil {
		return nil, true, err
	}
	switch s := seq.(type) {
	case string:
		return strings.Repeat(s, int(n)), true, nil
	case []any:
		return repeatSlice(s, int(n)), true, nil
	}
	return Tuple(repeatSlice(seq.(Tuple), int(n))), true, nil
}

func repeatSlice(s []any, n int) []any {
	out := make([]any, 0, len(s)*n)
	for ; n > 0; n-- {
		out = append(out, s...)
	}
	return out
}

func (x *concatExpr) eval(ev *evaluator, sc *scope) (any, error) {
	var w writer
	for _, it := range x.items {
		v, err := it.eval(ev, sc)
		if err != nil {
			return nil, err
		}
		s, err := toStr(ev, v)
		if err != nil {
			return nil, err
		}
		if err = w.write(ev, s); err != nil {
			return nil, err
		}
	}
	return w.b.String(), nil
}

func (x *compareExpr) eval(ev *evaluator, sc *scope) (any, error) {
	a, err := x.first.eval(ev, sc)
	if err != nil {
		return nil, err
	}
	for i, op := range x.ops {
		b, err := x.rest[i].eval(ev, sc)
		if err != nil {
			return nil, err
		}
		ok, err := compare(ev, op, a, b)
		if err != nil {
			return nil, locate(err, x.line)
		}
		if !ok {
			return false, nil
		}
		a = b
	}
	return true, nil
}

func compare(ev *evaluator, op string, a, b any) (bool, error) {
	if err := ev.charge(a, b); err != nil {
		return false, err
	}
	switch op {
	case "==":
		return equal(a, b), nil
	case "!=":
		return !equal(a, b), nil
	case "in":
		return contains(ev, b, a)
	case "not in":
		ok, err := contains(ev, b, a)
		return !ok, err
	case "<":
		return less(a, b, op)
	case ">":
		return less(b, a, op)
	}
	if isNumber(a) && isNumber(b) { // a NaN is neither less nor greater
		c, ordered := compareNumbers(a, b)
		return ordered && (c == 0 || (c < 0) == (op == "<=")), nil
	}
	if op == ">=" {
		a, b = b, a
	}
	gt, err := less(b, a, op)
	return !gt, err
}

// charge counts the work of comparing the values.
func (ev *evaluator) charge(vals ...any) error {
	n := 1
	for _, v := range vals {
		switch v := v.(type) {
		case string:
			n += len(v) >> 6
		case []any:
			n += len(v)
		case Tuple:
			n += len(v)
		case *Map:
			n += v.Len()
		}
	}
	return ev.work(n)
}

// contains is Python's `item in box`.
func contains(ev *evaluator, box, item any) (bool, error) {
	switch b := box.(type) {
	case string:
		switch s := item.(type) {
		case string:
			return strings.Contains(b, s), nil
		case *undefined:
			return false, s.err()
		}
		return false, typeError("'in <string>' requires string as left operand, not %s", typeName(item))
	case *Map:
		_, ok, err := b.get(item)
		return ok, err
	case view:
		if b.kind == "dict_keys" {
			_, ok, err := b.m.get(item)
			return ok, err
		}
	}
	next, err := iterate(box)
	if err != nil {
		return false, typeError("argument of type '%s' is not iterable", typeName(box))
	}
	for {
		x, ok, err := next()
		if err != nil || !ok {
			return false, err
		}
		if err = ev.charge(x); err != nil {
			return false, err
		}
		if equal(x, item) {
			return true, nil
		}
	}
}

func (x *attrExpr) eval(ev *evaluator, sc *scope) (any, error) {
	v, err := x.x.eval(ev, sc)
	if err != nil {
		return nil, err
	}
	r, err := getAttr(ev, v, x.name)
	return r, locate(err, x.line)
}

func (x *itemExpr) eval(ev *evaluator, sc *scope) (any, error) {
	v, err := x.x.eval(ev, sc)
	if err != nil {
		return nil, err
	}
	var r any
	if s, ok := x.key.(*sliceExpr); ok {
		r, err = s.cut(ev, sc, v)
	} else {
		var k any
		if k, err = x.key.eval(ev, sc); err == nil {
			r, err = getItem(ev, v, k)
		}
	}
	return r, locate(err, x.line)
}

func (x *callExpr) eval(ev *evaluator, sc *scope) (any, error) {
	fn, err := x.fn.eval(ev, sc)
	if err != nil {
		return nil, err
	}
	a, err := x.args.eval(ev, sc)
	if err != nil {
		return nil, err
	}
	v, err := ev.call(fn, a)
	return v, locate(err, x.line)
}

func (x *filterExpr) eval(ev *evaluator, sc *scope) (any, error) {
	v, err := x.x.eval(ev, sc)
	if err != nil {
		return nil, err
	}
	return x.apply(ev, sc, v)
}

func (x *filterExpr) apply(ev *evaluator, sc *scope, v any) (any, error) {
	a, err := x.args.eval(ev, sc)
	if err != nil {
		return nil, err
	}
	r, err := applyFilter(ev, x.name, v, a)
	return r, locate(err, x.line)
}

func (x *testExpr) eval(ev *evaluator, sc *scope) (any, error) {
	v, err := x.x.eval(ev, sc)
	if err != nil {
		return nil, err
	}
	a, err := x.args.eval(ev, sc)
	if err != nil {
		return nil, err
	}
	ok, err := applyTest(ev, x.name, v, a)
	return ok, locate(err, x.line)
}
