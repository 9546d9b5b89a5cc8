package jinja

import (
	"errors"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokEOF tokenKind = iota
	tokText
	tokVarBegin
	tokVarEnd
	tokBlockBegin
	tokBlockEnd
	tokName
	tokString
	tokInt
	tokFloat
	tokOp
)

type token struct {
	kind tokenKind
	text string
	line int
}

func (t token) String() string {
	switch t.kind {
	case tokEOF:
		return "end of template"
	case tokVarEnd:
		return "end of print statement"
	case tokBlockEnd:
		return "end of statement block"
	}
	return "'" + t.text + "'"
}

func (t token) is(kind tokenKind, text string) bool { return t.kind == kind && t.text == text }

// lexer cuts a template into tokens with trim_blocks and lstrip_blocks on and keep_trailing_newline off.
type lexer struct {
	src       string
	pos, line int
	lineStart bool // the previous token ended with a newline, or nothing came before
	toks      []token
}

func lex(src string) ([]token, error) {
	src = strings.ReplaceAll(strings.ReplaceAll(src, "\r\n", "\n"), "\r", "\n")
	l := &lexer{src: strings.TrimSuffix(src, "\n"), line: 1, lineStart: true}
	for l.pos < len(l.src) {
		if err := l.root(); err != nil {
			return nil, err
		}
	}
	l.emit(tokEOF, "")
	return l.toks, nil
}

func (l *lexer) emit(k tokenKind, text string) { l.toks = append(l.toks, token{k, text, l.line}) }

// advance moves over n bytes and counts their lines.
func (l *lexer) advance(n int) {
	if n > 0 {
		l.line += strings.Count(l.src[l.pos:l.pos+n], "\n")
		l.lineStart = l.src[l.pos+n-1] == '\n'
		l.pos += n
	}
}

// root lexes text up to the next tag, then the tag.
func (l *lexer) root() error {
	rest := l.src[l.pos:]
	at := 0
	for {
		i := strings.IndexByte(rest[at:], '{')
		if i < 0 || at+i+1 >= len(rest) {
			l.text(rest)
			l.advance(len(rest))
			return nil
		}
		at += i
		if c := rest[at+1]; c == '{' || c == '%' || c == '#' {
			break
		}
		at++
	}
	kind := rest[at+1]
	text, open := l.cutText(rest[:at], rest[at+2:], kind != '{')
	l.text(text)
	l.advance(at)
	switch {
	case kind == '#':
		return l.comment()
	case kind == '%':
		if n := rawTag(rest[at+2:], "raw"); n > 0 {
			l.advance(2 + n)
			return l.raw()
		}
		l.emit(tokBlockBegin, "{%")
		l.advance(2 + open)
		return l.code('%')
	}
	l.emit(tokVarBegin, "{{")
	l.advance(2 + open)
	return l.code('{')
}

// cutText applies the whitespace rules of the tag that follows the text; open is 1 where the tag has a sign.
func (l *lexer) cutText(text, tag string, block bool) (cut string, open int) {
	switch {
	case strings.HasPrefix(tag, "-"):
		return strings.TrimRightFunc(text, IsSpace), 1
	case strings.HasPrefix(tag, "+"):
		if block {
			return text, 1
		}
		return text, 0
	case block:
		return l.lstrip(text), 0
	}
	return text, 0
}

// lstrip removes the indentation before a block that begins its line.
func (l *lexer) lstrip(text string) string {
	nl := strings.LastIndexByte(text, '\n') + 1
	if (nl > 0 || l.lineStart) && strings.TrimFunc(text[nl:], IsSpace) == "" {
		return text[:nl]
	}
	return text
}

func (l *lexer) text(s string) {
	if s != "" {
		l.emit(tokText, s)
	}
}

func (l *lexer) comment() error {
	body := l.src[l.pos+2:]
	if body == "" { // as Jinja has it, a comment with nothing behind its sign needs no end
		l.advance(2)
		return nil
	}
	end := strings.Index(body, "#}")
	if end < 0 {
		return syntaxError(l.line, "Missing end of comment tag")
	}
	n := 2 + end + 2
	switch {
	case end > 0 && body[end-1] == '-':
		n += spaces(l.src[l.pos+n:])
	case end > 0 && body[end-1] == '+':
	default:
		n += newline(l.src[l.pos+n:])
	}
	l.advance(n)
	return nil
}

// rawTag returns the length of `- word -%}` at the start of s, or 0.
func rawTag(s, word string) int {
	n := sign(s)
	n += spaces(s[n:])
	if !strings.HasPrefix(s[n:], word) {
		return 0
	}
	n += len(word)
	n += spaces(s[n:])
	if strings.HasPrefix(s[n:], "-%}") {
		n += 3
		return n + spaces(s[n:])
	}
	if strings.HasPrefix(s[n:], "%}") {
		return n + 2
	}
	return 0
}

// raw copies text up to {% endraw %}.
func (l *lexer) raw() error {
	rest := l.src[l.pos:]
	if rest == "" {
		return nil
	}
	for at := 0; ; at += 2 {
		i := strings.Index(rest[at:], "{%")
		if i < 0 {
			return syntaxError(l.line, "Missing end of raw directive")
		}
		at += i
		tag := rest[at+2:]
		s := sign(tag)
		n := s + spaces(tag[s:])
		if !strings.HasPrefix(tag[n:], "endraw") {
			continue
		}
		n += len("endraw")
		n += spaces(tag[n:])
		switch end := tag[n:]; {
		case strings.HasPrefix(end, "+%}"):
			n += 3
		case strings.HasPrefix(end, "-%}"):
			n += 3
			n += spaces(tag[n:])
		case strings.HasPrefix(end, "%}"):
			n += 2
			n += newline(tag[n:])
		default:
			continue
		}
		text, _ := l.cutText(rest[:at], tag, true)
		l.text(text)
		l.advance(at + 2 + n)
		return nil
	}
}

