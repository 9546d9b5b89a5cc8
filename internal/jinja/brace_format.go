package jinja

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// braceFormat is str.format. Fields reach attributes and items only as a template could.
func braceFormat(ev *evaluator, s string, a callArgs) (any, error) {
	f := &braces{ev: ev, args: a, auto: 0}
	return f.format(s, 0)
}

type braces struct {
	ev     *evaluator
	args   callArgs
	auto   int // next automatic index, -1 once a number was written
	byHand bool
}

func (f *braces) format(s string, depth int) (string, error) {
	if depth > 2 {
		return "", valueError("Max string recursion exceeded")
	}
	var w writer
	for s != "" {
		at := strings.IndexAny(s, "{}")
		if at < 0 {
			at = len(s)
		}
		if err := w.write(f.ev, s[:at]); err != nil {
			return "", err
		}
		if s = s[at:]; s == "" {
			break
		}
		text := s[:1]
		if len(s) > 1 && s[1] == s[0] {
			s = s[2:]
		} else {
			end := closing(s)
			if end < 0 {
				return "", valueError("Single '%c' encountered in format string", s[0])
			}
			var err error
			if text, err = f.field(s[1:end], depth); err != nil {
				return "", err
			}
			s = s[end+1:]
		}
		if err := w.write(f.ev, text); err != nil {
			return "", err
		}
	}
	return w.b.String(), nil
}

// closing finds the } that matches the { at s[0].
func closing(s string) int {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth <= 0 {
				if s[0] == '}' {
					return -1
				}
				return i
			}
		}
	}
	return -1
}

func (f *braces) field(s string, depth int) (string, error) {
	name, spec := s, ""
	if i := strings.IndexAny(s, "!:"); i >= 0 {
		name, spec = s[:i], s[i:]
	}
	v, err := f.value(name)
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(spec, "!") {
		if len(spec) < 2 || len(spec) > 2 && spec[2] != ':' {
			return "", valueError("bad conversion in format string")
		}
		switch spec[1] {
		case 's':
			v, err = toStr(f.ev, v)
		case 'r':
			v, err = repr(f.ev, v)
		case 'a':
			v, err = ascii(f.ev, v)
		default:
			err = valueError("Unknown conversion specifier '%c'", spec[1])
		}
		if err != nil {
			return "", err
		}
		spec = spec[2:]
	}
	spec = strings.TrimPrefix(spec, ":")
	if strings.ContainsAny(spec, "{}") {
		if spec, err = f.format(spec, depth+1); err != nil {
			return "", err
		}
	}
	return formatValue(f.ev, v, spec)
}

// value resolves name, name.attr and name[key].
func (f *braces) value(s string) (any, error) {
	end := strings.IndexAny(s, ".[")
	if end < 0 {
		end = len(s)
	}
	v, err := f.argument(s[:end])
	for s = s[end:]; err == nil && s != ""; {
		if s[0] == '.' {
			end = strings.IndexAny(s[1:], ".[") + 1
			if end == 0 {
				end = len(s)
			}
			if end == 1 {
				return nil, valueError("Empty attribute in format string")
			}
			v, err = getAttr(f.ev, v, s[1:end])
			s = s[end:]
			continue
		}
		end = strings.IndexByte(s, ']')
		if s[0] != '[' || end < 0 {
			return nil, valueError("Missing ']' in format string")
		}
		if end == 1 {
			return nil, valueError("Empty attribute in format string")
		}
		var key any = s[1:end]
		if n, convErr := strconv.ParseInt(s[1:end], 10, 64); convErr == nil {
			key = n
		}
		v, err = getItem(f.ev, v, key)
		s = s[end+1:]
	}
	return v, err
}

func (f *braces) argument(name string) (any, error) {
	i, err := strconv.Atoi(name)
	if name == "" || err == nil {
		if name == "" {
			if f.byHand {
				return nil, valueError("cannot switch from manual field specification to automatic field numbering")
			}
			i = f.auto
			f.auto++
		} else {
			if f.auto > 0 {
				return nil, valueError("cannot switch from automatic field numbering to manual field specification")
			}
			f.byHand = true
		}
		if i < 0 || i >= len(f.args.pos) {
			return nil,
				&failure{kind: "IndexError",
					msg: "Replacement index " + strconv.Itoa(i) + " out of range for positional args tuple"}
		}
		return f.args.pos[i], nil
	}
	for k, n := range f.args.names {
		if n == name {
			return f.args.named[k], nil
		}
	}
	return nil, &failure{kind: "KeyError", msg: name}
}

