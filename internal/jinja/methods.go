package jinja

import (
	"math/big"
	"slices"
	"strings"
)

// methodFunc is a method; recv is the value it was taken from.
type methodFunc func(ev *evaluator, recv any, a callArgs) (any, error)

// method returns the bound method name of v. Methods that would change v exist but are refused, as in Jinja's immutable
// sandbox.
func method(v any, name string) (any, bool) {
	var m methodFunc
	var ok bool
	switch v := v.(type) {
	case string:
		m, ok = stringMethods[name]
	case []any:
		if slices.Contains([]string{"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"}, name) {
			return unsafeAttr(v, name), true
		}
		m, ok = listMethods[name]
	case Tuple:
		if x, ok := groupAttr(v, name); ok {
			return x, true
		}
		if name != "copy" {
			m, ok = listMethods[name]
		}
	case *Map:
		if slices.Contains([]string{"clear", "pop", "popitem", "setdefault", "update"}, name) {
			return unsafeAttr(v, name), true
		}
		m, ok = dictMethods[name]
	case view:
		if name == "mapping" {
			return v.m, true
		}
	case span:
		if n, ok := map[string]int64{"start": v.start, "stop": v.stop, "step": v.step}[name]; ok {
			return n, true
		}
	case int64, *big.Int, bool, float64:
		return numberAttr(v, name)
	}
	if !ok {
		return nil, false
	}
	return &function{name: name, call: func(ev *evaluator, a callArgs) (any, error) { return m(ev, v, a) }}, true
}

func numberAttr(v any, name string) (any, bool) {
	constant := func(x any) (any, bool) {
		return &function{name: name, call: func(*evaluator, callArgs) (any, error) { return x, nil }}, true
	}
	_, isFloat := v.(float64)
	switch name {
	case "real", "numerator":
		if isFloat && name == "numerator" {
			return nil, false
		}
		if b, ok := v.(bool); ok {
			return boolInt(b), true
		}
		return v, true
	case "imag":
		if isFloat {
			return 0.0, true
		}
		return int64(0), true
	case "conjugate":
		return constant(v)
	case "is_integer":
		if isFloat {
			f := v.(float64)
			return constant(f == float64(int64(f)))
		}
	case "denominator":
		return int64(1), !isFloat
	case "bit_length":
		if !isFloat {
			return constant(int64(toBig(v).BitLen()))
		}
	}
	return nil, false
}

var dictMethods = map[string]methodFunc{
	"get": func(_ *evaluator, recv any, a callArgs) (any, error) {
		if len(a.names) > 0 {
			return nil, typeError("dict.get() takes no keyword arguments")
		}
		args, err := a.bind("get", "key default?")
		if err != nil {
			return nil, err
		}
		if v, ok, err := recv.(*Map).get(args[0]); err != nil || ok {
			return v, err
		}
		if given(args[1]) {
			return args[1], nil
		}
		return nil, nil
	},
	"keys":   viewMethod("dict_keys"),
	"values": viewMethod("dict_values"),
	"items":  viewMethod("dict_items"),
	"copy": func(ev *evaluator, recv any, a callArgs) (any, error) {
		m := recv.(*Map)
		return m.Clone(), ev.grow(64 * m.Len())
	},
}

func viewMethod(kind string) methodFunc {
	return func(_ *evaluator, recv any, a callArgs) (any, error) {
		_, err := a.bind(kind, "")
		return view{recv.(*Map), kind}, err
	}
}

func sliceOf(v any) []any {
	if t, ok := v.(Tuple); ok {
		return t
	}
	return v.([]any)
}

