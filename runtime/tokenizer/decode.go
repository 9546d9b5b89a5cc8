package tokenizer

import (
	"bytes"
	"slices"
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
	if out, ok := spelledBytes(piece); ok {
		return out
	}
	return []byte(piece)
}

// spelledBytes returns the bytes that piece spells, if all its characters are in the table.
func spelledBytes(piece string) ([]byte, bool) {
	out := make([]byte, 0, len(piece))
	for _, r := range piece {
		b, ok := charBytes[r]
		if !ok {
			return nil, false
		}
		out = append(out, b)
	}
	return out, true
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

// decoding is how tokens become text: the steps of tokenizer.json's decoder.
type decoding struct {
	byteLevel bool // a token spells bytes by the characters of byteChars
	spaces    bool // ▁ is a space
	bytes     bool // <0x0A> is a byte
	dropMeta  bool // the first token's ▁ are dropped
	apart     bool // a space stands between tokens
	lead      int  // spaces dropped at the start of the text
	leadEach  int  // spaces dropped at the start of each token
}

// TokenBytes returns the bytes that a token adds to a text, at any position; nil for ids without a token.
func (t *Tokenizer) TokenBytes(id int32) []byte {
	piece, ok := t.Token(id)
	if !ok {
		return nil
	}
	if t.byteLevel || t.decoding.byteLevel {
		return unspell(piece)
	}
	if b, ok := fallbackByte(piece); ok {
		return []byte{b}
	}
	if t.decoding.spaces {
		piece = strings.ReplaceAll(piece, meta, " ")
	}
	return []byte(piece)
}

// Decode returns the text of ids; skipSpecial leaves special tokens out, unknown ids are left out always. Invalid UTF-8
// becomes U+FFFD. As in the tokenizers library, special tokens whose spelling normalization changes are not left out.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	s := Stream{t: t, skipSpecial: skipSpecial}
	var text []byte
	for _, id := range ids {
		text = s.push(text, id)
	}
	return string(s.flush(text))
}

