package metrics

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"weft/internal/jinja"
)

// tokenizer appends the numbers of a text's tokens in w's vocabulary to ids.
type tokenizer func(w *worker, text string, ids []int32) []int32

// tokenizers are sacrebleu's, by name; "" is its default.
var tokenizers = map[string]tokenizer{
	"":     (*worker).tokens13a,
	"13a":  (*worker).tokens13a,
	"intl": (*worker).tokensIntl,
	"char": (*worker).characters,
	"zh":   (*worker).tokensZh,
	"none": (*worker).spaced,
}

// Kinds of bytes.
const (
	isSpace     = 1 << iota // what Python's str.split takes for space
	isolated                // what the tokenizer 13a makes a token of its own
	stop                    // full stop and comma
	digit                   // 0 to 9
	lowerCase               // a to z
	upperCase               // A to Z
	punctuation             // string.punctuation
	beyond                  // part of a character beyond ASCII
	maybeSpace              // the same, and a space may begin so
)

var kinds = func() (k [256]uint16) {
	for c := range 256 {
		switch {
		case c == 0xc2, c == 0xe1, c == 0xe2, c == 0xe3:
			k[c] = maybeSpace
		case c >= utf8.RuneSelf:
			k[c] = beyond
		case '0' <= c && c <= '9':
			k[c] = digit
		case 'a' <= c && c <= 'z':
			k[c] = lowerCase
		case 'A' <= c && c <= 'Z':
			k[c] = upperCase
		case c == ' ' || '\t' <= c && c <= '\r' || 0x1c <= c && c <= 0x1f:
			k[c] = isSpace
		case '!' <= c && c <= '~':
			k[c] = punctuation
			switch c {
			case '.', ',':
				k[c] |= stop
			case '-', '\'':
			default:
				k[c] |= isolated
			}
		}
	}
	k[' '] |= isolated
	return k
}()

// space says whether Python's str.split takes a character for space: what Go does, and four separators.
func space(r rune) bool {
	return r <= 0x3000 && (unicode.IsSpace(r) || 0x1c <= r && r <= 0x1f)
}

// spaced takes words between spaces.
func (w *worker) spaced(text string, ids []int32) []int32 {
	w.buf = append(w.buf[:0], text...)
	return w.split(w.buf, ids)
}

// split takes words between spaces.
func (w *worker) split(text []byte, ids []int32) []int32 {
	for begin, end := nextWord(text, 0); begin < end; begin, end = nextWord(text, end) {
		ids = append(ids, w.id(text[begin:end]))
	}
	return ids
}

// nextWord returns where the next word between spaces begins and ends, or the end of the text twice.
func nextWord(text []byte, from int) (begin, end int) {
	if begin = from; begin < len(text) && text[begin] == ' ' {
		begin++ // as between most words
	}
	for i := begin; ; {
		i += unspaced(text[i:])
		if i == len(text) {
			return begin, i
		}
		size := 1
		if kinds[text[i]]&isSpace == 0 {
			var r rune
			if r, size = utf8.DecodeRune(text[i:]); !space(r) {
				i += size
				continue
			}
		}
		if begin < i {
			return begin, i
		}
		i += size
		begin = i
	}
}

// unspaced returns how many bytes the text begins with of which none is a space or may begin one.
func unspaced(text []byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(text); i += 8 {
		x := binary.LittleEndian.Uint64(text[i:])
		two, three := x^0xc2*ones, x&(0xfc*ones)^0xe0*ones // 0 where a byte is 0xc2, or one of 0xe0 to 0xe3
		if found := ((x-0x21*ones)&^x | (two-ones)&^two | (three-ones)&^three) & highs; found != 0 {
			// The lowest is exact, as only bytes above it can be set by a borrow; but not each of these is a space.
			i += bits.TrailingZeros64(found) / 8
			break
		}
	}
	for ; i < len(text) && kinds[text[i]]&(isSpace|maybeSpace) == 0; i++ {
	}
	return i
}

// characters takes every character that is no space.
func (w *worker) characters(text string, ids []int32) []int32 {
	for _, r := range text {
		if r < utf8.RuneSelf && kinds[r]&isSpace == 0 || r >= utf8.RuneSelf && !space(r) {
			ids = append(ids, w.character(r))
		}
	}
	return ids
}

var entities = strings.NewReplacer("&lt;", "<", "&gt;", ">")

// tokens13a is mteval-v13a's tokenization.
func (w *worker) tokens13a(text string, ids []int32) []int32 {
	text = strings.TrimRightFunc(text, space)
	if strings.Contains(text, "<skipped>") {
		text = strings.ReplaceAll(text, "<skipped>", "")
	}
	if strings.Contains(text, "\n") {
		text = strings.ReplaceAll(strings.ReplaceAll(text, "-\n", ""), "\n", " ")
	}
	if strings.Contains(text, "&") {
		// in this order: &amp;lt; becomes <, and &amp;quot; becomes &quot;
		text = strings.ReplaceAll(strings.ReplaceAll(text, "&quot;", `"`), "&amp;", "&")
		text = entities.Replace(text)
	}
	w.buf = append(append(append(w.buf[:0], ' '), text...), ' ')
	return w.western(ids)
}

