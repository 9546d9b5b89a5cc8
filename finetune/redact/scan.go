package redact

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// scratch is memory that a scope uses again.
type scratch struct {
	found []Find
	buf   []byte
	parts []part
}

// scanner holds one text while it is scanned. Every finder goes through it once and calls add.
type scanner struct {
	*Redactor
	folded
	hint  string // the key of the JSON object whose value the text is
	found []Find

	public [][2]int // certificates and public keys, which are no secrets
}

// scan adds the finds of a text, with the key of the JSON object that it belongs to, to w.
func (r *Redactor) scan(text, hint string, w *scratch) {
	s := scanner{Redactor: r, folded: fold(text, w), hint: hint, found: w.found}
	s.addresses()
	s.numbers()
	s.sixes()
	s.secrets()
	s.listed()
	w.found = s.found
}

// add adds text[a:b], of which value is the common form; the empty value stands for the text itself.
func (s *scanner) add(a, b int, kind, value string) {
	if s.leave[kind] {
		return
	}
	if value == "" {
		value = s.text[a:b]
	}
	start, end := s.place(a, b)
	s.found = append(s.found, Find{start, end, kind, value})
}

// before returns the n bytes before i; those of the text's JSON key where the text begins.
func (s *scanner) before(i, n int) string {
	if i >= n || s.hint == "" {
		return s.text[max(0, i-n):i]
	}
	return s.hint + ": " + s.text[:i]
}

// listed adds the names of the tenant's list.
func (s *scanner) listed() {
	if s.names == nil {
		return
	}
	text := s.text
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf && !s.names.first[c] || c >= utf8.RuneSelf && c < 0xC0 {
			i++
			continue
		}
		size := 1
		if i > 0 && wordByte(c) && wordByte(text[i-1]) {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			var r rune
			if r, size = utf8.DecodeRuneInString(text[i:]); !s.names.other[int(r)&(len(s.names.other)-1)] {
				i += size
				continue
			}
		}
		if wordEnds(text, i) {
			if n := s.names.at(text, i); n > 0 {
				s.add(i, i+n, Name, strings.ToLower(strings.Join(strings.Fields(text[i:i+n]), " ")))
				i += n
				continue
			}
		}
		i += size
	}
}

// indexByte is strings.IndexByte from a position on.
func indexByte(s string, c byte, from int) int {
	if i := strings.IndexByte(s[min(from, len(s)):], c); i >= 0 {
		return from + i
	}
	return -1
}

func letter(c byte) bool   { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func digit(c byte) bool    { return c >= '0' && c <= '9' }
func wordByte(c byte) bool { return letter(c) || digit(c) || c == '_' }

// at returns the byte at i, or a space outside of the text.
func at(text string, i int) byte {
	if i < 0 || i >= len(text) {
		return ' '
	}
	return text[i]
}

// words are lists of words, by their first byte, the longest first.
type words [256][]string

func newWords(list ...string) *words {
	var w words
	for _, word := range list {
		w[word[0]] = append(w[word[0]], word)
	}
	for _, of := range w {
		slices.SortFunc(of, func(a, b string) int { return len(b) - len(a) })
	}
	return &w
}

// shortWord is the length up to which a word counts only where it stands alone.
const shortWord = 4

// last returns the index behind the last of the words in text, and -1 without one.
func (w *words) last(text string) int {
	for i := len(text) - 1; i >= 0; i-- {
		for _, word := range w[text[i]] {
			end := i + len(word)
			if strings.HasPrefix(text[i:], word) && (len(word) > shortWord || word[0] >= utf8.RuneSelf ||
				!letter(at(text, i-1)) && !letter(at(text, end))) {
				return end
			}
		}
	}
	return -1
}
