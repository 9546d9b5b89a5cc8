package jinja

import (
	"math/big"
)

// Template values are plain data: nil (None), bool, int64, *big.Int (only beyond int64), float64, string, []any (list),
// Tuple and *Map (dict). The evaluator adds its own unexported kinds: undefined, namespace, loop, generator, view,
// range, function.

// Tuple is a Python tuple; lists are []any.
type Tuple []any

// undefined is Jinja's Undefined: prints as nothing, is false and empty, and fails when it is used for more.
type undefined struct {
	msg    string
	unsafe bool // access was refused by the sandbox
}

func (u *undefined) err() error {
	if u.unsafe {
		return &failure{kind: "SecurityError", msg: u.msg}
	}
	return &failure{kind: "UndefinedError", msg: u.msg}
}

// namespace is what the function namespace() makes: the only thing in a template that can be assigned to from an inner
// scope.
type namespace struct{ attrs *Map }

// generator yields each value once, as map and select do.
type generator struct {
	name string
	next nextFunc
}

// view is what keys(), values() and items() of a dictionary return.
type view struct {
	m    *Map
	kind string // dict_keys, dict_values, dict_items
}

func (v view) at(i int) any {
	switch v.kind {
	case "dict_keys":
		return v.m.keys[i]
	case "dict_values":
		return v.m.vals[i]
	}
	return Tuple{v.m.keys[i], v.m.vals[i]}
}

// span is the value of range(): n numbers from start by step.
type span struct{ start, stop, step, n int64 }

// function is anything callable that is built in: globals and bound methods.
type function struct {
	name string
	call func(ev *evaluator, a callArgs) (any, error)
	attr func(name string) (any, bool)
}

type nextFunc func() (any, bool, error)

func boolInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func typeName(v any) string {
	switch v := v.(type) {
	case nil:
		return "NoneType"
	case bool:
		return "bool"
	case int64, *big.Int:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case []any:
		return "list"
	case Tuple:
		return "tuple"
	case *Map:
		return "dict"
	case *undefined:
		return "Undefined"
	case *namespace:
		return "Namespace"
	case *generator:
		return "generator"
	case view:
		return v.kind
	case span:
		return "range"
	case *loop:
		return "LoopContext"
	case *macro:
		return "Macro"
	}
	return "function"
}

func truth(v any) bool {
	switch v := v.(type) {
	case nil, *undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string, []any, Tuple, *Map, view, span:
		n, _ := length(v)
		return n > 0
	}
	return true
}

// length is Python's len.
func length(v any) (int, error) {
	switch v := v.(type) {
	case string:
		return runeLen(v), nil
	case []any:
		return len(v), nil
	case Tuple:
		return len(v), nil
	case *Map:
		return v.Len(), nil
	case view:
		return v.m.Len(), nil
	case span:
		return int(v.n), nil
	case *undefined:
		return 0, nil
	case *loop:
		return v.length()
	}
	return 0, typeError("object of type '%s' has no len()", typeName(v))
}

// iterate is Python's iter.
func iterate(v any) (nextFunc, error) {
	switch v := v.(type) {
	case []any:
		return iterSlice(v), nil
	case Tuple:
		return iterSlice(v), nil
	case *Map:
		return iterSlice(v.keys), nil
	case view:
		return iterN(v.m.Len(), v.at), nil
	case span:
		return iterN(int(v.n), func(i int) any { return v.start + int64(i)*v.step }), nil
	case string:
		rest := v
		return func() (any, bool, error) {
			if rest == "" {
				return nil, false, nil
			}
			n := runeSize(rest)
			c := rest[:n]
			rest = rest[n:]
			return c, true, nil
		}, nil
	case *generator:
		return v.next, nil
	case *undefined:
		return iterSlice(nil), nil
	case *loop: // as in Jinja, reading the loop advances it
		return func() (any, bool, error) {
			ok, err := v.advance()
			return Tuple{v.cur, v}, ok, err
		}, nil
	}
	return nil, typeError("'%s' object is not iterable", typeName(v))
}

func iterSlice(s []any) nextFunc { return iterN(len(s), func(i int) any { return s[i] }) }

func iterN(n int, at func(int) any) nextFunc {
	i := -1
	return func() (any, bool, error) {
		if i++; i >= n {
			i = n
			return nil, false, nil
		}
		return at(i), true, nil
	}
}

// equal is Python's ==.
func equal(a, b any) bool {
	switch x := a.(type) {
	case nil:
		return b == nil
	case string:
		y, ok := b.(string)
		return ok && x == y
	case []any:
		y, ok := b.([]any)
		return ok && equalSlices(x, y)
	case Tuple:
		y, ok := b.(Tuple)
		return ok && equalSlices(x, y)
	case *Map:
		y, ok := b.(*Map)
		if !ok || x.Len() != y.Len() {
			return false
		}
		for i, k := range x.keys {
			v, ok, _ := y.get(k)
			if !ok || !equal(x.vals[i], v) {
				return false
			}
		}
		return true
	case *undefined:
		_, ok := b.(*undefined)
		return ok
	case view:
		y, ok := b.(view)
		return ok && x.kind == y.kind && equal(x.m, y.m)
	case span:
		y, ok := b.(span)
		return ok && x.n == y.n && (x.n == 0 || x.start == y.start && (x.n == 1 || x.step == y.step))
	}
	if isNumber(a) {
		if !isNumber(b) {
			return false
		}
		c, ordered := compareNumbers(a, b)
		return ordered && c == 0
	}
	return !isNumber(b) && comparable(b) && a == b
}

// comparable says that Go's == on v cannot panic.
func comparable(v any) bool {
	switch v.(type) {
	case []any, Tuple:
		return false
	}
	return true
}

func equalSlices(a, b []any) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// less is Python's <; op only names the operator in the error.
func less(a, b any, op string) (bool, error) {
	for _, v := range []any{a, b} {
		if u, ok := v.(*undefined); ok {
			return false, u.err()
		}
	}
	if isNumber(a) && isNumber(b) {
		c, ordered := compareNumbers(a, b)
		return ordered && c < 0, nil
	}
	switch x := a.(type) {
	case string:
		if y, ok := b.(string); ok {
			return x < y, nil
		}
	case []any:
		if y, ok := b.([]any); ok {
			return lessSlices(x, y, op)
		}
	case Tuple:
		if y, ok := b.(Tuple); ok {
			return lessSlices(x, y, op)
		}
	}
	return false, typeError("'%s' not supported between instances of '%s' and '%s'", op, typeName(a), typeName(b))
}

func lessSlices(a, b []any, op string) (bool, error) {
	for i := 0; i < len(a) && i < len(b); i++ {
		if !equal(a[i], b[i]) {
			return less(a[i], b[i], op)
		}
	}
	return len(a) < len(b), nil
}
