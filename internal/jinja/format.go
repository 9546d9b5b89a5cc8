package jinja

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"
)

// formatSpec is what %-10.3f and {:>10.3f} have in common.
type formatSpec struct {
	fill             string
	align, sign      byte // align: < > = ^ or 0
	group            byte // what stands between groups of digits: , _ or 0
	alt, zero, plus0 bool // plus0: a negative zero loses its sign
	width, prec      int  // prec -1: not given
	verb             byte
}

// digits reads a number of at most six digits at s[i:].
func digits(s string, i int) (n, next int) {
	for next = i; next < len(s) && next < i+6 && isDecimal(s[next]); next++ {
		n = n*10 + int(s[next]-'0')
	}
	return n, next
}

// percentFormat is s % arg.
func percentFormat(ev *evaluator, s string, arg any) (any, error) {
	args, isTuple := arg.(Tuple)
	if !isTuple {
		args = Tuple{arg}
	}
	m, _ := arg.(*Map)
	used := 0
	next := func() (any, error) {
		if used >= len(args) {
			return nil, typeError("not enough arguments for format string")
		}
		used++
		return args[used-1], nil
	}
	var w writer
	for {
		at := strings.IndexByte(s, '%')
		if at < 0 {
			at = len(s)
		}
		if err := w.write(ev, s[:at]); err != nil {
			return nil, err
		}
		if at == len(s) {
			break
		}
		f, val, rest, err := percentSpec(s[at+1:], m, next)
		if err != nil {
			return nil, err
		}
		bare := strings.HasPrefix(s[at:], "%%")
		s = rest
		text := "%"
		if !bare {
			if text, err = f.percent(ev, val); err != nil {
				return nil, err
			}
		}
		if err = w.write(ev, text); err != nil {
			return nil, err
		}
	}
	if used < len(args) && !isContainer(arg) {
		return nil, typeError("not all arguments converted during string formatting")
	}
	return w.b.String(), nil
}

// isContainer: Python ignores a spare argument that could be a mapping.
func isContainer(v any) bool {
	switch v.(type) {
	case []any, *Map, span, *undefined:
		return true
	}
	return false
}

// percentSpec reads one conversion behind its % and takes its arguments.
func percentSpec(s string, m *Map, next func() (any, error)) (f formatSpec, val any, rest string, err error) {
	f = formatSpec{fill: " ", align: '>', prec: -1}
	val = absent{}
	i := 0
	if i < len(s) && s[i] == '(' {
		end := strings.IndexByte(s, ')')
		if m == nil {
			return f, nil, "", typeError("format requires a mapping")
		}
		if end < 0 {
			return f, nil, "", valueError("incomplete format key")
		}
		var ok bool
		if val, ok = m.Get(s[1:end]); !ok {
			return f, nil, "", &failure{kind: "KeyError", msg: s[1:end]}
		}
		i = end + 1
	}
	for ; i < len(s) && strings.IndexByte("-+ #0", s[i]) >= 0; i++ {
		switch s[i] {
		case '-':
			f.align = '<'
		case '+':
			f.sign = '+'
		case ' ':
			if f.sign == 0 {
				f.sign = ' '
			}
		case '#':
			f.alt = true
		case '0':
			f.zero = true
		}
	}
	number := func(i int) (int, int, error) {
		if i < len(s) && s[i] == '*' {
			v, err := next()
			if err != nil {
				return 0, 0, err
			}
			n, err := intArg(v, 0)
			return n, i + 1, err
		}
		n, k := digits(s, i)
		return n, k, nil
	}
	if f.width, i, err = number(i); err != nil {
		return f, nil, "", err
	}
	if f.width < 0 {
		f.align, f.width = '<', -f.width
	}
	if i < len(s) && s[i] == '.' {
		if f.prec, i, err = number(i + 1); err != nil {
			return f, nil, "", err
		}
		f.prec = max(0, f.prec)
	}
	for i < len(s) && strings.IndexByte("hlL", s[i]) >= 0 {
		i++
	}
	if i >= len(s) {
		return f, nil, "", valueError("incomplete format")
	}
	f.verb = s[i]
	if i > 0 && !given(val) || f.verb != '%' && !given(val) {
		val, err = next()
	}
	return f, val, s[i+1:], err
}

// percent formats one % conversion.
func (f formatSpec) percent(ev *evaluator, v any) (string, error) {
	var text string
	var err error
	switch f.verb {
	case 's', 'r', 'a':
		switch f.verb {
		case 's':
			text, err = toStr(ev, v)
		case 'r':
			text, err = repr(ev, v)
		default:
			text, err = ascii(ev, v)
		}
		f.zero = false
		return f.text(ev, text, err)
	case 'c':
		if n, ok := small(v); ok {
			return f.char(ev, n)
		}
		if s, ok := v.(string); ok && runeLen(s) == 1 {
			return f.text(ev, s, nil)
		}
		return "", typeError("%%c requires int or char")
	case 'd', 'i', 'u':
		f.verb = 'd'
		if fl, ok := v.(float64); ok {
			if v, err = floatToInt(ev, fl); err != nil {
				return "", err
			}
		}
	case 'x', 'X', 'o', 'e', 'E', 'f', 'F', 'g', 'G':
	default:
		return "", valueError("unsupported format character '%c'", f.verb)
	}
	if u, ok := v.(*undefined); ok {
		return "", u.err()
	}
	if !isNumber(v) || !isInt(v) && strings.IndexByte("xXo", f.verb) >= 0 {
		return "", typeError("%%%c format: a real number is required, not %s", f.verb, typeName(v))
	}
	if f.zero && f.align != '<' {
		f.fill, f.align = "0", '='
	}
	return f.number(ev, v)
}

