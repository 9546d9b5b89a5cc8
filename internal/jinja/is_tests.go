package jinja

import (
	"fmt"
	"strings"
)

// isTest is what stands behind `is`.
type isTest struct {
	spec string // parameters beside the value
	f    func(ev *evaluator, v any, args []any) (bool, error)
}

func kindTest(f func(v any) bool) isTest {
	return isTest{"", func(_ *evaluator, v any, _ []any) (bool, error) { return f(v), nil }}
}

// nameTest looks a value up by name; what cannot be the key of a table is an error.
func nameTest(has func(name string) bool) isTest {
	return isTest{"", func(_ *evaluator, v any, _ []any) (bool, error) {
		s, ok := v.(string)
		_, err := hashKey(v)
		return ok && has(s), err
	}}
}

func compareTest(op string) isTest {
	return isTest{"other", func(ev *evaluator, v any, args []any) (bool, error) { return compare(ev, op, v, args[0]) }}
}

// remainder is v % n == want.
func remainder(ev *evaluator, v, n any, want int64) (bool, error) {
	r, err := binary(ev, "%", v, n)
	return err == nil && equal(r, want), err
}

var isTests map[string]isTest

func init() { // in init because the tests filter and test look into the tables
	isTests = map[string]isTest{
		"defined":   kindTest(func(v any) bool { _, u := v.(*undefined); return !u }),
		"undefined": kindTest(func(v any) bool { _, u := v.(*undefined); return u }),
		"none":      kindTest(func(v any) bool { return v == nil }),
		"boolean":   kindTest(func(v any) bool { _, ok := v.(bool); return ok }),
		"true":      kindTest(func(v any) bool { return v == true }),
		"false":     kindTest(func(v any) bool { return v == false }),
		"integer":   kindTest(func(v any) bool { _, b := v.(bool); return isInt(v) && !b }),
		"float":     kindTest(func(v any) bool { _, ok := v.(float64); return ok }),
		"number":    kindTest(isNumber),
		"string":    kindTest(func(v any) bool { _, ok := v.(string); return ok }),
		"mapping":   kindTest(func(v any) bool { _, ok := v.(*Map); return ok }),
		"sequence":  kindTest(isSequence),
		"iterable":  kindTest(isIterable),
		"callable":  kindTest(isCallable),
		"escaped":   kindTest(func(any) bool { return false }),
		"sameas":    {"other", func(_ *evaluator, v any, a []any) (bool, error) { return same(v, a[0]), nil }},
		"in":        {"seq", func(ev *evaluator, v any, a []any) (bool, error) { return contains(ev, a[0], v) }},
		"odd":       {"", func(ev *evaluator, v any, _ []any) (bool, error) { return remainder(ev, v, int64(2), 1) }},
		"even":      {"", func(ev *evaluator, v any, _ []any) (bool, error) { return remainder(ev, v, int64(2), 0) }},
		"divisibleby": {"num", func(ev *evaluator, v any, a []any) (bool, error) {
			return remainder(ev, v, a[0], 0)
		}},
		"lower": {"", func(ev *evaluator, v any, _ []any) (bool, error) {
			s, err := toStr(ev, v)
			return isCase(s, isLower), err
		}},
		"upper": {"", func(ev *evaluator, v any, _ []any) (bool, error) {
			s, err := toStr(ev, v)
			return isCase(s, isUpper), err
		}},
		"filter": nameTest(func(name string) bool { _, ok := filters[name]; return ok }),
		"test":   nameTest(func(name string) bool { _, ok := isTests[name]; return ok }),
	}
	for op, names := range map[string]string{"==": "== eq equalto", "!=": "!= ne", "<": "< lt lessthan", "<=": "<= le",
		">": "> gt greaterthan", ">=": ">= ge"} {
		for _, n := range strings.Fields(names) {
			isTests[n] = compareTest(op)
		}
	}
}

func isSequence(v any) bool {
	switch v.(type) {
	case string, []any, Tuple, *Map, span, *undefined:
		return true
	}
	return false
}

func isIterable(v any) bool {
	_, err := iterate(v)
	return err == nil
}

func isCallable(v any) bool {
	switch v.(type) {
	case *function, *macro, *loop, *undefined:
		return true
	}
	return false
}

// same is identity as far as plain data has one.
func same(a, b any) bool {
	switch x := a.(type) {
	case []any:
		y, ok := b.([]any)
		return ok && len(x) == len(y) && (len(x) == 0 || &x[0] == &y[0])
	case Tuple:
		y, ok := b.(Tuple)
		return ok && len(x) == len(y) && (len(x) == 0 || &x[0] == &y[0])
	case *Map:
		return b == a
	}
	return fmt.Sprintf("%T", a) == fmt.Sprintf("%T", b) && equal(a, b)
}

func applyTest(ev *evaluator, name string, v any, a callArgs) (bool, error) {
	t, ok := isTests[name]
	if !ok {
		return false, &failure{kind: "TemplateRuntimeError", msg: "No test named '" + name + "'."}
	}
	args, err := a.bind(name, t.spec)
	if err != nil {
		return false, err
	}
	if err = ev.step(); err != nil {
		return false, err
	}
	return t.f(ev, v, args)
}