var listMethods = map[string]methodFunc{
	"copy": func(ev *evaluator, recv any, _ callArgs) (any, error) {
		return slices.Clone(sliceOf(recv)), ev.grow(16 * len(sliceOf(recv)))
	},
	"count": func(ev *evaluator, recv any, a callArgs) (any, error) {
		args, err := a.bind("count", "value")
		if err != nil {
			return nil, err
		}
		n := int64(0)
		for _, x := range sliceOf(recv) {
			n += boolInt(equal(x, args[0]))
		}
		return n, ev.charge(recv)
	},
	"index": func(ev *evaluator, recv any, a callArgs) (any, error) {
		args, err := a.bind("index", "value start? stop?")
		if err != nil {
			return nil, err
		}
		s := sliceOf(recv)
		var bounds [3]any
		for i, v := range args[1:] {
			if given(v) {
				bounds[i] = v
			}
		}
		lo, hi, _ := sliceBounds(bounds, int64(len(s)))
		for i := lo; i < hi; i++ {
			if equal(s[i], args[0]) {
				return i, ev.charge(recv)
			}
		}
		return nil, valueError("value is not in list")
	},
}

// textMethod is a string method whose arguments are given by spec.
func textMethod(name, spec string, f func(ev *evaluator, s string, args []any) (any, error)) methodFunc {
	return func(ev *evaluator, recv any, a callArgs) (any, error) {
		s := recv.(string)
		args, err := a.bind(name, spec)
		if err != nil {
			return nil, err
		}
		if err = ev.scan(len(s)); err != nil {
			return nil, err
		}
		v, err := f(ev, s, args)
		if err != nil {
			return nil, err
		}
		if t, ok := v.(string); ok {
			err = ev.grow(len(t))
		} else if l, ok := v.([]any); ok {
			err = ev.grow(16 * len(l))
		}
		return v, err
	}
}

// textArg reads an optional string argument.
func textArg(v any, def string) (string, error) {
	switch s := v.(type) {
	case absent:
		return def, nil
	case string:
		return s, nil
	case *undefined:
		return "", typeError("must be str, not Undefined")
	}
	return "", typeError("must be str, not %s", typeName(v))
}

// intArg reads an optional integer argument.
func intArg(v any, def int) (int, error) {
	if !given(v) {
		return def, nil
	}
	if u, ok := v.(*undefined); ok {
		return 0, u.err()
	}
	if !isInt(v) {
		return 0, typeError("'%s' object cannot be interpreted as an integer", typeName(v))
	}
	n, ok := small(v)
	if !ok || n > 1<<40 || n < -1<<40 {
		return 0, &failure{kind: "OverflowError", msg: "Python int too large to convert to C ssize_t"}
	}
	return int(n), nil
}

// boolArg reads an optional flag.
func boolArg(v any, def bool) bool {
	if !given(v) {
		return def
	}
	return truth(v)
}

// cutter makes strip, lstrip and rstrip.
func cutter(name string, left, right bool) methodFunc {
	return textMethod(name, "chars?", func(_ *evaluator, s string, args []any) (any, error) {
		return strip(s, args[0], left, right)
	})
}

func strip(s string, chars any, left, right bool) (string, error) {
	in := IsSpace
	if given(chars) && chars != nil {
		set, err := textArg(chars, "")
		if err != nil {
			return "", err
		}
		in = func(r rune) bool { return strings.ContainsRune(set, r) }
	}
	if left {
		s = strings.TrimLeftFunc(s, in)
	}
	if right {
		s = strings.TrimRightFunc(s, in)
	}
	return s, nil
}

// window cuts s to the code points [start, end) given as in a slice; from is the number of code points before it, and
// ok is false where start lies behind the end, in which even the empty string is not found.
func window(s string, start, end any) (part string, from int, ok bool, err error) {
	if (!given(start) || start == nil) && (!given(end) || end == nil) {
		return s, 0, true, nil
	}
	n := int64(runeLen(s))
	var bounds [3]any
	for i, v := range []any{start, end} {
		if given(v) && v != nil {
			k, err := intArg(v, 0)
			if err != nil {
				return "", 0, false, err
			}
			bounds[i] = int64(k)
		}
	}
	if k, isInt := bounds[0].(int64); isInt && k > n {
		return "", 0, false, nil
	}
	lo, hi, _ := sliceBounds(bounds, n)
	if lo > hi {
		return "", 0, false, nil
	}
	at := byteOffset(s, int(lo))
	return s[at : at+byteOffset(s[at:], int(hi-lo))], int(lo), true, nil
}