// formatValue is format(v, spec): [[fill]align][sign][z][#][0][width][,][.precision][type].
func formatValue(ev *evaluator, v any, spec string) (string, error) {
	if spec == "" {
		return toStr(ev, v)
	}
	f := formatSpec{fill: " ", prec: -1}
	i := 0
	if _, n := utf8.DecodeRuneInString(spec); len(spec) > n && strings.IndexByte("<>=^", spec[n]) >= 0 {
		f.fill, f.align, i = spec[:n], spec[n], n+1
	} else if strings.IndexByte("<>=^", spec[0]) >= 0 {
		f.align, i = spec[0], 1
	}
	flag := func(chars string) byte {
		if i < len(spec) && strings.IndexByte(chars, spec[i]) >= 0 {
			i++
			return spec[i-1]
		}
		return 0
	}
	f.sign = flag("+- ")
	f.plus0 = flag("z") != 0
	f.alt = flag("#") != 0
	f.zero = flag("0") != 0
	f.width, i = digits(spec, i)
	f.group = flag(",_")
	if flag(".") != 0 {
		start := i
		if f.prec, i = digits(spec, i); i == start {
			return "", valueError("Format specifier missing precision")
		}
	}
	if i < len(spec) {
		f.verb = spec[i]
		i++
	}
	if i < len(spec) {
		return "", valueError("Invalid format specifier")
	}
	if s, ok := v.(string); ok {
		return f.plain(ev, s)
	}
	if f.sign == '-' {
		f.sign = 0
	}
	if !isNumber(v) {
		return "", typeError("unsupported format string passed to %s.__format__", typeName(v))
	}
	if f.align == 0 {
		f.align = '>'
		if f.zero {
			f.fill, f.align = "0", '='
		}
	} else if f.zero && f.fill == " " {
		f.fill = "0"
	}
	return f.anyNumber(ev, v)
}

// plain formats a string.
func (f formatSpec) plain(ev *evaluator, s string) (string, error) {
	if f.verb != 0 && f.verb != 's' || f.align == '=' || f.sign != 0 || f.group != 0 || f.alt || f.plus0 {
		return "", valueError("Invalid format specifier for object of type 'str'")
	}
	if f.zero && f.align == 0 {
		f.fill = "0"
	}
	if f.align == 0 {
		f.align = '<'
	}
	return f.text(ev, s, nil)
}

// anyNumber picks the verb that Python uses where none is given.
func (f formatSpec) anyNumber(ev *evaluator, v any) (string, error) {
	x, isFloat := v.(float64)
	if f.verb == 'n' && f.group == 0 { // the locale has no separators
		f.verb = 'd'
		if isFloat {
			f.verb = 'g'
		}
	}
	if f.verb == 0 && !isFloat {
		f.verb = 'd'
	}
	isInteger := !isFloat && strings.IndexByte("dxXobc", f.verb) >= 0
	switch {
	case f.verb == 0 && f.prec < 0:
		s := formatFloat(x)
		neg := strings.HasPrefix(s, "-")
		s = strings.TrimPrefix(s, "-")
		return f.signed(ev, neg && !(f.plus0 && x == 0), "", s)
	case isInteger && (f.prec >= 0 || f.plus0):
		return "", valueError("neither precision nor z is allowed in an integer's format specifier")
	case f.group == ',' && strings.IndexByte("xXobc", f.verb) >= 0 && f.verb != 0, f.group != 0 && f.verb == 'c':
		return "", valueError("Cannot specify '%c' with '%c'.", f.group, f.verb)
	case f.verb == 'c' && isInteger:
		n, ok := small(v)
		if !ok {
			n = -1
		}
		if f.sign != 0 || f.alt {
			return "", valueError("Sign and # are not allowed with integer format specifier 'c'")
		}
		return f.char(ev, n)
	case f.verb == 0, strings.IndexByte("eEfFgG%", f.verb) >= 0, isInteger:
		return f.number(ev, v)
	}
	return "", valueError("Unknown format code '%c' for object of type '%s'", f.verb, typeName(v))
}
