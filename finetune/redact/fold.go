package redact

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What folded does to a rune: digits of any script, full-width forms, spaces and hyphens become their ASCII form,
// invisible characters are left out, and an escape of JSON such as \u0040 becomes its character.
const invisible = -1

func foldRune(c rune) rune {
	switch {
	case c < 0x80:
		return c
	case c >= 0xFF01 && c <= 0xFF5E:
		if c == '，' || c == '：' || c == '；' || c == '！' || c == '？' {
			return c // they end a find, as in Chinese text
		}
		return c - 0xFEE0
	case c == 0xAD || c >= 0x200B && c <= 0x200F || c >= 0x202A && c <= 0x202E ||
		c >= 0x2060 && c <= 0x2064 || c == 0xFEFF:
		return invisible
	case c == 0xA0 || c >= 0x2000 && c <= 0x200A || c == 0x202F || c == 0x205F || c == 0x3000:
		return ' '
	case c >= 0x2010 && c <= 0x2013 || c == 0x2212 || c == 0xFE63:
		return '-'
	case c >= 0x1D7CE && c <= 0x1D7FF:
		return '0' + (c-0x1D7CE)%10
	case unicode.Is(unicode.Nd, c):
		zero := c
		for c-zero < 9 && unicode.Is(unicode.Nd, zero-1) {
			zero--
		}
		return '0' + c - zero
	}
	return c
}

// mayFold has the bytes with which something begins that folding may change.
var mayFold = func() (t [256]bool) {
	for _, c := range []byte{'\\', 0xC2, 0xE2, 0xE3, 0xEF, 0xF0} {
		t[c] = true
	}
	for _, r := range unicode.Nd.R16 {
		if r.Lo >= 0x80 && r.Lo < 0xFF00 {
			var b [4]byte
			utf8.EncodeRune(b[:], rune(r.Lo))
			t[b[0]] = true
		}
	}
	t[0xE4], t[0xE5], t[0xE6], t[0xE7], t[0xE8], t[0xE9] = false, false, false, false, false, false
	return t
}()

// changesAt says whether folding changes what stands at i, and how long it is.
func changesAt(text string, i int) (to rune, size int, changes bool) {
	if text[i] == '\\' {
		return escaped(text, i)
	}
	c, size := utf8.DecodeRuneInString(text[i:])
	if c == utf8.RuneError {
		return c, size, false
	}
	to = foldRune(c)
	return to, size, to != c
}

// escaped reads \u0040 as the character of an address or a number that it stands for.
func escaped(text string, i int) (to rune, size int, ok bool) {
	if i+6 > len(text) || text[i+1] != 'u' {
		return 0, 1, false
	}
	for _, c := range []byte(text[i+2 : i+6]) {
		v := strings.IndexByte("0123456789abcdef", c|0x20)
		if digit(c) {
			v = int(c - '0')
		}
		if v < 0 {
			return 0, 1, false
		}
		to = to<<4 | rune(v)
	}
	if to = foldRune(to); to != invisible && (to < ' ' || to == '"' || to == '\\' || to >= 0x7F) {
		return 0, 1, false
	}
	return to, 6, true
}

// folded is a text as the finders read it.
type folded struct {
	text  string
	parts []part // nil where nothing was changed
}

// part is what follows without a change, or one character that was changed: size bytes of the original at from, which
// are length bytes of the folded text at to.
type part struct{ from, size, to, length int }

// place returns where text[a:b] is in the original.
func (f *folded) place(a, b int) (start, end int) {
	if f.parts == nil {
		return a, b
	}
	of := func(i int) part {
		k, _ := slices.BinarySearchFunc(f.parts, i+1, func(p part, i int) int { return p.to - i })
		return f.parts[k-1]
	}
	p, q := of(a), of(b-1)
	start, end = p.from, q.from+q.size
	if p.size == p.length {
		start += a - p.to
	}
	if q.size == q.length {
		end = q.from + b - q.to
	}
	return start, end
}

// fold folds a text. A text in which nothing changes is returned as it is.
func fold(text string, w *scratch) folded {
	i, escapes := 0, strings.Contains(text, `\u`)
	for i < len(text) {
		if !escapes && i+8 <= len(text) && (text[i]|text[i+1]|text[i+2]|text[i+3]|text[i+4]|text[i+5]|text[i+6]|
			text[i+7]) < utf8.RuneSelf {
			i += 8
			continue
		}
		if mayFold[text[i]] {
			if _, _, changes := changesAt(text, i); changes {
				break
			}
		}
		i++
	}
	if i == len(text) {
		return folded{text: text}
	}
	buf, parts, done := w.buf[:0], w.parts[:0], 0
	same := func(end int) {
		if end > done {
			parts = append(parts, part{done, end - done, len(buf), end - done})
			buf = append(buf, text[done:end]...)
		}
	}
	for i < len(text) {
		if !mayFold[text[i]] {
			i++
			continue
		}
		c, n, changes := changesAt(text, i)
		if changes {
			same(i)
			done = i + n
			if c != invisible {
				parts = append(parts, part{i, n, len(buf), 1})
				buf = append(buf, byte(c))
			}
		}
		i += n
	}
	same(len(text))
	w.buf, w.parts = buf, parts
	return folded{string(buf), parts}
}
