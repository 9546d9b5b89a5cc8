package openai

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
	"strings"
)

// Decode reads a JSON object into the struct at v; members that the struct lacks are an error, and null leaves a member
// unchanged. at is the path of the object in the body, "" for the body itself. The *Error names the member, the
// expected type and the actual one, as in the other bodies.
func Decode(data []byte, at string, v any) error {
	b, err := parseBody(data, Limits{})
	if err != nil {
		if at != "" {
			err.Param, err.Message = at, strings.Replace(err.Message, "The body", at, 1)
		}
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(b.data))
	dec.DisallowUnknownFields()
	wrong := dec.Decode(v)
	if wrong == nil {
		return nil
	}
	var kind *json.UnmarshalTypeError
	if errors.As(wrong, &kind) {
		return typeError(b, at, kind)
	}
	if name, ok := strings.CutPrefix(wrong.Error(), "json: unknown field "); ok {
		if plain, err := strconv.Unquote(name); err == nil {
			name = plain
		}
		return Invalid(at, "unknown_member", "%q is not a member of %s.", shorten(name), orBody(at))
	}
	return Invalid(at, "invalid_json", "%s is refused: %s.", orBody(at), wrong)
}

func orBody(at string) string {
	if at == "" {
		return "the body"
	}
	return at
}

// typeError describes a decoder's type error with the names of JSON types instead of Go's.
func typeError(b *body, at string, e *json.UnmarshalTypeError) *Error {
	name := strings.TrimPrefix(at+"."+e.Field, ".")
	want, came := wanted(e.Type), e.Value
	if number, ok := strings.CutPrefix(came, "number "); ok {
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
		return "a number of ordinary size"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Struct, reflect.Map:
		return "an object"
	}
	return "an integer"
}