func sign(s string) int {
	if s != "" && (s[0] == '-' || s[0] == '+') {
		return 1
	}
	return 0
}

func spaces(s string) int { return len(s) - len(strings.TrimLeftFunc(s, IsSpace)) }

func newline(s string) int {
	if strings.HasPrefix(s, "\n") {
		return 1
	}
	return 0
}

// code lexes what is between {{ and }} or {% and %}.
func (l *lexer) code(kind byte) error {
	end, endTok := "}}", tokVarEnd
	if kind == '%' {
		end, endTok = "%}", tokBlockEnd
	}
	var open []byte
	for {
		l.advance(spaces(l.src[l.pos:]))
		rest := l.src[l.pos:]
		if rest == "" {
			return syntaxError(l.line, "unexpected end of template inside a tag")
		}
		if len(open) == 0 {
			n := 0
			switch {
			case strings.HasPrefix(rest, "-"+end):
				n = 3 + spaces(rest[3:])
			case kind == '%' && strings.HasPrefix(rest, "+"+end):
				n = 3
			case strings.HasPrefix(rest, end):
				n = 2
				if kind == '%' {
					n += newline(rest[2:])
				}
			}
			if n > 0 {
				l.emit(endTok, end)
				l.advance(n)
				return nil
			}
		}
		if err := l.lexeme(rest, &open); err != nil {
			return err
		}
	}
}

// lexeme lexes one name, literal or operator.
func (l *lexer) lexeme(rest string, open *[]byte) error {
	r, _ := utf8.DecodeRuneInString(rest)
	switch {
	case r >= '0' && r <= '9':
		return l.number(rest)
	case r == '_' || unicode.IsLetter(r):
		n := strings.IndexFunc(rest, func(r rune) bool {
			return r != '_' && !unicode.IsLetter(r) && !unicode.IsNumber(r) && !unicode.IsMark(r)
		})
		if n < 0 {
			n = len(rest)
		}
		l.emit(tokName, rest[:n])
		l.advance(n)
		return nil
	case r == '\'' || r == '"':
		return l.quoted(rest)
	}
	n := 1
	for _, two := range []string{"//", "**", "==", "!=", ">=", "<="} {
		if strings.HasPrefix(rest, two) {
			n = 2
		}
	}
	op := rest[:n]
	if n == 1 && !strings.Contains("+-/*%~[](){}><=.:|,;", op) {
		return syntaxError(l.line, "unexpected char %q", r)
	}
	switch op {
	case "(", "[", "{":
		*open = append(*open, map[string]byte{"(": ')', "[": ']', "{": '}'}[op])
	case ")", "]", "}":
		if k := len(*open) - 1; k < 0 || (*open)[k] != op[0] {
			return syntaxError(l.line, "unexpected '%s'", op)
		}
		*open = (*open)[:len(*open)-1]
	}
	l.emit(tokOp, op)
	l.advance(n)
	return nil
}

func (l *lexer) number(s string) error {
	n, kind := scanNumber(s)
	if l.pos > 0 && l.src[l.pos-1] == '.' && kind == tokFloat { // foo.0.1: two indices, not a float
		n, kind = scanDigits(s, isDecimal), tokInt
	}
	l.emit(kind, strings.ReplaceAll(s[:n], "_", ""))
	l.advance(n)
	return nil
}

func isDecimal(c byte) bool { return c >= '0' && c <= '9' }
func isHex(c byte) bool     { return isDecimal(c) || c|0x20 >= 'a' && c|0x20 <= 'f' }

// scanDigits counts digits with single underscores between them.
func scanDigits(s string, digit func(byte) bool) int {
	n := 0
	for n < len(s) && (digit(s[n]) || s[n] == '_' && n > 0 && s[n-1] != '_' && n+1 < len(s) && digit(s[n+1])) {
		n++
	}
	return n
}

func scanNumber(s string) (int, tokenKind) {
	if len(s) > 2 && s[0] == '0' {
		var digit func(byte) bool
		switch s[1] | 0x20 {
		case 'x':
			digit = isHex
		case 'o':
			digit = func(c byte) bool { return c >= '0' && c <= '7' }
		case 'b':
			digit = func(c byte) bool { return c == '0' || c == '1' }
		}
		if digit != nil {
			if n := scanDigits(s[2:], digit); n > 0 {
				return 2 + n, tokInt
			}
		}
	}
	n, kind := scanDigits(s, isDecimal), tokInt
	if n < len(s) && s[n] == '.' {
		if k := scanDigits(s[n+1:], isDecimal); k > 0 {
			n, kind = n+1+k, tokFloat
		}
	}
	if n < len(s) && s[n]|0x20 == 'e' {
		k := n + 1 + sign(s[n+1:])
		if d := scanDigits(s[k:], isDecimal); d > 0 {
			n, kind = k+d, tokFloat
		}
	}
	if kind == tokInt && s[0] == '0' { // 0 stands alone: 012 is two tokens, which the parser refuses
		n = scanDigits(s, func(c byte) bool { return c == '0' })
	}
	return n, kind
}

func (l *lexer) quoted(s string) error {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case s[0]:
			text, err := unescape(s[1:i])
			if err != nil {
				return syntaxError(l.line, "%v", err)
			}
			l.emit(tokString, text)
			l.advance(i + 1)
			return nil
		}
	}
	return syntaxError(l.line, "unexpected char %q at %d: the string does not end", s[0], l.pos)
}

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
	return b.String(), nil
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
	b.WriteRune(rune(v)) // half of a surrogate pair, which no UTF-8 text holds, becomes U+FFFD
	return want, nil
}