// char formats a code point.
func (f formatSpec) char(ev *evaluator, n int64) (string, error) {
	if n < 0 || n > utf8.MaxRune {
		return "", &failure{kind: "OverflowError", msg: "%c arg not in range(0x110000)"}
	}
	return f.text(ev, string(rune(n)), nil)
}

// text applies precision and width to a string.
func (f formatSpec) text(ev *evaluator, s string, err error) (string, error) {
	if err != nil {
		return "", err
	}
	if f.prec >= 0 && runeLen(s) > f.prec {
		s = s[:byteOffset(s, f.prec)]
	}
	return f.pad(ev, "", s)
}

// pad puts sign and body into the width.
func (f formatSpec) pad(ev *evaluator, sign, body string) (string, error) {
	n := f.width - runeLen(sign) - runeLen(body)
	fill, err := padding(ev, f.fill, n)
	if err != nil || n <= 0 {
		return sign + body, err
	}
	switch f.align {
	case '<':
		return sign + body + fill, nil
	case '=':
		return sign + fill + body, nil
	case '^':
		half := len(f.fill) * (n / 2)
		return fill[:half] + sign + body + fill[half:], nil
	}
	return fill + sign + body, nil
}

// number formats an int or float by the verb.
func (f formatSpec) number(ev *evaluator, v any) (string, error) {
	sign, body := "", ""
	neg := false
	switch {
	case strings.IndexByte("dxXob", f.verb) >= 0:
		n := toBig(v)
		neg = n.Sign() < 0
		body = new(big.Int).Abs(n).Text(map[byte]int{'d': 10, 'x': 16, 'X': 16, 'o': 8, 'b': 2}[f.verb])
		if f.prec > len(body) {
			zeros, err := padding(ev, "0", f.prec-len(body))
			if err != nil {
				return "", err
			}
			body = zeros + body
		}
		if f.verb == 'X' {
			body = strings.ToUpper(body)
		}
		if f.alt && f.verb != 'd' {
			sign = "0" + string(f.verb)
		}
	default:
		x := toFloat(v)
		neg = math.Signbit(x) && !math.IsNaN(x)
		body = f.float(math.Abs(x))
		neg = neg && !(f.plus0 && strings.Trim(body, "0.e+-") == "")
	}
	return f.signed(ev, neg, sign, body)
}

// signed groups the digits of body and puts the sign, then prefix, before it.
func (f formatSpec) signed(ev *evaluator, neg bool, prefix, body string) (string, error) {
	sign := prefix
	switch {
	case neg:
		sign = "-" + sign
	case f.sign != 0:
		sign = string(f.sign) + sign
	}
	if f.group != 0 {
		least := 0
		if f.fill == "0" && f.align == '=' {
			least = f.width - len(sign)
		}
		var err error
		if body, err = f.grouped(ev, body, least); err != nil {
			return "", err
		}
	}
	return f.pad(ev, sign, body)
}

func (f formatSpec) float(x float64) string {
	prec := f.prec
	if prec < 0 {
		prec = 6
	}
	prec = min(prec, 1000)
	verb := f.verb | 0x20
	var s string
	switch {
	case math.IsInf(x, 0):
		s = "inf"
	case math.IsNaN(x):
		s = "nan"
	case f.verb == '%':
		s = strconv.FormatFloat(x*100, 'f', prec, 64) + "%"
	case verb == 'g' || f.verb == 0:
		s = f.general(x, max(1, prec))
	default:
		s = strconv.FormatFloat(x, verb, prec, 64)
		if f.alt && prec == 0 {
			mant, exp, found := strings.Cut(s, "e")
			if s = mant + "."; found {
				s += "e" + exp
			}
		}
	}
	if f.verb >= 'A' && f.verb <= 'Z' {
		s = strings.ToUpper(s)
	}
	return s
}

// general is %g: prec significant digits, scientific for small and large exponents, no trailing zeros unless # keeps
// them. Without a verb it is str's: a float shows that it is one.
func (f formatSpec) general(x float64, prec int) string {
	e := strconv.FormatFloat(x, 'e', prec-1, 64)
	mant, exp, _ := strings.Cut(e, "e")
	trim := func(s string) string {
		switch {
		case f.alt && !strings.Contains(s, "."):
			return s + "."
		case !f.alt && strings.Contains(s, "."):
			return strings.TrimRight(strings.TrimRight(s, "0"), ".")
		}
		return s
	}
	n, _ := strconv.Atoi(exp)
	if n < -4 || n >= prec || f.verb == 0 && n == prec-1 {
		return trim(mant) + "e" + exp
	}
	s := trim(strconv.FormatFloat(x, 'f', prec-1-n, 64))
	if f.verb == 0 && !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// grouped puts separators into the leading digits of s, and zeros before them until there are at least that many
// characters.
func (f formatSpec) grouped(ev *evaluator, s string, least int) (string, error) {
	size, digit := 3, isDecimal
	if strings.IndexByte("xXob", f.verb) >= 0 && f.verb != 0 {
		size, digit = 4, isHex
	}
	n := 0
	for n < len(s) && digit(s[n]) {
		n++
	}
	zeros := 0
	if n > 0 {
		for have := len(s) - n; zeros+n+(zeros+n-1)/size+have < least; {
			zeros++
		}
	}
	if err := ev.grow(zeros); err != nil {
		return "", err
	}
	s = strings.Repeat("0", zeros) + s
	n += zeros
	var b strings.Builder
	for i := range n {
		if i > 0 && (n-i)%size == 0 {
			b.WriteByte(f.group)
		}
		b.WriteByte(s[i])
	}
	return b.String() + s[n:], nil
}
