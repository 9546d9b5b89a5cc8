package redact

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// names finds the names of a list: whole words, in any case; names in scripts without spaces between words also within
// other text.
type names struct {
	root  *node
	first [utf8.RuneSelf]bool // ASCII characters with which a name begins
	other [1 << 12]bool       // the low bits of other characters with which one begins
}

type node struct {
	next map[rune]*node
	name bool
}

func newNames(list []string) *names {
	if len(list) == 0 {
		return nil
	}
	n := &names{root: &node{next: map[rune]*node{}}}
	for _, name := range list {
		at := n.root
		for _, c := range strings.Join(strings.Fields(name), " ") {
			c = lower(c)
			if at == n.root {
				for f := unicode.SimpleFold(c); ; f = unicode.SimpleFold(f) {
					if f < utf8.RuneSelf {
						n.first[f] = true
					}
					n.other[f&(1<<12-1)] = true
					if f == c {
						break
					}
				}
			}
			if at.next == nil {
				at.next = map[rune]*node{}
			}
			if at.next[c] == nil {
				at.next[c] = &node{}
			}
			at = at.next[c]
		}
		at.name = true
	}
	return n
}

// lower returns the form that all cases of c have in common; a curly apostrophe is an apostrophe.
func lower(c rune) rune {
	if c == '’' {
		return '\''
	}
	return unicode.ToLower(c)
}

// at returns the length of the longest name that begins at i of text.
func (n *names) at(text string, i int) int {
	if c := text[i]; c < utf8.RuneSelf && !n.first[c] {
		return 0
	}
	long, at, start := 0, n.root, i
	for i < len(text) {
		c, size := utf8.DecodeRuneInString(text[i:])
		if unicode.IsSpace(c) {
			for i+size < len(text) {
				next, more := utf8.DecodeRuneInString(text[i+size:])
				if !unicode.IsSpace(next) || size > MaxName {
					break
				}
				size += more
			}
			c = ' '
		}
		if at = at.next[lower(c)]; at == nil {
			break
		}
		i += size
		if at.name && wordEnds(text, i) {
			long = i - start
		}
	}
	return long
}

// wordEnds says whether a word ends at i: there are not letters or digits on both sides, or one of them is of a script
// without spaces between words.
func wordEnds(text string, i int) bool {
	a, _ := utf8.DecodeLastRuneInString(text[:i])
	b, _ := utf8.DecodeRuneInString(text[i:])
	return !wordRune(a) || !wordRune(b)
}

// wordRune says whether c belongs to words that are written with spaces between them.
func wordRune(c rune) bool {
	if c < utf8.RuneSelf {
		return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
	}
	return c != utf8.RuneError && (unicode.IsLetter(c) || unicode.IsDigit(c) || unicode.IsMark(c)) && !unspaced(c)
}

// unspaced says whether words of c's script are written without spaces between them.
func unspaced(c rune) bool {
	switch {
	case c < 0x0E00:
		return false
	case c < 0x0E80, c >= 0x2E80 && c < 0xA000, c >= 0xAC00 && c < 0xD7B0: // Thai; Han and kana; Hangul
		return true
	}
	return c >= 0xF900 && c < 0xFB00 || c >= 0xFF66 && c < 0xFFA0 || c >= 0x20000 && c < 0x40000
}
