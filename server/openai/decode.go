package openai

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Decode reads a JSON object into the struct at v, by the rules of the other bodies: null is as if the member were
// absent, and 1.0 is an integer. Members that the struct lacks are an error. at is the path of the object in the body,
// "" for the body itself. The *Error names the member, the expected type and the actual one.
func Decode(data []byte, at string, v any) error {
	b, err := parseBody(data, Limits{})
	if err != nil {
		if at != "" {
			err.Param, err.Message = at, strings.Replace(err.Message, "The body", at, 1)
		}
		return err
	}
	text, err := normal(b.data, at, v)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	wrong := dec.Decode(v)
	if wrong == nil {
		return nil
	}
	var kind *json.UnmarshalTypeError
	if errors.As(wrong, &kind) {
		return typeError(b, at, kind, v)
	}
	return Invalid(at, "invalid_json", "%s is refused: %s.", orBody(at), wrong)
}

// normal returns a valid JSON object without members that are null, and with 1 for 1.0. encoding/json would leave the
// element of an array that is null as it was, and take a member whose name has other capitals: both are refused.
func normal(data []byte, at string, v any) ([]byte, *Error) {
	var in, shape any
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	err := dec.Decode(&in)
	known, shapeErr := json.Marshal(v)
	if err = errors.Join(err, shapeErr, json.Unmarshal(known, &shape)); err != nil {
		return nil, Invalid(at, "invalid_json", "%s is refused: %s.", orBody(at), err)
	}
	in, wrong := normalValue(in, at, shape)
	if wrong != nil {
		return nil, wrong
	}
	text, err := json.Marshal(in)
	if err != nil {
		return nil, Invalid(at, "invalid_json", "%s is refused: %s.", orBody(at), err)
	}
	return text, nil
}

// normalValue is normal for one value; shape is an object with the members that the value may have, or none.
func normalValue(in any, at string, shape any) (any, *Error) {
	switch in := in.(type) {
	case map[string]any:
		known, _ := shape.(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(in)) {
			if _, ok := known[name]; known != nil && !ok {
				return nil, Invalid(strings.TrimPrefix(at+"."+shorten(name), "."), "unknown_member",
					"%q is not a member of %s.", shorten(name), orBody(at))
			}
			value, err := normalValue(in[name], strings.TrimPrefix(at+"."+name, "."), known[name])
			if err != nil {
				return nil, err
			}
			if in[name] = value; value == nil {
				delete(in, name)
			}
		}
	case []any:
		for i := range in {
			value, err := normalValue(in[i], at, nil)
			if err == nil && value == nil {
				err = Invalid(at, "invalid_type", "No element of %s may be null.", at)
			}
			if err != nil {
				return nil, err
			}
			in[i] = value
		}
	case json.Number:
		if f, err := in.Float64(); err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return json.Number(strconv.FormatInt(int64(f), 10)), nil
		}
	}
	return in, nil
}

func orBody(at string) string {
	if at == "" {
		return "the body"
	}
	return at
}

// Ranged is implemented by structs with numbers that have a range: "from 0 to 9" of a member, "" for another member.
type Ranged interface{ Range(member string) string }

// rangeOf returns the range of the number at a path below v.
func rangeOf(v any, path string) string {
	names := strings.Split(path, ".")
	at := reflect.ValueOf(v).Elem()
	for _, name := range names[:len(names)-1] {
		if at = memberOf(at, name); at.Kind() != reflect.Struct {
			return ""
		}
	}
	if r, ok := at.Addr().Interface().(Ranged); ok {
		return r.Range(names[len(names)-1])
	}
	return ""
}

// memberOf returns the field of a struct that has a name in JSON; the zero Value where there is none.
func memberOf(v reflect.Value, name string) reflect.Value {
	for i := range v.NumField() {
		if tag, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ","); tag == name {
			return v.Field(i)
		}
	}
	return reflect.Value{}
}

// typeError describes a decoder's type error with the names of JSON types instead of Go's. A number that its Go type
// cannot hold is out of range, as one that it holds may be.
func typeError(b *body, at string, e *json.UnmarshalTypeError, v any) *Error {
	name := strings.TrimPrefix(at+"."+e.Field, ".")
	want, came := wanted(e.Type), e.Value
	if number, ok := strings.CutPrefix(came, "number "); ok {
		// a float is infinite where it is too large
		if f, _ := strconv.ParseFloat(number, 64); f == math.Trunc(f) {
			bounds := cmp.Or(rangeOf(v, e.Field), want+map[string]string{"an integer": " of 64 bits",
				"a number": " of ordinary size"}[want])
			return Invalid(name, "out_of_range", "%s must be %s, not %s.", name, bounds, shorten(number))
		}
		return Invalid(name, "invalid_type", "%s must be %s, not %s.", name, want, shorten(number))
	}
	came = map[string]string{"bool": "a boolean", "string": "a string", "array": "an array",
		"object": "an object"}[came]
	if came == "" {
		came = "a number"
	}
	if raw, ok := b.find(e.Field); ok && raw[0] == '[' && came != "an array" {
		return Invalid(name, "invalid_type", "Each element of %s must be %s, not %s.", name, want, came)
	}
	return Invalid(name, "invalid_type", "%s must be %s, not %s.", name, want, came)
}

// find returns the member at a path of names joined by dots.
func (b *body) find(path string) (json.RawMessage, bool) {
	members := b.members
	names := strings.Split(path, ".")
	for i, name := range names {
		raw, ok := members[name]
		if !ok || len(raw) == 0 || i == len(names)-1 {
			return raw, ok && len(raw) > 0
		}
		members = nil
		if json.Unmarshal(raw, &members) != nil {
			return nil, false
		}
	}
	return nil, false
}

func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Struct, reflect.Map:
		return "an object"
	}
	return "an integer"
}
