package redact

import "strings"

// scratch is memory that a scope uses again.
type scratch struct {
	found []Find
}

// indexByte is strings.IndexByte from a position on.
func indexByte(s string, c byte, from int) int {
	if i := strings.IndexByte(s[min(from, len(s)):], c); i >= 0 {
		return from + i
	}
	return -1
}

// scan adds the finds of a text to w.
func (r *Redactor) scan(text string, w *scratch) {
	for i := range len(text) {
		if text[i] == '@' && !r.leave[Email] {
			r.email(text, i, w)
		}
	}
}
