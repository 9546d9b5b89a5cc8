package redact

import "strings"

func asciiLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func digit(c byte) bool       { return c >= '0' && c <= '9' }

// email adds the address around the @ at i.
func (r *Redactor) email(text string, i int, w *scratch) {
	a, b := i, i+1
	for a > 0 && i-a < 64 && (asciiLetter(text[a-1]) || digit(text[a-1]) ||
		strings.IndexByte("._%+-'", text[a-1]) >= 0) {
		a--
	}
	for b < len(text) && b-i < 254 && (asciiLetter(text[b]) || digit(text[b]) || text[b] == '.' || text[b] == '-') {
		b++
	}
	for b > i && (text[b-1] == '.' || text[b-1] == '-') {
		b--
	}
	if dot := strings.LastIndexByte(text[i:b], '.'); a < i && dot > 1 && i+dot+2 < b {
		w.found = append(w.found, Find{a, b, Email, strings.ToLower(text[a:b])})
	}
}