// western separates ASCII punctuation in w.buf: full stops and commas where they are not between digits, dashes after
// digits, other punctuation everywhere. Each rule runs over the result of the one before, and does not look at what it
// has just matched.
func (w *worker) western(ids []int32) []int32 {
	out, seen := w.alt[:0], uint16(0)
	dash := false
	for _, c := range w.buf {
		k := kinds[c]
		seen |= k
		if k&isolated != 0 {
			out = append(out, ' ', c, ' ')
			continue
		}
		dash = dash || c == '-'
		out = append(out, c)
	}
	in := w.buf
	if seen&stop != 0 {
		in, out = out, in[:0]
		for i := 0; i < len(in); i++ { // after what is no digit
			if i+1 < len(in) && kinds[in[i]]&digit == 0 && kinds[in[i+1]]&stop != 0 {
				out = append(out, in[i], ' ', in[i+1], ' ')
				i++
				continue
			}
			out = append(out, in[i])
		}
		in, out = out, in[:0]
		for i := 0; i < len(in); i++ { // before what is no digit
			if i+1 < len(in) && kinds[in[i]]&stop != 0 && kinds[in[i+1]]&digit == 0 {
				out = append(out, ' ', in[i], ' ', in[i+1])
				i++
				continue
			}
			out = append(out, in[i])
		}
	}
	if dash && seen&digit != 0 {
		in, out = out, in[:0]
		for i := 0; i < len(in); i++ {
			out = append(out, in[i])
			if kinds[in[i]]&digit != 0 && i+1 < len(in) && in[i+1] == '-' {
				out = append(out, ' ', '-', ' ')
				i++
			}
		}
	}
	w.buf, w.alt = in, out
	return w.split(out, ids)
}

// tokensZh separates Chinese characters, and other text as western does.
func (w *worker) tokensZh(text string, ids []int32) []int32 {
	text = strings.TrimFunc(text, space)
	w.buf = w.buf[:0]
	for i, r := range text {
		size := max(1, utf8.RuneLen(r))
		if chinese(r) {
			w.buf = append(append(append(w.buf, ' '), text[i:i+size]...), ' ')
			continue
		}
		w.buf = append(w.buf, text[i:i+size]...)
	}
	return w.western(ids)
}

// chinese says which characters sacrebleu's tokenizer zh separates. U+2001 to U+2A6D and U+2F81 to U+2FA1 stand in its
// table for ideographs of five digits, which it therefore does not separate.
func chinese(r rune) bool {
	if r < 0x2001 || r > 0xffef {
		return false
	}
	for _, span := range chineseSpans {
		if span[0] <= r && r <= span[1] {
			return true
		}
	}
	return false
}

var chineseSpans = [][2]rune{{0x4e00, 0x9fbb}, {0x3400, 0x4db5}, {0x3000, 0x303f}, {0xff00, 0xffef}, {0x2001, 0x2a6d},
	{0xf900, 0xfa2d}, {0xfa30, 0xfa6a}, {0xfa70, 0xfad9}, {0x2e80, 0x2eff}, {0x31c0, 0x31ef}, {0x2f00, 0x2fdf},
	{0x2ff0, 0x2fff}, {0x3100, 0x312f}, {0x31a0, 0x31bf}, {0xfe10, 0xfe1f}, {0xfe30, 0xfe4f}, {0x3200, 0x33ff}}

// Classes of characters for the tokenizer intl.
const (
	other = iota
	numeral
	mark
	symbol
)

func class(r rune) uint8 {
	switch {
	case r < utf8.RuneSelf:
		return asciiClasses[r]
	case 0x4e00 <= r && r <= 0x9fff:
		return other // most of Chinese
	case unicode.IsPunct(r):
		return mark
	case unicode.IsSymbol(r):
		return symbol
	case unicode.IsNumber(r):
		return numeral
	}
	at, found := slices.BinarySearchFunc(later, r, func(span laterSpan, r rune) int {
		switch {
		case span.last < r:
			return -1
		case span.first > r:
			return 1
		}
		return 0
	})
	if found {
		return later[at].class
	}
	return other
}

var asciiClasses = func() (classes [utf8.RuneSelf]uint8) {
	for r := range rune(utf8.RuneSelf) {
		switch {
		case unicode.IsPunct(r):
			classes[r] = mark
		case unicode.IsSymbol(r):
			classes[r] = symbol
		case unicode.IsNumber(r):
			classes[r] = numeral
		}
	}
	return classes
}()

