package jinja

import (
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strings"
)

// Map is a dictionary that keeps insertion order, as Python's does. Keys that come from JSON are strings; a template
// may use any hashable value. The zero value is an empty Map. A Map handed to Render must not change during the call.
type Map struct {
	keys, vals []any
	index      map[any]int // by hashKey; nil while there are at most smallMap keys
}

const smallMap = 8

// NewMap returns an empty Map.
func NewMap() *Map { return &Map{} }

// Len returns the number of keys.
func (m *Map) Len() int { return len(m.keys) }

// Get returns the value under a string key.
func (m *Map) Get(key string) (any, bool) {
	if i := m.findText(key); i >= 0 {
		return m.vals[i], true
	}
	return nil, false
}

// findText returns the place of a string key, or -1: only a string is equal to one.
func (m *Map) findText(key string) int {
	if m.index != nil {
		return m.find(key)
	}
	for i, k := range m.keys {
		if s, ok := k.(string); ok && s == key {
			return i
		}
	}
	return -1
}

// find returns the place of a key by its hash, or -1.
func (m *Map) find(hash any) int {
	if m.index != nil {
		if i, ok := m.index[hash]; ok {
			return i
		}
		return -1
	}
	for i, k := range m.keys {
		if h, _ := hashKey(k); h == hash {
			return i
		}
	}
	return -1
}

// Set stores v under a string key; a new key goes to the end, an old one keeps its place.
func (m *Map) Set(key string, v any) {
	if i := m.findText(key); i >= 0 {
		m.vals[i] = v
		return
	}
	m.add(key, key, v)
}

// At returns the i-th key, in insertion order, and its value.
func (m *Map) At(i int) (key, value any) { return m.keys[i], m.vals[i] }

// Clone returns a copy that shares the values.
func (m *Map) Clone() *Map {
	return &Map{keys: slices.Clone(m.keys), vals: slices.Clone(m.vals), index: maps.Clone(m.index)}
}

// Filter returns a copy of the entries for which keep holds; it shares the values.
func (m *Map) Filter(keep func(key, value any) bool) *Map {
	out := NewMap()
	for i, k := range m.keys {
		if keep(k, m.vals[i]) {
			h, _ := hashKey(k) // it is the key of a Map already
			out.put(h, k, m.vals[i])
		}
	}
	return out
}

func (m *Map) put(hash, key, v any) {
	if i := m.find(hash); i >= 0 {
		m.vals[i] = v
		return
	}
	m.add(hash, key, v)
}

// add adds a key that is not there.
func (m *Map) add(hash, key, v any) {
	m.keys = append(m.keys, key)
	m.vals = append(m.vals, v)
	switch n := len(m.keys); {
	case m.index != nil:
		m.index[hash] = n - 1
	case n > smallMap:
		m.reindex()
	}
}

func (m *Map) reindex() {
	m.index = make(map[any]int, len(m.keys))
	for i, k := range m.keys {
		h, _ := hashKey(k)
		m.index[h] = i
	}
}

// remove deletes a string key.
func (m *Map) remove(key string) {
	i := m.find(key)
	if i < 0 {
		return
	}
	m.keys, m.vals = slices.Delete(m.keys, i, i+1), slices.Delete(m.vals, i, i+1)
	if m.index != nil {
		m.reindex()
	}
}

func (m *Map) set(key, v any) error {
	h, err := hashKey(key)
	if err != nil {
		return err
	}
	m.put(h, key, v)
	return nil
}

func (m *Map) get(key any) (any, bool, error) {
	h, err := hashKey(key)
	if err != nil {
		return nil, false, err
	}
	if i := m.find(h); i >= 0 {
		return m.vals[i], true, nil
	}
	return nil, false, nil
}

type noneKey struct{}
type textKey struct{ kind, text string }

// hashKey maps equal Python values (1, 1.0, True) to one comparable Go value.
func hashKey(v any) (any, error) {
	switch v := v.(type) {
	case nil:
		return noneKey{}, nil
	case string:
		return v, nil
	case bool:
		return boolInt(v), nil
	case int64:
		return v, nil
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<62 {
			return int64(v), nil
		}
		return v, nil
	case *big.Int:
		return textKey{"int", v.String()}, nil
	case Tuple:
		var b strings.Builder
		for _, x := range v {
			h, err := hashKey(x)
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(&b, "%T:%#v;", h, h)
		}
		return textKey{"tuple", b.String()}, nil
	case *undefined:
		return textKey{"undefined", ""}, nil
	case []any, *Map:
		return nil, typeError("unhashable type: '%s'", typeName(v))
	}
	return v, nil
}