// DecodeComplete returns the text of ids up to its last complete character. It is where a Stream after these ids
// begins.
func (t *Tokenizer) DecodeComplete(ids []int32, skipSpecial bool) string {
	s := Stream{t: t, skipSpecial: skipSpecial}
	var text []byte
	for _, id := range ids {
		text = s.push(text, id)
	}
	if held := s.Held(); held != "" {
		return string(text) + held
	}
	return string(text[:len(text)-s.replaced*len(replacement)])
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

const replacement = "\uFFFD"

// maxRun bounds the bytes of complete characters that a Stream holds back: the text of scripts that a vocabulary spells
// in bytes is a single run.
const maxRun = 12

// Stream decodes ids one after another, without ever returning part of a character: all that it returns is the text
// that Decode gives. It holds back characters spelled by byte tokens until the run of these ends or is too long, since
// an invalid byte makes the whole run invalid (as it does for Decode). It is not safe for concurrent use.
type Stream struct {
	t           *Tokenizer
	skipSpecial bool
	maxRun      int    // 0: no bound
	tokens      int    // decoded so far
	stripped    int    // spaces dropped at the start; -1: the text has begun
	half        []byte // byte-level: the first bytes of a character
	run         []byte // byte tokens
	broken      bool   // the run is invalid: its bytes are not held back
	shown       int    // code points of run's text that are part of the prompt
	replaced    int    // U+FFFD in place of invalid bytes, without a character behind them
	first       string // text before what the next token adds
}

// NewStream returns a Stream of the text that follows prompt's, which may be empty. The text begins behind prompt's
// last complete character: where prompt ends in the middle of one, the whole character is part of the Stream.
func (t *Tokenizer) NewStream(prompt []int32, skipSpecial bool) *Stream {
	s := &Stream{t: t, skipSpecial: skipSpecial}
	var text []byte
	for _, id := range prompt {
		text = s.push(text[:0], id)
	}
	if s.shown = utf8.RuneCountInString(s.Held()); s.shown == 0 {
		s.first = strings.Repeat(replacement, s.replaced)
	}
	s.maxRun = maxRun
	return s
}

// Push returns the text that id completes, possibly none.
func (s *Stream) Push(id int32) string {
	text := s.push([]byte(s.first), id)
	s.first = ""
	return string(text)
}

// Held returns the complete characters that are held back. An invalid byte may still take them back.
func (s *Stream) Held() string {
	n := len(s.run) - incomplete(s.run)
	c := *s
	return string(skipRunes(c.trim(s.run[:n]), s.shown))
}

// Flush returns what is still held back, incomplete characters as U+FFFD, and ends the stream.
func (s *Stream) Flush() string {
	text := s.flush([]byte(s.first))
	s.first = ""
	return string(text)
}

// push appends the text that id completes.
func (s *Stream) push(text []byte, id int32) []byte {
	t, d := s.t, &s.t.decoding
	piece, ok := t.Token(id)
	if !ok || s.skipSpecial && t.special[id] && t.shown[id] == "" {
		return text
	}
	s.tokens++
	if d.byteLevel {
		s.half = append(s.half, unspell(piece)...)
		n := len(s.half) - incomplete(s.half)
		text = s.add(text, s.half[:n])
		s.half = append(s.half[:0], s.half[n:]...)
		return text
	}
	if b, ok := fallbackByte(piece); ok && d.bytes {
		return s.pushByte(text, b)
	}
	text = s.endRun(text)
	s.broken = false
	if s.tokens == 1 && d.dropMeta {
		piece = strings.ReplaceAll(piece, meta, "")
	}
	if d.spaces {
		piece = strings.ReplaceAll(piece, meta, " ")
	}
	for range d.leadEach {
		piece = strings.TrimPrefix(piece, " ")
	}
	if d.apart && s.tokens > 1 {
		piece = " " + piece
	}
	return s.add(text, []byte(piece))
}

// pushByte appends the text that a byte token completes: none while its run is valid and short.
func (s *Stream) pushByte(text []byte, b byte) []byte {
	s.run = append(s.run, b)
	n := len(s.run) - incomplete(s.run)
	switch valid := utf8.Valid(s.run[:n]); {
	case s.broken || !valid:
		s.broken = true
		return s.replace(text)
	case s.maxRun > 0 && n >= s.maxRun:
		rest := slices.Clone(s.run[n:])
		s.run = s.run[:n]
		text = s.endRun(text)
		s.run = append(s.run, rest...)
	}
	return text
}

// endRun appends the text of the byte tokens that are held back.
func (s *Stream) endRun(text []byte) []byte {
	if !utf8.Valid(s.run) {
		return s.replace(text)
	}
	text = s.add(text, skipRunes(s.trim(s.run), s.shown))
	s.run, s.shown = s.run[:0], 0
	return text
}

// replace appends one U+FFFD for each byte of an invalid run, those of complete characters included.
func (s *Stream) replace(text []byte) []byte {
	s.trim(s.run)
	text = append(text, bytes.Repeat([]byte(replacement), max(len(s.run)-s.shown, 0))...)
	s.replaced += len(s.run)
	s.run, s.shown = s.run[:0], 0
	return text
}

// trim returns part without the spaces that decoding drops at the start of the text.
func (s *Stream) trim(part []byte) []byte {
	for s.stripped >= 0 && len(part) > 0 {
		if part[0] != ' ' || s.stripped == s.t.decoding.lead {
			s.stripped = -1
			break
		}
		s.stripped++
		part = part[1:]
	}
	return part
}

// skipRunes returns text without its first n code points.
func skipRunes(text []byte, n int) []byte {
	for ; n > 0; n-- {
		_, size := utf8.DecodeRune(text)
		text = text[size:]
	}
	return text
}

// add appends part, which does not end within a character, with invalid bytes replaced.
func (s *Stream) add(text, part []byte) []byte {
	part = s.trim(part)
	for len(part) > 0 {
		r, n := utf8.DecodeRune(part)
		if r == utf8.RuneError && n == 1 {
			s.replaced++
			text = append(text, replacement...)
			n = maximalPart(part)
		} else {
			s.replaced = 0
			text = append(text, part[:n]...)
		}
		part = part[n:]
	}
	return text
}

// flush appends all that is held back.
func (s *Stream) flush(text []byte) []byte {
	text = s.endRun(text)
	text = s.add(text, s.half)
	s.half = nil
	return text
}

// incomplete returns the number of bytes at the end of b that more bytes could make a character.
func incomplete(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		tail := b[len(b)-n:]
		if utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return n
			}
			return 0
		}
	}
	return 0
}
