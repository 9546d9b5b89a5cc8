package jinja

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"
)

// unescape resolves the escapes of a string literal as Python's unicode-escape codec does; unknown escapes keep their
// backslash.
func unescape(s string) (string, error) {
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			i++
			continue
		}
		if i+1 >= len(s) {
			return "", errors.New(`\ at end of string`)
		}
		i++
		r, n := utf8.DecodeRuneInString(s[i:])
		i += n
		if simple := strings.IndexRune("abfnrtv\\'\"\n", r); simple >= 0 {
			if r != '\n' {
				b.WriteByte("\a\b\f\n\r\t\v\\'\""[simple])
			}
			continue
		}
		if r >= 0x80 { // the codec sees the escaped form of the character behind the backslash
			b.WriteString(escapeRune(r))
			continue
		}
		used, err := codeEscape(&b, r, s[i:])
		if err != nil {
			return "", err
		}
		i += used
	}
	return joinSurrogates(b.String()), nil
}

// codeEscape handles octal, \x, \u and \U; it returns the number of bytes read behind the letter.
func codeEscape(b *strings.Builder, r rune, rest string) (int, error) {
	want := map[rune]int{'x': 2, 'u': 4, 'U': 8}[r]
	switch {
	case r >= '0' && r <= '7':
		n, v := 0, int(r-'0')
		for n < 2 && n < len(rest) && rest[n] >= '0' && rest[n] <= '7' {
			v = v*8 + int(rest[n]-'0')
			n++
		}
		b.WriteRune(rune(v))
		return n, nil
	case r == 'N':
		return 0, errors.New(`\N{...} names are not supported: write the character itself`)
	case want == 0:
		b.WriteByte('\\')
		b.WriteRune(r)
		return 0, nil
	}
	if len(rest) < want {
		return 0, errors.New("truncated \\" + string(r) + " escape")
	}
	v, err := strconv.ParseUint(rest[:want], 16, 32)
	if err != nil || v > utf8.MaxRune {
		return 0, errors.New("bad \\" + string(r) + " escape")
	}
	if v >= 0xd800 && v < 0xe000 {
		b.WriteString(surrogateMark)
		b.WriteString(rest[want-4 : want])
		return want, nil
	}
	b.WriteRune(rune(v))
	return want, nil
}

// surrogateMark stands before the hex digits of a lone surrogate, which UTF-8 cannot hold, until its partner is seen;
// the byte 0xff occurs in no UTF-8 text.
const surrogateMark = "\xff"

func joinSurrogates(s string) string {
	if !strings.Contains(s, surrogateMark) {
		return s
	}
	var b strings.Builder
	for s != "" {
		i := strings.Index(s, surrogateMark)
		if i < 0 || i+5 > len(s) {
			b.WriteString(s)
			break
		}
		b.WriteString(s[:i])
		v, _ := strconv.ParseUint(s[i+1:i+5], 16, 32)
		s = s[i+5:]
		if v < 0xdc00 && len(s) >= 5 && s[:1] == surrogateMark {
			if w, _ := strconv.ParseUint(s[1:5], 16, 32); w >= 0xdc00 {
				b.WriteRune(rune((v-0xd800)<<10 + (w - 0xdc00) + 0x10000))
				s = s[5:]
				continue
			}
		}
		b.WriteRune(utf8.RuneError)
	}
	return b.String()
}
