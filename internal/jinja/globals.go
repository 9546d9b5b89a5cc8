package jinja

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// globals are the functions a template can call: Jinja's, less lipsum (random text), and the two that transformers
// adds.
var globals = map[string]*function{
	"range": {name: "range", call: makeRange},
	"dict": {
		name: "dict",
		call: func(ev *evaluator, a callArgs) (any, error) { return makeDict(ev, "dict", a) },
		attr: func(name string) (any, bool) { return fromKeys, name == fromKeys.name },
	},
	"namespace":       {name: "namespace", call: makeNamespace},
	"cycler":          {name: "cycler", call: makeCycler},
	"joiner":          {name: "joiner", call: makeJoiner},
	"raise_exception": {name: "raise_exception", call: raise},
	"strftime_now":    {name: "strftime_now", call: strftimeNow},
}

func makeRange(ev *evaluator, a callArgs) (any, error) {
	if len(a.names) > 0 || len(a.pos) == 0 || len(a.pos) > 3 {
		return nil, typeError("range expected 1 to 3 arguments, got %d", len(a.pos))
	}
	n := [3]int64{0, 0, 1}
	for i, v := range a.pos {
		if !isInt(v) {
			return nil, typeError("'%s' object cannot be interpreted as an integer", typeName(v))
		}
		x, ok := small(v)
		if !ok {
			return nil, ev.limit("MaxRange", ev.lim.MaxRange)
		}
		n[i] = x
	}
	if len(a.pos) == 1 {
		n[0], n[1] = 0, n[0]
	}
	if n[2] == 0 {
		return nil, valueError("range() arg 3 must not be zero")
	}
	count := rangeLen(n[0], n[1], n[2])
	if count > int64(ev.lim.MaxRange) || count < 0 {
		return nil, ev.limit("MaxRange", ev.lim.MaxRange)
	}
	return span{n[0], n[1], n[2], count}, nil
}

func makeDict(ev *evaluator, fn string, a callArgs) (*Map, error) {
	if len(a.pos) > 1 {
		return nil, typeError("%s expected at most 1 argument, got %d", fn, len(a.pos))
	}
	m := NewMap()
	if len(a.pos) == 1 {
		if src, ok := a.pos[0].(*Map); ok {
			m = src.Clone()
		} else {
			items, err := ev.collect(a.pos[0])
			if err != nil {
				return nil, err
			}
			for _, it := range items {
				pair, err := ev.collect(it)
				if err != nil {
					return nil, err
				}
				if len(pair) != 2 {
					return nil, valueError("dictionary update sequence element has length %d; 2 is required", len(pair))
				}
				if err = m.set(pair[0], pair[1]); err != nil {
					return nil, err
				}
			}
		}
	}
	for i, k := range a.names {
		m.Set(k, a.named[i])
	}
	return m, ev.grow(64 * m.Len())
}

// fromKeys is dict.fromkeys: the items of an iterable as keys, all with one value.
var fromKeys = &function{name: "fromkeys", call: func(ev *evaluator, a callArgs) (any, error) {
	if len(a.names) > 0 {
		return nil, typeError("dict.fromkeys() takes no keyword arguments")
	}
	args, err := a.bind("fromkeys", "iterable value?")
	if err != nil {
		return nil, err
	}
	keys, err := ev.collect(args[0])
	if err != nil {
		return nil, err
	}
	if !given(args[1]) {
		args[1] = nil
	}
	m := NewMap()
	for _, k := range keys {
		if err := m.set(k, args[1]); err != nil {
			return nil, err
		}
	}
	return m, ev.grow(64 * m.Len())
}}

func makeNamespace(ev *evaluator, a callArgs) (any, error) {
	m, err := makeDict(ev, "namespace", a)
	if err != nil {
		return nil, err
	}
	for _, k := range m.keys {
		if name, ok := k.(string); ok {
			if err := checkStored(name); err != nil {
				return nil, err
			}
		}
	}
	return &namespace{m}, nil
}

// checkStored refuses names that transformers keeps out of a namespace.
func checkStored(name string) error {
	if !strings.HasPrefix(name, "_") {
		return nil
	}
	return &failure{kind: "SecurityError", msg: "a namespace holds no names that begin with an underscore: " + name}
}

func makeCycler(_ *evaluator, a callArgs) (any, error) {
	if len(a.pos) == 0 {
		return nil, &failure{kind: "RuntimeError", msg: "at least one item has to be provided"}
	}
	pos := 0
	attr := func(name string) (any, bool) {
		switch name {
		case "current":
			return a.pos[pos], true
		case "pos":
			return int64(pos), true
		case "next":
			return &function{name: name, call: func(*evaluator, callArgs) (any, error) {
				v := a.pos[pos]
				pos = (pos + 1) % len(a.pos)
				return v, nil
			}}, true
		case "reset":
			return &function{name: name, call: func(*evaluator, callArgs) (any, error) { pos = 0; return nil, nil }},
				true
		}
		return nil, false
	}
	return &function{name: "cycler", attr: attr, call: func(*evaluator, callArgs) (any, error) {
		return nil, typeError("'Cycler' object is not callable")
	}}, nil
}

