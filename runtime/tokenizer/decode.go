package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// charBytes maps the characters by which byte-level vocabularies spell bytes (GPT-2's table) back to the bytes;
// byteChars is the inverse.
var (
	charBytes = map[rune]byte{}
	byteChars [256]rune
)

func init() {
	next := rune(256)
	for b := range 256 {
		r := rune(b)
		if !(b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae) {
			r = next
			next++
		}
		charBytes[r], byteChars[b] = byte(b), r
	}
}

// unspell returns the bytes of a byte-level token, or its text if a character is not in the table.
func unspell(piece string) []byte {
	out := make([]byte, 0, len(piece))
	for _, r := range piece {
		b, ok := charBytes[r]
		if !ok {
			return []byte(piece)
		}
		out = append(out, b)
	}
	return out
}

// fallbackByte returns the byte that a token such as <0x0A> means.
func fallbackByte(piece string) (byte, bool) {
	if len(piece) != 6 || !strings.HasPrefix(piece, "<0x") || piece[5] != '>' {
		return 0, false
	}
	hi, okH := hexDigit(piece[3])
	lo, okL := hexDigit(piece[4])
	return hi<<4 | lo, okH && okL
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}

// TokenBytes returns the bytes that a token adds to a text, at any position; nil for ids without a token.
func (t *Tokenizer) TokenBytes(id int32) []byte {
	piece, ok := t.Token(id)
	if !ok {
		return nil
	}
	if t.byteLevel {
		return unspell(piece)
	}
	if b, ok := fallbackByte(piece); ok {
		return []byte{b}
	}
	if t.spaces {
		piece = strings.ReplaceAll(piece, meta, " ")
	}
	return []byte(piece)
}

// Decode returns the text of ids; skipSpecial leaves special tokens out, unknown ids are left out always. Invalid UTF-8
// becomes U+FFFD. As in the tokenizers library, special tokens whose spelling normalization changes are not left out.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	var text []byte
	var bytes []byte // a run of fallback bytes
	flush := func() {
		if utf8.Valid(bytes) {
			text = append(text, bytes...)
		} else {
			for range bytes { // one for each byte, including those of complete characters
				text = append(text, "\uFFFD"...)
			}
		}
		bytes = bytes[:0]
	}
	for _, id := range ids {
		piece, ok := t.Token(id)
		if !ok || skipSpecial && t.special[id] && t.shown[id] == "" {
			continue
		}
		if t.byteLevel {
			text = append(text, unspell(piece)...)
			continue
		}
		if b, ok := fallbackByte(piece); ok {
			bytes = append(bytes, b)
			continue
		}
		if len(bytes) > 0 {
			flush()
		}
		text = append(text, t.TokenBytes(id)...)
	}
	if len(bytes) > 0 {
		flush()
	}
	s := lossy(text)
	if t.stripLead {
		s = strings.TrimPrefix(s, " ")
	}
	return s
}

// lossy replaces each maximal part of an ill-formed sequence by U+FFFD (Unicode 15, §3.9, "substitution of maximal
// subparts").
func lossy(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var out strings.Builder
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r != utf8.RuneError || n > 1 {
			out.Write(b[i : i+n])
			i += n
			continue
		}
		out.WriteRune(utf8.RuneError)
		i += maximalPart(b[i:])
	}
	return out.String()
}

// maximalPart returns how many bytes at the start of ill-formed text could begin a character.
func maximalPart(b []byte) int {
	lo, hi, n := byte(0x80), byte(0xbf), 0
	switch c := b[0]; {
	case c >= 0xc2 && c <= 0xdf:
		n = 1
	case c >= 0xe0 && c <= 0xef:
		n = 2
		if c == 0xe0 {
			lo = 0xa0
		} else if c == 0xed {
			hi = 0x9f
		}
	case c >= 0xf0 && c <= 0xf4:
		n = 3
		if c == 0xf0 {
			lo = 0x90
		} else if c == 0xf4 {
			hi = 0x8f
		}
	}
	i := 1
	for ; i <= n && i < len(b) && b[i] >= lo && b[i] <= hi; i++ {
		lo, hi = 0x80, 0xbf
	}
	return i
}

// maxHeld bounds the ids that a Stream holds back for a character that never ends.
const maxHeld = 64

// Stream decodes ids one after another. It is not safe for concurrent use.
type Stream struct {
	t           *Tokenizer
	skipSpecial bool
	ids         []int32
	prefix      string // text of ids[:known], already emitted
	known       int
}

// NewStream returns a Stream at the start of a text.
func (t *Tokenizer) NewStream(skipSpecial bool) *Stream {
	return &Stream{t: t, skipSpecial: skipSpecial}
}

// Push returns the text that id completes, possibly none: bytes that could be half a character are held back. It
// decodes new ids together with previous ones, since the first token's leading space and runs of byte tokens depend on
// adjacent tokens.
func (s *Stream) Push(id int32) string {
	s.ids = append(s.ids, id)
	text := s.t.Decode(s.ids, s.skipSpecial)
	if len(text) <= len(s.prefix) || strings.HasSuffix(text, "\uFFFD") && len(s.ids)-s.known < maxHeld ||
		!strings.HasPrefix(text, s.prefix) {
		return ""
	}
	out := text[len(s.prefix):]
	s.ids = append(s.ids[:0], s.ids[s.known:]...)
	s.prefix = s.t.Decode(s.ids, s.skipSpecial)
	s.known = len(s.ids)
	return out
}

// Flush returns what is still held back, incomplete characters as U+FFFD, and ends the stream.
func (s *Stream) Flush() string {
	text := s.t.Decode(s.ids, s.skipSpecial)
	s.ids = nil
	if !strings.HasPrefix(text, s.prefix) {
		return ""
	}
	return text[len(s.prefix):]
}
