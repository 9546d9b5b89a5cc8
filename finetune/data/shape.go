package data

import (
	"errors"
	"fmt"

	"weft/internal/jinja"
)

// shape follows the structure of JSON byte by byte, so that the end of a value, or a place where no value can go on, is
// known without keeping the text. It does not check what numbers, literals and escapes consist of.
type shape struct {
	open  []byte // '{' and '[' that are not closed yet
	next  expect
	esc   bool // the byte follows a backslash
	isKey bool // the string is a key
}

// expect is what the structure allows next.
type expect uint8

const (
	value      expect = iota
	valueOrEnd        // behind '['
	key               // behind ',' in an object
	keyOrEnd          // behind '{'
	colon
	comma   // or the end of what is open; at depth 0 the value has ended
	text    // within a string
	literal // within a number, true, false or null
)

// maxNesting is above what jinja.DecodeJSON reads.
const maxNesting = 600

// ended reports whether a value at the given depth (number of open brackets around it) has just ended. A literal ends
// only with the byte behind it.
func (s *shape) ended(depth int) bool { return s.next == comma && len(s.open) == depth }

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// skip returns how many bytes of part, which follow, change nothing, so that step need not be called for them: what is
// plain within a string.
func (s *shape) skip(part []byte) int {
	if s.next != text || s.esc {
		return 0
	}
	return jinja.PlainJSON(part)
}

// step takes the next byte.
func (s *shape) step(c byte) error {
	switch {
	case s.next == text:
		switch {
		case s.esc:
			s.esc = false
		case c == '\\':
			s.esc = true
		case c == '"':
			s.next = comma
			if s.isKey {
				s.next = colon
			}
		}
		if c < ' ' {
			return fmt.Errorf("invalid character %q in string literal", c)
		}
		return nil
	case s.next == literal && (c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '+' || c == '-' ||
		c == '.'):
		return nil
	case s.next == literal:
		s.next = comma
	}
	if isSpace(c) {
		return nil
	}
	switch s.next {
	case colon:
		if c != ':' {
			return fmt.Errorf("invalid character %q after object key", c)
		}
		s.next = value
		return nil
	case comma:
		return s.separator(c)
	case keyOrEnd, key:
		switch {
		case c == '"':
			s.next, s.isKey = text, true
		case c == '}' && s.next == keyOrEnd:
			s.close()
		default:
			return fmt.Errorf("invalid character %q looking for beginning of object key string", c)
		}
		return nil
	}
	return s.begin(c)
}

// begin takes the first byte of a value.
func (s *shape) begin(c byte) error {
	switch {
	case c == ']' && s.next == valueOrEnd:
		s.close()
	case c == '{' || c == '[':
		if len(s.open) == maxNesting {
			return fmt.Errorf("nested deeper than %d", maxNesting)
		}
		s.open = append(s.open, c)
		s.next = keyOrEnd
		if c == '[' {
			s.next = valueOrEnd
		}
	case c == '"':
		s.next, s.isKey = text, false
	case c >= '0' && c <= '9' || c == '-' || c == 't' || c == 'f' || c == 'n':
		s.next = literal
	case c == 'N' || c == 'I':
		return fmt.Errorf("invalid character %q: NaN and Infinity are no JSON: write null", c)
	default:
		return fmt.Errorf("invalid character %q looking for beginning of value", c)
	}
	return nil
}

func (s *shape) close() { s.open, s.next = s.open[:len(s.open)-1], comma }

// separator takes what stands behind a value.
func (s *shape) separator(c byte) error {
	if len(s.open) == 0 {
		return errors.New("more text behind the value")
	}
	object := s.open[len(s.open)-1] == '{'
	switch {
	case c == ',' && object:
		s.next = key
	case c == ',':
		s.next = value
	case c == '}' && object, c == ']' && !object:
		s.close()
	case object:
		return fmt.Errorf("invalid character %q after object key:value pair", c)
	default:
		return fmt.Errorf("invalid character %q after array element", c)
	}
	return nil
}
