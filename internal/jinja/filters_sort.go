package jinja

import (
	"sort"
	"strings"
)

// folded makes strings of any case equal unless sensitive.
func folded(v any, sensitive bool) any {
	if s, ok := v.(string); ok && !sensitive {
		return Lower(s)
	}
	return v
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
	if s, ok := args[2].(string); ok {
		gets = nil
		for _, part := range strings.Split(s, ",") {
			gets = append(gets, getter(ev, part, absent{}))
		}
	}
	keys := make([]any, len(items))
	for i, x := range items {
		var parts []any // a list even of one: two undefined keys are equal and so need no order
		for _, get := range gets {
			k, err := get(x)
			if err != nil {
				return nil, err
			}
			parts = append(parts, folded(k, boolArg(args[1], false)))
		}
		keys[i] = parts
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