func makeJoiner(_ *evaluator, a callArgs) (any, error) {
	args, err := a.bind("joiner", "sep?")
	if err != nil {
		return nil, err
	}
	sep := args[0]
	if !given(sep) {
		sep = ", "
	}
	used := false
	return &function{name: "joiner", call: func(*evaluator, callArgs) (any, error) {
		if used {
			return sep, nil
		}
		used = true
		return "", nil
	}}, nil
}

func raise(ev *evaluator, a callArgs) (any, error) {
	args, err := a.bind("raise_exception", "message")
	if err != nil {
		return nil, err
	}
	text, err := toStr(ev, args[0])
	if err != nil {
		return nil, err
	}
	return nil, &RaisedError{Message: text}
}

func strftimeNow(ev *evaluator, a callArgs) (any, error) {
	args, err := a.bind("strftime_now", "format")
	if err != nil {
		return nil, err
	}
	format, ok := args[0].(string)
	if !ok {
		return nil, typeError("strftime() argument 1 must be str, not %s", typeName(args[0]))
	}
	now := time.Now
	if ev.now != nil {
		now = ev.now
	}
	s := strftime(now(), format)
	return s, ev.grow(len(s))
}

// strftime formats t as C's strftime does in the C locale, with glibc's flags - (no padding), _ (spaces) and 0.
func strftime(t time.Time, format string) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 >= len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		start, flag := i, byte(0)
		if strings.IndexByte("-_0^#", format[i]) >= 0 && i+1 < len(format) {
			flag = format[i]
			i++
		}
		if (format[i] == 'E' || format[i] == 'O') && i+1 < len(format) { // other calendars and digits, which C lacks
			i++
		}
		s, ok := directive(t, format[i], flag)
		switch {
		case !ok:
			b.WriteByte('%')
			s = format[start : i+1]
		case flag == '#' && format[i] == 'p':
			s = strings.ToLower(s)
		case flag == '^' || flag == '#':
			s = strings.ToUpper(s)
		}
		b.WriteString(s)
	}
	return b.String()
}

func directive(t time.Time, c, flag byte) (string, bool) {
	if v, width, pad, ok := numeric(t, c); ok {
		switch flag {
		case '-':
			width = 0
		case '_':
			pad = " "
		case '0':
			pad = "0"
		}
		s := strconv.Itoa(v)
		return strings.Repeat(pad, max(0, width-len(s))) + s, true
	}
	layouts := map[byte]string{
		'a': "Mon", 'A': "Monday", 'b': "Jan", 'h': "Jan", 'B': "January", 'p': "PM", 'P': "pm",
		'c': "Mon Jan _2 15:04:05 2006",
		'D': "01/02/06", 'x': "01/02/06", 'F': "2006-01-02", 'T': "15:04:05", 'X': "15:04:05", 'R': "15:04",
		'r': "03:04:05 PM",
	}
	if l, ok := layouts[c]; ok {
		return t.Format(l), true
	}
	switch c {
	case 'f':
		return fmt.Sprintf("%06d", t.Nanosecond()/1000), true
	case 'z', 'Z': // transformers' clock has no time zone
		return "", true
	case '%':
		return "%", true
	case 'n':
		return "\n", true
	case 't':
		return "\t", true
	}
	return "", false
}

// numeric returns the value of a number directive with its usual width and padding.
func numeric(t time.Time, c byte) (v, width int, pad string, ok bool) {
	hour12 := (t.Hour()+11)%12 + 1
	isoYear, isoWeek := t.ISOWeek()
	wday, yday := int(t.Weekday()), t.YearDay()-1
	switch c {
	case 'Y':
		return t.Year(), 1, "0", true
	case 'C':
		return t.Year() / 100, 2, "0", true
	case 'y':
		return t.Year() % 100, 2, "0", true
	case 'G':
		return isoYear, 1, "0", true
	case 'g':
		return isoYear % 100, 2, "0", true
	case 'm':
		return int(t.Month()), 2, "0", true
	case 'd':
		return t.Day(), 2, "0", true
	case 'e':
		return t.Day(), 2, " ", true
	case 'H':
		return t.Hour(), 2, "0", true
	case 'k':
		return t.Hour(), 2, " ", true
	case 'I':
		return hour12, 2, "0", true
	case 'l':
		return hour12, 2, " ", true
	case 'M':
		return t.Minute(), 2, "0", true
	case 'S':
		return t.Second(), 2, "0", true
	case 'j':
		return t.YearDay(), 3, "0", true
	case 's':
		return int(t.Unix()), 1, "0", true
	case 'u':
		return (wday+6)%7 + 1, 1, "0", true
	case 'w':
		return wday, 1, "0", true
	case 'U':
		return (yday + 7 - wday) / 7, 2, "0", true
	case 'W':
		return (yday + 7 - (wday+6)%7) / 7, 2, "0", true
	case 'V':
		return isoWeek, 2, "0", true
	}
	return 0, 0, "", false
}