// affix makes startswith and endswith, which take a string or a tuple of strings.
func affix(name string, has func(s, part string) bool) methodFunc {
	return textMethod(name, "prefix start? end?", func(_ *evaluator, s string, args []any) (any, error) {
		part, _, ok, err := window(s, args[1], args[2])
		if err != nil {
			return nil, err
		}
		options := []any{args[0]}
		if t, isTuple := args[0].(Tuple); isTuple {
			options = t
		}
		for _, o := range options {
			p, isStr := o.(string)
			if !isStr {
				return nil, typeError("%s first arg must be str or a tuple of str, not %s", name, typeName(o))
			}
			if ok && has(part, p) {
				return true, nil
			}
		}
		return false, nil
	})
}

// finder makes find, rfind, index and rindex.
func finder(name string, find func(s, part string) int, must bool) methodFunc {
	return textMethod(name, "sub start? end?", func(_ *evaluator, s string, args []any) (any, error) {
		sub, err := textArg(args[0], "")
		if err != nil {
			return nil, err
		}
		part, from, ok, err := window(s, args[1], args[2])
		if err != nil {
			return nil, err
		}
		if ok {
			if i := find(part, sub); i >= 0 {
				return int64(from + runeLen(part[:i])), nil
			}
		}
		if must {
			return nil, valueError("substring not found")
		}
		return int64(-1), nil
	})
}

// splitter makes split and rsplit.
func splitter(name string, fromRight bool) methodFunc {
	return textMethod(name, "sep? maxsplit?", func(ev *evaluator, s string, args []any) (any, error) {
		limit, err := intArg(args[1], -1)
		if err != nil {
			return nil, err
		}
		if !given(args[0]) || args[0] == nil {
			return splitSpace(ev, s, limit, fromRight)
		}
		sep, err := textArg(args[0], "")
		if err != nil {
			return nil, err
		}
		if sep == "" {
			return nil, valueError("empty separator")
		}
		if n := strings.Count(s, sep); limit < 0 || limit > n {
			limit = n
		}
		if err = ev.checkSize(16 * limit); err != nil {
			return nil, err
		}
		out := make([]any, limit+1)
		if fromRight {
			for i := limit; i > 0; i-- {
				at := strings.LastIndex(s, sep)
				out[i], s = s[at+len(sep):], s[:at]
			}
			out[0] = s
			return out, nil
		}
		for i := range limit {
			at := strings.Index(s, sep)
			out[i], s = s[:at], s[at+len(sep):]
		}
		out[limit] = s
		return out, nil
	})
}

// splitSpace splits at runs of white space; with a limit the rest keeps the white space at its far end.
func splitSpace(ev *evaluator, s string, limit int, fromRight bool) (any, error) {
	out := []any{}
	for {
		if fromRight {
			s = strings.TrimRightFunc(s, IsSpace)
		} else {
			s = strings.TrimLeftFunc(s, IsSpace)
		}
		if s == "" {
			break
		}
		if err := ev.grow(16); err != nil {
			return nil, err
		}
		at := -1
		if limit != 0 && fromRight {
			at = strings.LastIndexFunc(s, IsSpace)
		} else if limit != 0 {
			at = strings.IndexFunc(s, IsSpace)
		}
		limit--
		if at < 0 {
			out = append(out, s)
			break
		}
		if fromRight {
			at += runeSize(s[at:])
			out, s = append(out, s[at:]), s[:at]
		} else {
			out, s = append(out, s[:at]), s[at:]
		}
	}
	if fromRight {
		slices.Reverse(out)
	}
	return out, nil
}
