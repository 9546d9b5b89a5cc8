package jinja

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
)

// FromGo turns what a caller may pass into a template value, deeply: what DecodeJSON returns, and of Go's own types int,
// int32, float32, json.Number, []string, []map[string]any, []*Map and map[string]any, which has no order: its keys are
// sorted. Lists and Maps of the result are copies.
func FromGo(v any) (any, error) { return plain(v, 0) }

func plain(v any, depth int) (any, error) {
	if depth > maxJSONDepth {
		return nil, fmt.Errorf("%w: nested deeper than %d", ErrLimit, maxJSONDepth)
	}
	switch v := v.(type) {
	case nil, bool, string, int64, float64:
		return v, nil
	case int:
		return int64(v), nil
	case int32:
		return int64(v), nil
	case float32:
		return float64(v), nil
	case json.Number:
		return decodeNumber(v.String())
	case *big.Int:
		if v == nil {
			return nil, nil
		}
		if v.IsInt64() {
			return v.Int64(), nil
		}
		return v, nil
	case []string:
		return convert(v, depth)
	case []map[string]any:
		return convert(v, depth)
	case []*Map:
		return convert(v, depth)
	case []any:
		return convert(v, depth)
	case Tuple:
		out, err := convert(v, depth)
		return Tuple(out), err
	case map[string]any:
		m := NewMap()
		for _, k := range slices.Sorted(maps.Keys(v)) {
			x, err := plain(v[k], depth+1)
			if err != nil {
				return nil, err
			}
			m.Set(k, x)
		}
		return m, nil
	case *Map:
		if v == nil {
			return nil, nil
		}
		m := &Map{keys: slices.Clone(v.keys), vals: make([]any, len(v.vals)), index: maps.Clone(v.index)}
		for i, x := range v.vals {
			var err error
			if m.vals[i], err = plain(x, depth+1); err != nil {
				return nil, err
			}
		}
		return m, nil
	}
	return nil, fmt.Errorf("a value of Go type %T cannot be given to a template: decode it with DecodeJSON", v)
}

func convert[T any](list []T, depth int) ([]any, error) {
	out := make([]any, len(list))
	for i, x := range list {
		var err error
		if out[i], err = plain(x, depth+1); err != nil {
			return nil, err
		}
	}
	return out, nil
}
