package jinja

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxJSONDepth bounds the nesting that DecodeJSON accepts; Python's own limit lies near 1000.
const maxJSONDepth = 512

// DecodeJSON reads one JSON value and keeps the order of object keys: *Map, []any, string, int64 or *big.Int, float64,
// bool, nil. Of a repeated key the last value wins, at the place of the first, as in Python. It accepts what
// encoding/json accepts, less what is nested deeper than 512 and integers of more than 4300 digits. The result shares
// nothing with data.
func DecodeJSON(data []byte) (any, error) {
	if !json.Valid(data) {
		var v any
		err := json.Unmarshal(data, &v)
		if err == nil {
			err = errors.New("invalid JSON")
		}
		return nil, fmt.Errorf("decode JSON: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	v, err := decodeValue(d, 0)
	if err != nil {
		return nil, fmt.Errorf("decode JSON: %w", err)
	}
	return v, nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	if depth > maxJSONDepth {
		return nil, fmt.Errorf("%w: nested deeper than %d", ErrLimit, maxJSONDepth)
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Number:
		return decodeNumber(t.String())
	case json.Delim:
		if t == '[' {
			return decodeArray(d, depth)
		}
		m := NewMap()
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return nil, err
			}
			v, err := decodeValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			m.Set(k.(string), v)
		}
		_, err = d.Token()
		return m, err
	default:
		return t, nil
	}
}

func decodeArray(d *json.Decoder, depth int) (any, error) {
	out := []any{}
	for d.More() {
		v, err := decodeValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	_, err := d.Token()
	return out, err
}

func decodeNumber(s string) (any, error) {
	if strings.ContainsAny(s, ".eE") {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil && !math.IsInf(f, 0) {
			return nil, err
		}
		return f, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, nil
	}
	if len(s) > 4300 {
		return nil, fmt.Errorf("%w: an integer of %d digits", ErrLimit, len(s))
	}
	b, ok := new(big.Int).SetString(s, 10)
	if !ok {
		return nil, errors.New("bad integer")
	}
	return b, nil
}

// MarshalJSON writes the object with its keys in order. Values of kinds that JSON lacks are an error.
func (m *Map) MarshalJSON() ([]byte, error) {
	ev := newEvaluator(DefaultLimits)
	e := jsonEncoder{ev: ev, item: ",", colon: ":"}
	e.value(m, 0)
	return []byte(e.b.String()), e.err
}

// jsonEncoder writes what Python's json.dumps writes.
type jsonEncoder struct {
	ev          *evaluator
	b           strings.Builder
	item, colon string
	indent      string
	pretty      bool
	ascii, sort bool
	err         error
}

func toJSON(ev *evaluator, v any, a callArgs) (any, error) {
	args, err := a.bind("tojson", "ensure_ascii? indent? separators? sort_keys?")
	if err != nil {
		return nil, err
	}
	e := jsonEncoder{ev: ev, item: ", ", colon: ": ", ascii: boolArg(args[0], false), sort: boolArg(args[3], false)}
	switch n := args[1].(type) {
	case absent, nil:
	case string:
		e.pretty, e.indent = true, n
	default:
		k, err := intArg(n, 0)
		if err != nil {
			return nil, err
		}
		e.pretty = true
		if e.indent, err = padding(ev, " ", k); err != nil {
			return nil, err
		}
	}
	if e.pretty {
		e.item = ","
	}
	if given(args[2]) && args[2] != nil {
		pair, err := ev.collect(args[2])
		if err != nil {
			return nil, err
		}
		ok := len(pair) == 2
		if ok {
			e.item, ok = pair[0].(string)
		}
		if ok {
			e.colon, ok = pair[1].(string)
		}
		if !ok {
			return nil, typeError("separators must be two strings")
		}
	}
	e.value(v, 0)
	if e.err == nil {
		e.err = ev.grow(e.b.Len())
	}
	return e.b.String(), e.err
}

func (e *jsonEncoder) value(v any, depth int) {
	if e.err == nil {
		e.err = e.ev.checkSize(e.b.Len())
	}
	if e.err == nil {
		e.err = e.ev.step()
	}
	if e.err == nil && depth > maxJSONDepth {
		e.err = e.ev.limit("MaxDepth", maxJSONDepth)
	}
	if e.err != nil {
		return
	}
	switch v := v.(type) {
	case nil:
		e.b.WriteString("null")
	case bool:
		e.b.WriteString(strconv.FormatBool(v))
	case string:
		e.text(v)
	case int64, *big.Int, float64:
		e.b.WriteString(e.number(v))
	case []any:
		e.list("[", "]", len(v), depth, func(i int) { e.value(v[i], depth+1) })
	case Tuple:
		e.value([]any(v), depth)
	case *Map:
		e.dict(v, depth)
	default:
		e.err = typeError("Object of type %s is not JSON serializable", typeName(v))
	}
}

func (e *jsonEncoder) number(v any) string {
	f, ok := v.(float64)
	switch {
	case !ok:
		return toBig(v).String()
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 0):
		return strings.Replace(formatFloat(f), "inf", "Infinity", 1)
	}
	return formatFloat(f)
}

