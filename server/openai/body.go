package openai

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// body is one request's JSON object. Members are read by name; the first error is kept.
type body struct {
	data    []byte // the object's text, without a byte order mark
	members map[string]json.RawMessage
	limits  Limits
	err     *Error
}

// bom is the byte order mark that some programs on Windows write before a text of UTF-8.
var bom = []byte("\ufeff")

// parseBody checks every body for UTF-8, bounded nesting, and one JSON object with nothing after it.
func parseBody(data []byte, limits Limits) (*body, *Error) {
	if !utf8.Valid(data) {
		return nil, Invalid("", "invalid_utf8", "The body is not valid UTF-8.")
	}
	data = bytes.TrimLeft(bytes.TrimPrefix(data, bom), " \t\r\n")
	if len(data) == 0 {
		return nil, Invalid("", "invalid_json", "The body is empty; a JSON object is expected.")
	}
	if depth(data) > MaxDepth {
		return nil, Invalid("", "too_deep", "The body is nested more than %d levels deep.", MaxDepth)
	}
	if !json.Valid(data) {
		var v any
		return nil, Invalid("", "invalid_json", "The body is not valid JSON: %s.", json.Unmarshal(data, &v))
	}
	if data[0] != '{' {
		return nil, Invalid("", "invalid_type", "The body must be a JSON object, not %s.", kindOf(data))
	}
	b := &body{data: data, limits: limits}
	var err *Error
	b.members, err = membersOf(data)
	return b, err
}

// membersOf splits a valid JSON object into its members, which stay where they are in data. Of equal names the last
// counts.
func membersOf(data []byte) (map[string]json.RawMessage, *Error) {
	members := map[string]json.RawMessage{}
	level, start, colon, inString := 0, 1, 0, false
	for i := 1; i < len(data); i++ {
		switch c := data[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			level++
		case level > 0 && (c == '}' || c == ']'):
			level--
		case level > 0:
		case c == ':':
			colon = i
		case colon > 0 && (c == ',' || c == '}'):
			name, err := textOf("", bytes.Trim(data[start:colon], " \t\r\n"))
			if err == nil && len(members) == MaxMembers {
				err = Invalid("", "too_many", "The body has more than %d members.", MaxMembers)
			}
			if err != nil {
				return nil, err
			}
			members[name] = bytes.Trim(data[colon+1:i:i], " \t\r\n")
			start, colon = i+1, 0
		}
	}
	return members, nil
}

// depth returns the deepest nesting of brackets outside strings; it stops counting beyond MaxDepth.
func depth(data []byte) int {
	deepest, level := 0, 0
	inString := false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if level++; level > deepest {
				if deepest = level; deepest > MaxDepth {
					return deepest
				}
			}
		case c == '}' || c == ']':
			level--
		}
	}
	return deepest
}

// get returns a member that is present and not null.
func (b *body) get(name string) (json.RawMessage, bool) {
	raw, ok := b.members[name]
	return raw, ok && !isNull(raw)
}

// fail keeps the first error.
func (b *body) fail(err *Error) {
	if b.err == nil {
		b.err = err
	}
}

// text reads a string of at most limit characters.
func (b *body) text(name string, limit int) string {
	raw, ok := b.get(name)
	if !ok {
		return ""
	}
	s, err := textOf(name, raw)
	if err == nil && longer(s, limit) {
		err = badValue(name, "is longer than %d characters.", limit)
	}
	b.fail(err)
	return s
}

// flag reads a boolean.
func (b *body) flag(name string, def bool) bool {
	raw, ok := b.get(name)
	if !ok {
		return def
	}
	v, err := flagOf(name, raw)
	b.fail(err)
	return v
}

// params reads the members of the two tables that the API has.
func (b *body) params(p *Params, of api) {
	for _, row := range numbers {
		if raw, ok := b.get(row.name); ok && row.api&of != 0 {
			v, err := checkNumber(row.name, raw, row.integer, row.min, row.max, row.above)
			if err != nil {
				b.fail(err)
				continue
			}
			row.set(p, v)
		}
	}
	for _, row := range booleans {
		if raw, ok := b.get(row.name); ok && row.api&of != 0 {
			v, err := flagOf(row.name, raw)
			if err != nil {
				b.fail(err)
				continue
			}
			row.set(p, v)
		}
	}
}

// longer reports whether a text has more than limit characters, which are code points as in the OpenAPI document.
func longer(s string, limit int) bool { return len(s) > limit && utf8.RuneCountInString(s) > limit }

func textOf(name string, raw json.RawMessage) (string, *Error) {
	if raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), nil // copied once
	}
	var s string
	if raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", badType(name, "a string", raw)
	}
	return s, nil
}

func flagOf(name string, raw json.RawMessage) (bool, *Error) {
	switch string(raw) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, badType(name, "true or false", raw)
}

// elements splits a valid JSON array of at most limit elements; more elements, or a value of another type, are an
// error.
func elements(name string, raw json.RawMessage, limit int) (out []json.RawMessage, err *Error) {
	err = eachElement(name, raw, limit, func(_ int, item json.RawMessage) *Error {
		out = append(out, item)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// eachElement calls f with the elements, until it returns an error.
func eachElement(name string, raw json.RawMessage, limit int, f func(i int, item json.RawMessage) *Error) *Error {
	if raw[0] != '[' {
		return badType(name, "an array", raw)
	}
	level, start, n, inString := 0, 1, 0, false
	for i := 1; i < len(raw); i++ {
		switch c := raw[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			level++
		case c == '}', c == ']' && level > 0:
			level--
		case c == ',' && level == 0, c == ']':
			item := json.RawMessage(bytes.Trim(raw[start:i], " \t\r\n"))
			if len(item) == 0 {
				return nil // an empty array
			}
			if n == limit {
				return Invalid(name, "too_many", "%s has more than %d elements.", name, limit)
			}
			if err := f(n, item); err != nil {
				return err
			}
			n, start = n+1, i+1
		}
	}
	return nil
}

// object reads a JSON object's members.
func object(name string, raw json.RawMessage) (map[string]json.RawMessage, *Error) {
	var m map[string]json.RawMessage
	if raw[0] != '{' || json.Unmarshal(raw, &m) != nil {
		return nil, badType(name, "an object", raw)
	}
	return m, nil
}

func isNull(raw json.RawMessage) bool { return string(raw) == "null" }

// kindOf returns the name of a value's JSON type for a message.
func kindOf(raw []byte) string {
	if len(raw) == 0 {
		return "nothing"
	}
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}
