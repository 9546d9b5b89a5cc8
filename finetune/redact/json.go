package redact

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxNested bounds how deep JSON inside of strings inside of JSON is read as JSON.
const maxNested = 8

// JSON returns JSON text whose string values are redacted. Keys and everything else stay byte for byte, and the result
// is valid JSON. A string that holds JSON, as the arguments of a tool call do, stays JSON. A number that is redacted
// becomes a string. What is not JSON is redacted as text.
func (s *Scope) JSON(text []byte) []byte {
	if out, changed := s.json(text, 0); changed {
		return out
	}
	return text
}

func (s *Scope) json(text []byte, depth int) ([]byte, bool) {
	if !json.Valid(text) {
		return s.redact(nil, string(text), "")
	}
	var out []byte
	key := ""
	done := 0 // text[:done] is in out
	change := func(from, to int, value string) {
		out = append(out, text[done:from]...)
		out = appendQuoted(out, value)
		done = to
	}
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c == '"':
			end := stringEnd(text, i)
			if isKey(text, end) {
				key = string(text[i+1 : min(end-1, i+1+maxHint)])
			} else if v, changed := s.value(text[i:end], key, depth); changed {
				change(i, end, v)
			}
			i = end
		case c == '-' || c >= '0' && c <= '9':
			end := i + 1
			for end < len(text) && bytes.IndexByte([]byte("0123456789+-.eE"), text[end]) >= 0 {
				end++
			}
			if end-i >= minNumber {
				if v, changed := s.redact(nil, string(text[i:end]), key); changed {
					change(i, end, string(v))
				}
			}
			i = end
		default:
			i++
		}
	}
	if done == 0 {
		return text, false
	}
	return append(out, text[done:]...), true
}

// minNumber is the length from which a number of JSON may be a card or a telephone number.
const minNumber = 11

// maxHint bounds how much of a key is looked at for words such as phone.
const maxHint = 40

// value returns what a quoted string becomes.
func (s *Scope) value(quoted []byte, key string, depth int) (string, bool) {
	text := string(quoted[1 : len(quoted)-1])
	if strings.IndexByte(text, '\\') >= 0 {
		text = unescaped(text)
	}
	if t := strings.TrimLeft(text, " \t\r\n"); depth < maxNested && t != "" && (t[0] == '{' || t[0] == '[') &&
		json.Valid([]byte(text)) {
		out, changed := s.json([]byte(text), depth+1)
		return string(out), changed
	}
	out, changed := s.redact(nil, text, key)
	return string(out), changed
}

// stringEnd returns the end of the string that begins at i, in valid JSON.
func stringEnd(text []byte, i int) int {
	for i++; text[i] != '"'; i++ {
		if text[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// isKey says whether the string that ends at end is a key.
func isKey(text []byte, end int) bool {
	for end < len(text) && (text[end] == ' ' || text[end] == '\t' || text[end] == '\r' || text[end] == '\n') {
		end++
	}
	return end < len(text) && text[end] == ':'
}

func appendQuoted(out []byte, value string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return append(out, `""`...) // a string can always be encoded
	}
	return append(out, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}

// unescaped returns what the inside of a quoted string of valid JSON means.
func unescaped(text string) string {
	out := make([]byte, 0, len(text))
	for {
		i := strings.IndexByte(text, '\\')
		if i < 0 {
			return string(append(out, text...))
		}
		out = append(out, text[:i]...)
		c := text[i+1]
		text = text[i+2:]
		switch c {
		case 'u':
			r := hex(text)
			text = text[4:]
			if utf16.IsSurrogate(r) {
				pair := rune(utf8.RuneError)
				if len(text) >= 6 && text[:2] == `\u` {
					pair = utf16.DecodeRune(r, hex(text[2:]))
				}
				if r = pair; r != utf8.RuneError {
					text = text[6:]
				}
			}
			out = utf8.AppendRune(out, r)
		case 'b', 'f', 'n', 'r', 't':
			out = append(out, "\b\f\n\r\t"[strings.IndexByte("bfnrt", c)])
		default:
			out = append(out, c)
		}
	}
}

// hex returns the value of four hexadecimal digits.
func hex(text string) rune {
	v, _ := strconv.ParseUint(text[:4], 16, 16) // json.Valid has seen them
	return rune(v)
}
