package jinja

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxJSONDepth bounds the nesting that DecodeJSON accepts; Python's own limit lies near 1000.
const maxJSONDepth = 512

// DecodeJSON reads one JSON value and keeps the order of object keys: *Map, []any, string, int64 or *big.Int, float64,
// bool, nil. Of a repeated key the last value wins, at the place of the first, as in Python. It accepts what
// encoding/json accepts, less what is nested deeper than 512 and integers of more than 4300 digits. The result shares
// nothing with data.
func DecodeJSON(data []byte) (any, error) { return decodeJSON(data, false) }

// DecodeUniqueJSON is DecodeJSON for texts in which a repeated key is an error.
func DecodeUniqueJSON(data []byte) (any, error) { return decodeJSON(data, true) }

func decodeJSON(data []byte, unique bool) (any, error) {
	d := jsonReader{data: data, unique: unique}
	v, err := d.document()
	if errors.Is(err, errSyntax) {
		var none any
		if err = json.Unmarshal(data, &none); err == nil { // its message names the place
			err = errSyntax
		}
	}
	if err != nil {
		return nil, fmt.Errorf("decode JSON: %w", err)
	}
	return v, nil
}

var errSyntax = errors.New("invalid JSON")

// jsonReader reads JSON in one pass.
type jsonReader struct {
	data   []byte
	at     int
	unique bool
	buf    []byte // of texts with escapes
}

func (d *jsonReader) document() (any, error) {
	v, err := d.value(0)
	if err == nil && d.skip() != 0 {
		err = errSyntax
	}
	return v, err
}

// skip passes white space and returns the byte behind it, 0 at the end.
func (d *jsonReader) skip() byte {
	for ; d.at < len(d.data); d.at++ {
		if c := d.data[d.at]; c != ' ' && c != '\t' && c != '\n' && c != '\r' {
			if c == 0 {
				return 0xff // no JSON has it here
			}
			return c
		}
	}
	return 0
}

func (d *jsonReader) value(depth int) (any, error) {
	if depth > maxJSONDepth {
		if json.Valid(d.data) {
			return nil, fmt.Errorf("%w: nested deeper than %d", ErrLimit, maxJSONDepth)
		}
		return nil, errSyntax
	}
	switch c := d.skip(); {
	case c == '"':
		return d.text()
	case c == '{':
		return d.object(depth)
	case c == '[':
		return d.array(depth)
	case c == '-' || c >= '0' && c <= '9':
		return d.number()
	}
	for _, l := range []struct {
		word  string
		value any
	}{{"true", true}, {"false", false}, {"null", nil}} {
		if bytes.HasPrefix(d.data[d.at:], []byte(l.word)) {
			d.at += len(l.word)
			return l.value, nil
		}
	}
	return nil, errSyntax
}

// next passes the comma behind a member, or what closes the value: then it reports the end.
func (d *jsonReader) next(closing byte) (end bool, err error) {
	switch d.skip() {
	case ',':
		d.at++
		return false, nil
	case closing:
		d.at++
		return true, nil
	}
	return false, errSyntax
}

func (d *jsonReader) object(depth int) (any, error) {
	d.at++
	m := NewMap()
	if d.skip() == '}' {
		d.at++
		return m, nil
	}
	for {
		if d.skip() != '"' {
			return nil, errSyntax
		}
		key, err := d.text()
		if err != nil {
			return nil, err
		}
		if d.skip() != ':' {
			return nil, errSyntax
		}
		d.at++
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		before := m.Len()
		if m.Set(key, v); d.unique && m.Len() == before {
			return nil, fmt.Errorf("the key %q stands twice in one object", key)
		}
		if end, err := d.next('}'); end || err != nil {
			return m, err
		}
	}
}

func (d *jsonReader) array(depth int) (any, error) {
	d.at++
	out := []any{}
	if d.skip() == ']' {
		d.at++
		return out, nil
	}
	for {
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
		if end, err := d.next(']'); end || err != nil {
			return out, err
		}
	}
}

// text reads a string. What is no UTF-8, and half a pair of UTF-16, becomes U+FFFD, as in encoding/json.
func (d *jsonReader) text() (string, error) {
	d.at++
	begin, out := d.at, []byte(nil) // out: what is before begin, once there was an escape
	for {
		d.at += PlainJSON(d.data[d.at:])
		if d.at == len(d.data) {
			return "", errSyntax
		}
		switch d.data[d.at] {
		case '"':
			inner := d.data[begin:d.at]
			d.at++
			if out != nil {
				out = append(out, inner...)
				d.buf, inner = out, out
			}
			if !utf8.Valid(inner) {
				return string([]rune(string(inner))), nil
			}
			return string(inner), nil
		case '\\':
			if out == nil {
				if d.buf == nil {
					d.buf = make([]byte, 0, len(d.data)-begin) // a text is no longer than its JSON
				}
				out = d.buf[:0]
			}
			out = append(out, d.data[begin:d.at]...)
			var ok bool
			if out, ok = d.escape(out); !ok {
				return "", errSyntax
			}
			begin = d.at
		default:
			return "", errSyntax
		}
	}
}

// escapes are the characters behind a backslash that stand for one byte.
var escapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// escape appends what the escape at the place stands for, and passes it.
func (d *jsonReader) escape(out []byte) (_ []byte, ok bool) {
	if d.at+1 < len(d.data) {
		if c := escapes[d.data[d.at+1]]; c != 0 {
			d.at += 2
			return append(out, c), true
		}
	}
	r := d.unit(d.at)
	if r < 0 {
		return nil, false
	}
	d.at += 6
	if utf16.IsSurrogate(r) {
		if r = utf16.DecodeRune(r, d.unit(d.at)); r != utf8.RuneError {
			d.at += 6
		}
	}
	return utf8.AppendRune(out, r), true
}

// unit returns the UTF-16 unit of the escape \uHHHH at a place, -1 where none is there.
func (d *jsonReader) unit(at int) rune {
	if at+6 > len(d.data) || d.data[at] != '\\' || d.data[at+1] != 'u' {
		return -1
	}
	var unit [2]byte
	if _, err := hex.Decode(unit[:], d.data[at+2:at+6]); err != nil {
		return -1
	}
	return rune(unit[0])<<8 | rune(unit[1])
}

func (d *jsonReader) number() (any, error) {
	begin := d.at
	for d.at < len(d.data) && strings.IndexByte("+-.0123456789Ee", d.data[d.at]) >= 0 {
		d.at++
	}
	text := d.data[begin:d.at]
	if !json.Valid(text) {
		return nil, errSyntax
	}
	return decodeNumber(string(text))
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