// tokensIntl is mteval-v14's international tokenization: punctuation where it is not between numerals, and symbols.
func (w *worker) tokensIntl(text string, ids []int32) []int32 {
	in, classes := w.runes[:0], w.classes[:0]
	for _, r := range strings.TrimRightFunc(text, space) {
		in, classes = append(in, r), append(classes, class(r))
	}
	w.runes, w.classes = in, classes
	// the first rule: after what is no numeral. Spaces that it writes have the class other.
	n := len(in)
	for i := 0; i < n; i++ {
		if i+1 < n && classes[i] != numeral && classes[i+1] == mark {
			in = append(in, in[i], ' ', in[i+1], ' ')
			classes = append(classes, classes[i], other, mark, other)
			i++
			continue
		}
		in, classes = append(in, in[i]), append(classes, classes[i])
	}
	out := w.buf[:0]
	put := func(i int) {
		if classes[i] == symbol {
			out = append(utf8.AppendRune(append(out, ' '), in[i]), ' ')
			return
		}
		out = utf8.AppendRune(out, in[i])
	}
	for i := n; i < len(in); i++ {
		if i+1 < len(in) && classes[i] == mark && classes[i+1] != numeral {
			out = append(out, ' ')
			put(i)
			out = append(out, ' ')
			i++
		}
		put(i)
	}
	w.runes, w.classes, w.buf = in, classes, out
	return w.split(out, ids)
}

// rougeTokens are rouge-score's words, or for a tokenizer of characters those of a Chinese text.
func rougeTokens(o Options) tokenizer {
	switch {
	case o.Tokenize == "char" || o.Tokenize == "zh":
		return (*worker).mixed
	case o.Stemmer:
		return func(w *worker, text string, ids []int32) []int32 { return w.latin(text, ids, true) }
	}
	return func(w *worker, text string, ids []int32) []int32 { return w.latin(text, ids, false) }
}

// latinBytes are the small letters and digits that bytes become in rouge-score, 0 for all else.
var latinBytes = func() (b [256]byte) {
	for c, k := range kinds {
		switch {
		case k&(lowerCase|digit) != 0:
			b[c] = byte(c)
		case k&upperCase != 0:
			b[c] = byte(c) | 0x20
		}
	}
	return b
}()

// latin takes runs of a to z and 0 to 9 in the text in small letters.
func (w *worker) latin(text string, ids []int32, stem bool) []int32 {
	buf, begin, before := w.room(len(text)), 0, len(ids)
	for i := range len(text) {
		c := latinBytes[text[i]]
		if buf[i] = c; c != 0 {
			continue
		}
		if k := text[i]; k == 0xe2 && strings.HasPrefix(text[i:], "\u212a") ||
			k == 0xc4 && strings.HasPrefix(text[i:], "\u0130") {
			return w.latin(jinja.Lower(text), ids[:before], stem)
		}
		if begin < i {
			ids = append(ids, w.rougeWord(buf[begin:i], stem))
		}
		begin = i + 1
	}
	if begin < len(text) {
		ids = append(ids, w.rougeWord(buf[begin:], stem))
	}
	return ids
}

// rougeWord is the number of a word, or of the stem of one of more than three letters.
func (w *worker) rougeWord(word []byte, stem bool) int32 {
	if !stem || len(word) <= 3 {
		return w.id(word)
	}
	s, ok := w.stems[string(word)]
	if !ok {
		s = porter(string(word))
		if len(w.stems) < 1<<16 {
			w.stems[string(word)] = s
		}
	}
	w.prepared = append(w.prepared[:0], s...)
	return w.id(w.prepared)
}

// foreign says whether the small letter of a character is ASCII (K of Kelvin), is two characters (I with a dot), or
// depends on the letters around it (sigma).
func foreign(r rune) bool { return r == '\u212a' || r == 'İ' || r == 'Σ' }

// mixed takes runs of a to z and 0 to 9 in the text in small letters, and every other character that is no space.
func (w *worker) mixed(text string, ids []int32) []int32 {
	word, before := w.buf[:0], len(ids)
	for _, r := range text {
		if r < utf8.RuneSelf {
			if c := latinBytes[r]; c != 0 {
				word = append(word, c)
				continue
			}
		}
		if len(word) > 0 {
			ids, word = append(ids, w.id(word)), word[:0]
		}
		switch {
		case foreign(r):
			w.buf = word
			return w.mixed(jinja.Lower(text), ids[:before])
		case r < utf8.RuneSelf && kinds[r]&isSpace != 0, r >= utf8.RuneSelf && space(r):
		case r < caseless || r > caselessEnd:
			ids = append(ids, w.character(unicode.ToLower(r)))
		default:
			ids = append(ids, w.character(r))
		}
	}
	if len(word) > 0 {
		ids = append(ids, w.id(word))
	}
	w.buf = word
	return ids
}

// The characters from caseless to caselessEnd, most of Chinese and Japanese, are the same in small letters.
const (
	caseless    = 0x2e80
	caselessEnd = 0xa63f
)

// lower appends the text in small letters as Python's str.lower has them.
func lower(to []byte, text string) []byte {
	begin := len(to)
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf {
			if kinds[c]&upperCase != 0 {
				c |= 0x20
			}
			to = append(to, c)
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == 'İ' || r == 'Σ': // what they become depends on other letters, or is two
			return append(to[:begin], jinja.Lower(text)...)
		case r < caseless || r > caselessEnd:
			to = utf8.AppendRune(to, unicode.ToLower(r))
		default:
			to = append(to, text[i:i+size]...)
		}
		i += size
	}
	return to
}
