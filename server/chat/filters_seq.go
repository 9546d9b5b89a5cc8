package chat

import (
	"sort"
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
		if !x.unsafe {
			return &undefined{msg: "No last item, sequence was empty."}, nil
		}
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

func itemsFilter(_ *evaluator, v any, _ []any) (any, error) {
	switch m := v.(type) {
	case *undefined:
		return &generator{"do_items", iterSlice(nil)}, nil
	case *Map:
		next, err := iterate(view{m, "dict_items"})
		return &generator{"do_items", next}, err
	}
	return nil, typeError("Can only get item pairs from a mapping.")
}

// getter returns the function that reads attribute, a dotted path or an index, from an item; absent or none gives the item itself.
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

// folded makes strings of any case equal unless sensitive.
func folded(v any, sensitive bool) any {
	if s, ok := v.(string); ok && !sensitive {
		return lower(s)
	}
	return v
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

func extreme(ev *evaluator, v any, args []any, biggest bool) (any, error) {
	items, err := ev.collect(v)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return &undefined{msg: "No aggregated item, sequence was empty."}, nil
	}
	get := getter(ev, args[1], absent{})
	var best, bestKey any
	for i, x := range items {
		k, err := get(x)
		if err != nil {
			return nil, err
		}
		k = folded(k, boolArg(args[0], false))
		if i > 0 {
			a, b, op := k, bestKey, "<"
			if biggest {
				a, b, op = bestKey, k, ">"
			}
			lt, err := less(a, b, op)
			if err != nil {
				return nil, err
			}
			if err = ev.charge(k); err != nil {
				return nil, err
			}
			if !lt {
				continue
			}
		}
		best, bestKey = x, k
	}
	return best, nil
}

// sortBy sorts items by keys in place, stable; reverse keeps the order of equals, as in Python.
func sortBy(ev *evaluator, items, keys []any, reverse bool) error {
	if err := ev.grow(32 * len(items)); err != nil {
		return err
	}
	s := &keySort{ev: ev, items: items, keys: keys, reverse: reverse}
	sort.Stable(s)
	return s.err
}

type keySort struct {
	ev          *evaluator
	items, keys []any
	reverse     bool
	err         error
}

func (s *keySort) Len() int { return len(s.items) }
func (s *keySort) Swap(i, j int) {
	s.items[i], s.items[j] = s.items[j], s.items[i]
	s.keys[i], s.keys[j] = s.keys[j], s.keys[i]
}

func (s *keySort) Less(i, j int) bool {
	if s.err != nil {
		return false
	}
	if s.reverse {
		i, j = j, i
	}
	if s.err = s.ev.charge(s.keys[i], s.keys[j]); s.err != nil {
		return false
	}
	lt, err := less(s.keys[i], s.keys[j], "<")
	s.err = err
	return lt
}

func sortFilter(ev *evaluator, v any, args []any) (any, error) {
	list, err := listFilter(ev, v, nil)
	if err != nil {
		return nil, err
	}
	items := list.([]any)
	gets := []func(any) (any, error){getter(ev, args[2], absent{})}
	multi := false
	if s, ok := args[2].(string); ok && strings.Contains(s, ",") {
		multi, gets = true, nil
		for _, part := range strings.Split(s, ",") {
			gets = append(gets, getter(ev, part, absent{}))
		}
	}
	keys := make([]any, len(items))
	for i, x := range items {
		var parts []any
		for _, get := range gets {
			k, err := get(x)
			if err != nil {
				return nil, err
			}
			parts = append(parts, folded(k, boolArg(args[1], false)))
		}
		if keys[i] = parts[0]; multi {
			keys[i] = parts
		}
	}
	return items, sortBy(ev, items, keys, boolArg(args[0], false))
}

func dictsortFilter(ev *evaluator, v any, args []any) (any, error) {
	m, ok := v.(*Map)
	if !ok {
		if u, isU := v.(*undefined); isU {
			return nil, u.err()
		}
		return nil, typeError("'%s' object has no attribute 'items'", typeName(v))
	}
	by, err := textArg(args[1], "key")
	if err != nil || by != "key" && by != "value" {
		return nil, &failure{kind: "FilterArgumentError", msg: `You can only sort by either "key" or "value"`}
	}
	items, keys := make([]any, m.Len()), make([]any, m.Len())
	for i := range items {
		items[i] = Tuple{m.keys[i], m.vals[i]}
		if keys[i] = m.keys[i]; by == "value" {
			keys[i] = m.vals[i]
		}
		keys[i] = folded(keys[i], boolArg(args[0], false))
	}
	return items, sortBy(ev, items, keys, boolArg(args[2], false))
}

func uniqueFilter(ev *evaluator, v any, args []any) (any, error) {
	next, err := iterate(v)
	if err != nil {
		return nil, err
	}
	get := getter(ev, args[1], absent{})
	seen := NewMap()
	return &generator{"do_unique", func() (any, bool, error) {
		for {
			x, ok, err := next()
			if err != nil || !ok {
				return nil, false, err
			}
			k, err := get(x)
			if err != nil {
				return nil, false, err
			}
			k = folded(k, boolArg(args[0], false))
			_, old, err := seen.get(k)
			if err == nil && !old {
				err = seen.set(k, nil)
			}
			if err == nil {
				err = ev.grow(64)
			}
			if err != nil || !old {
				return x, err == nil, err
			}
		}
	}}, nil
}

// groupbyFilter returns pairs (grouper, list), sorted by grouper.
func groupbyFilter(ev *evaluator, v any, args []any) (any, error) {
	list, err := listFilter(ev, v, nil)
	if err != nil {
		return nil, err
	}
	items := list.([]any)
	get := getter(ev, args[0], args[1])
	sensitive := boolArg(args[2], false)
	keys := make([]any, len(items))
	for i, x := range items {
		if keys[i], err = get(x); err != nil {
			return nil, err
		}
		keys[i] = folded(keys[i], sensitive)
	}
	if err = sortBy(ev, items, keys, false); err != nil {
		return nil, err
	}
	out := []any{}
	for i := 0; i < len(items); {
		j := i + 1
		for j < len(items) && equal(keys[i], keys[j]) {
			j++
		}
		k, err := get(items[i])
		if err != nil {
			return nil, err
		}
		out = append(out, Tuple{k, items[i:j:j]})
		i = j
	}
	return out, nil
}

// groupAttr gives the pairs of groupby their two names.
func groupAttr(t Tuple, name string) (any, bool) {
	if len(t) == 2 {
		if _, ok := t[1].([]any); ok {
			switch name {
			case "grouper":
				return t[0], true
			case "list":
				return t[1], true
			}
		}
	}
	return nil, false
}

func batchFilter(ev *evaluator, v any, args []any) (any, error) {
	n, err := intArg(args[0], 0)
	if err != nil {
		return nil, err
	}
	items, err := ev.collect(v)
	if err != nil {
		return nil, err
	}
	if n <= 0 { // Python never starts a new line there
		n = max(1, len(items))
	}
	if n > ev.lim.MaxOutput/16 {
		return nil, ev.limit("MaxOutput", ev.lim.MaxOutput)
	}
	var out []any
	for len(items) > 0 {
		line := append([]any{}, items[:min(n, len(items))]...)
		items = items[len(line):]
		for given(args[1]) && args[1] != nil && len(line) < n {
			line = append(line, args[1])
		}
		if err = ev.grow(16 * len(line)); err != nil {
			return nil, err
		}
		out = append(out, line)
	}
	return &generator{"do_batch", iterSlice(out)}, nil
}

func sliceFilter(ev *evaluator, v any, args []any) (any, error) {
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
	return &generator{"do_slice", iterSlice(out)}, nil
}

// mapFilter applies a filter or reads an attribute, one item at a time.
func mapFilter(ev *evaluator, v any, a callArgs) (any, error) {
	var f func(any) (any, error)
	if len(a.pos) == 0 && len(a.names) > 0 {
		args, err := a.bind("map", "attribute default?")
		if err != nil {
			return nil, err
		}
		f = getter(ev, args[0], args[1])
	} else {
		name, rest, err := namedFunction(a, "map requires a filter argument")
		if err != nil {
			return nil, err
		}
		f = func(x any) (any, error) { return applyFilter(ev, name, x, rest) }
	}
	if !truth(v) {
		return &generator{"sync_do_map", iterSlice(nil)}, nil
	}
	next, err := iterate(v)
	if err != nil {
		return nil, err
	}
	return &generator{"sync_do_map", func() (any, bool, error) {
		x, ok, err := next()
		if err != nil || !ok {
			return nil, false, err
		}
		if err = ev.step(); err != nil {
			return nil, false, err
		}
		x, err = f(x)
		return x, err == nil, err
	}}, nil
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
func selector(name string, want, attr bool) func(*evaluator, any, callArgs) (any, error) {
	return func(ev *evaluator, v any, a callArgs) (any, error) {
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
		if !truth(v) {
			return &generator{name, iterSlice(nil)}, nil
		}
		next, err := iterate(v)
		if err != nil {
			return nil, err
		}
		return &generator{name, func() (any, bool, error) {
			for {
				x, ok, err := next()
				if err != nil || !ok {
					return nil, false, err
				}
				if err = ev.step(); err != nil {
					return nil, false, err
				}
				key, err := get(x)
				if err != nil {
					return nil, false, err
				}
				if ok, err = test(key); err != nil || ok == want {
					return x, err == nil, err
				}
			}
		}}, nil
	}
}