func (e *jsonEncoder) list(open, end string, n, depth int, item func(int)) {
	e.b.WriteString(open)
	for i := range n {
		if e.err != nil {
			return
		}
		if i > 0 {
			e.b.WriteString(e.item)
		}
		e.newline(depth + 1)
		item(i)
	}
	if n > 0 {
		e.newline(depth)
	}
	e.b.WriteString(end)
}

func (e *jsonEncoder) newline(depth int) {
	if !e.pretty || e.err != nil {
		return
	}
	if e.err = e.ev.checkSize(e.b.Len() + depth*len(e.indent)); e.err == nil {
		e.b.WriteByte('\n')
		e.b.WriteString(strings.Repeat(e.indent, depth))
	}
}

func (e *jsonEncoder) dict(m *Map, depth int) {
	order := make([]int, m.Len())
	for i := range order {
		order[i] = i
	}
	if e.sort {
		slices.SortStableFunc(order, func(i, j int) int {
			lt, err := less(m.keys[i], m.keys[j], "<")
			if err != nil {
				e.err = err
			}
			if lt {
				return -1
			}
			return int(boolInt(!equal(m.keys[i], m.keys[j])))
		})
	}
	e.list("{", "}", len(order), depth, func(i int) {
		switch k := m.keys[order[i]].(type) {
		case string:
			e.text(k)
		case nil:
			e.text("null")
		case bool:
			e.text(strconv.FormatBool(k))
		case int64, *big.Int, float64:
			e.text(e.number(k))
		default:
			e.err = typeError("keys must be str, int, float, bool or None, not %s", typeName(k))
		}
		e.b.WriteString(e.colon)
		e.value(m.vals[order[i]], depth+1)
	})
}

func (e *jsonEncoder) text(s string) {
	e.b.WriteByte('"')
	for _, r := range s {
		switch r {
		case '"', '\\':
			e.b.WriteByte('\\')
			e.b.WriteRune(r)
		case '\n':
			e.b.WriteString(`\n`)
		case '\r':
			e.b.WriteString(`\r`)
		case '\t':
			e.b.WriteString(`\t`)
		case '\b':
			e.b.WriteString(`\b`)
		case '\f':
			e.b.WriteString(`\f`)
		default:
			switch {
			case r < 0x20 || e.ascii && r >= 0x7f && r <= 0xffff:
				fmt.Fprintf(&e.b, `\u%04x`, r)
			case e.ascii && r >= utf8.RuneSelf:
				r -= 0x10000
				fmt.Fprintf(&e.b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
			default:
				e.b.WriteRune(r)
			}
		}
	}
	e.b.WriteByte('"')
}

// FromGo turns what a caller may pass into a template value, deeply: what DecodeJSON returns, and Go's int,
// json.Number, []string, []map[string]any and map[string]any, which has no order: its keys are sorted. Lists and Maps
// of the result are copies.
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
