package jinja

import (
	endian "encoding/binary"
	"math/bits"
)

const (
	ones  = 0x0101010101010101
	highs = 0x80 * ones
)

// PlainJSON returns how many bytes s begins with that stand in a string of JSON as they are: no quotation mark, no
// backslash, no control character. It does not check that they are UTF-8.
func PlainJSON(s []byte) int {
	i := 0
	for ; i+8 <= len(s); i += 8 {
		x := endian.LittleEndian.Uint64(s[i:])
		quote, slash := x^'"'*ones, x^'\\'*ones
		// The lowest bit that is set is exact: only bytes above it can be set by a borrow.
		special := ((x-' '*ones)&^x | (quote-ones)&^quote | (slash-ones)&^slash) & highs
		if special != 0 {
			return i + bits.TrailingZeros64(special)/8
		}
	}
	for ; i < len(s); i++ {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' {
			break
		}
	}
	return i
}
