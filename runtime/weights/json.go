package weights

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// jsonReader reads JSON strictly, token by token: unexpected tokens and repeated keys are errors, and no tree is built.
type jsonReader struct{ dec *json.Decoder }

func newJSONReader(text []byte) (*jsonReader, error) {
	if !utf8.Valid(text) {
		return nil, fmt.Errorf("the JSON is not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	return &jsonReader{dec}, nil
}

// maxKeyBytes bounds a key, which may be a tensor's name.
const maxKeyBytes = 1024

// object calls field for each key; field reads the value.
func (r *jsonReader) object(what string, field func(key string) error) error {
	if err := r.delim('{', what); err != nil {
		return err
	}
	seen := map[string]bool{}
	for r.dec.More() {
		key, err := r.text("key of " + what)
		if err != nil {
			return err
		}
		if len(key) > maxKeyBytes {
			return fmt.Errorf("%s: a key of %d bytes is longer than %d", what, len(key), maxKeyBytes)
		}
		if seen[key] {
			return fmt.Errorf("%s: key %q occurs twice", what, key)
		}
		seen[key] = true
		if err := field(key); err != nil {
			return err
		}
	}
	return r.delim('}', what)
}

// uints reads an array of at most limit integers in [0, 2^63).
func (r *jsonReader) uints(what string, limit int) ([]int64, error) {
	if err := r.delim('[', what); err != nil {
		return nil, err
	}
	var out []int64
	for r.dec.More() {
		t, err := r.dec.Token()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		num, ok := t.(json.Number)
		n, err := strconv.ParseUint(string(num), 10, 63)
		if !ok || err != nil {
			return nil, fmt.Errorf("%s: %v is not an integer in [0, 2^63)", what, t)
		}
		if len(out) == limit {
			return nil, fmt.Errorf("%s: more than %d values", what, limit)
		}
		out = append(out, int64(n))
	}
	return out, r.delim(']', what)
}

func (r *jsonReader) text(what string) (string, error) {
	t, err := r.dec.Token()
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	s, ok := t.(string)
	if !ok {
		return "", fmt.Errorf("%s: %v is not a string", what, t)
	}
	return s, nil
}

// skip passes over one value of any shape.
func (r *jsonReader) skip(what string) error {
	for depth := 0; ; {
		t, err := r.dec.Token()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

// end refuses anything except white space after the value.
func (r *jsonReader) end() error {
	switch t, err := r.dec.Token(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return fmt.Errorf("after the end of the JSON: %w", err)
	default:
		return fmt.Errorf("%v after the end of the JSON", t)
	}
}

func (r *jsonReader) delim(want json.Delim, what string) error {
	t, err := r.dec.Token()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if t != want {
		return fmt.Errorf("%s: found %v, want %v", what, t, want)
	}
	return nil
}
