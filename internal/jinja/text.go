package jinja

import (
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

func runeLen(s string) int { return utf8.RuneCountInString(s) }

func runeSize(s string) int {
	_, n := utf8.DecodeRuneInString(s)
	return n
}

// IsSpace is Python's str.isspace for one character: Go's set and the four separators 0x1c..0x1f.
func IsSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

// toStr is Python's str(), that is what {{ }} prints. ev bounds the size.
func toStr(ev *evaluator, v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case *undefined:
		return "", nil
	}
	p := printer{ev: ev}
	p.repr(v, 0)
	return p.b.String(), p.err
}

func repr(ev *evaluator, v any) (string, error) {
	p := printer{ev: ev}
	p.repr(v, 0)
	return p.b.String(), p.err
}

// ascii is Python's ascii().
func ascii(ev *evaluator, v any) (string, error) {
	p := printer{ev: ev, ascii: true}
	p.repr(v, 0)
	return p.b.String(), p.err
}

// pprintFilter is Python's pprint on one line: it does not break long ones.
func pprintFilter(ev *evaluator, v any, _ []any) (any, error) {
	p := printer{ev: ev, sorted: true}
	p.repr(v, 0)
	return p.b.String(), p.err
}

// sortedByKey returns m in the order of its keys, where keys of several types go by the names of these.
func sortedByKey(ev *evaluator, m *Map) (*Map, error) {
	out := m.Clone()
	order := slices.Clone(m.keys)
	slices.SortStableFunc(order, func(a, b any) int {
		if lt, err := less(a, b, "<"); err != nil {
			return strings.Compare(typeName(a), typeName(b))
		} else if lt {
			return -1
		}
		return int(boolInt(!equal(a, b)))
	})
	for i, k := range order {
		out.keys[i] = k
		out.vals[i], _, _ = m.get(k)
	}
	if out.index != nil {
		out.reindex()
	}
	return out, ev.grow(64 * m.Len())
}

// printer writes Python's repr of a value.
type printer struct {
	ev     *evaluator
	b      strings.Builder
	sorted bool // dictionaries by key, as pprint has them
	ascii  bool // every other character as an escape
	err    error
}

func (p *printer) repr(v any, depth int) {
	if p.err != nil {
		return
	}
	if depth > p.ev.lim.MaxDepth {
		p.err = p.ev.limit("MaxDepth", p.ev.lim.MaxDepth)
		return
	}
	switch v := v.(type) {
	case nil:
		p.b.WriteString("None")
	case bool:
		if v {
			p.b.WriteString("True")
		} else {
			p.b.WriteString("False")
		}
	case int64:
		p.b.WriteString(strconv.FormatInt(v, 10))
	case *big.Int:
		p.b.WriteString(v.String())
	case float64:
		p.b.WriteString(formatFloat(v))
	case string:
		reprString(&p.b, v, p.ascii)
	case []any:
		p.sequence("[", v, "]", depth)
	case Tuple:
		if len(v) == 1 {
			p.sequence("(", v, ",)", depth)
			return
		}
		p.sequence("(", v, ")", depth)
	case *Map:
		p.dict("{", v, "}", depth)
	case *namespace:
		p.b.WriteString("<Namespace ")
		p.dict("{", v.attrs, "}>", depth)
	case view:
		items := make([]any, v.m.Len())
		for i := range items {
			items[i] = v.at(i)
		}
		p.sequence(v.kind+"([", items, "])", depth)
	case span:
		p.b.WriteString("range(" + strconv.FormatInt(v.start, 10) + ", " + strconv.FormatInt(v.stop, 10))
		if v.step != 1 {
			p.b.WriteString(", " + strconv.FormatInt(v.step, 10))
		}
		p.b.WriteString(")")
	case *undefined:
		p.b.WriteString("Undefined")
	case *loop:
		n, err := v.length()
		if err != nil {
			p.err = err
		}
		p.b.WriteString("<LoopContext " + strconv.Itoa(v.index0+1) + "/" + strconv.Itoa(n) + ">")
	case *macro:
		p.b.WriteString("<Macro '" + v.node.name + "'>")
	case *generator:
		p.b.WriteString("<generator object " + v.name + ">")
	case *function:
		p.b.WriteString("<function " + v.name + ">")
	}
	if err := p.ev.checkSize(p.b.Len()); err != nil {
		p.err = err
	}
}

func (p *printer) sequence(open string, items []any, end string, depth int) {
	p.b.WriteString(open)
	for i, x := range items {
		if p.err != nil {
			return
		}
		if i > 0 {
			p.b.WriteString(", ")
		}
		p.repr(x, depth+1)
	}
	p.b.WriteString(end)
}

func (p *printer) dict(open string, m *Map, end string, depth int) {
	p.b.WriteString(open)
	if p.sorted {
		if m, p.err = sortedByKey(p.ev, m); p.err != nil {
			return
		}
	}
	for i, k := range m.keys {
		if p.err != nil {
			return
		}
		if i > 0 {
			p.b.WriteString(", ")
		}
		p.repr(k, depth+1)
		p.b.WriteString(": ")
		p.repr(m.vals[i], depth+1)
	}
	p.b.WriteString(end)
}

func reprString(b *strings.Builder, s string, ascii bool) {
	quote := byte('\'')
	if strings.IndexByte(s, '\'') >= 0 && strings.IndexByte(s, '"') < 0 {
		quote = '"'
	}
	b.WriteByte(quote)
	for _, r := range s {
		switch {
		case r == rune(quote) || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case unicode.IsPrint(r) && !(ascii && r >= utf8.RuneSelf):
			b.WriteRune(r)
		default:
			b.WriteString(escapeRune(r))
		}
	}
	b.WriteByte(quote)
}

// escapeRune is Python's \x, \u or \U escape of a character.
func escapeRune(r rune) string {
	hex := func(prefix string, n int) string {
		h := strconv.FormatInt(int64(r), 16)
		return prefix + strings.Repeat("0", n-len(h)) + h
	}
	switch {
	case r <= 0xff:
		return hex(`\x`, 2)
	case r <= 0xffff:
		return hex(`\u`, 4)
	}
	return hex(`\U`, 8)
}

// formatFloat is Python's repr of a float: the shortest digits that read back, scientific below 1e-4 and from 1e16.
func formatFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// upperExpand adds to Go's one-to-one mapping the letters that Python expands; Lower does the same.
var upperExpand = strings.NewReplacer("ß", "SS", "ŉ", "ʼN", "ǰ", "J̌", "ﬀ", "FF", "ﬁ", "FI", "ﬂ", "FL",
	"ﬃ", "FFI", "ﬄ", "FFL", "ﬅ", "ST", "ﬆ", "ST", "և", "ԵՒ")

func upper(s string) string { return strings.ToUpper(upperExpand.Replace(s)) }

// Lower is Python's str.lower.
func Lower(s string) string {
	if !strings.ContainsAny(s, "İΣ") {
		return strings.ToLower(s)
	}
	var b strings.Builder
	runes := []rune(s)
	for i := range runes {
		b.WriteString(lowerAt(runes, i))
	}
	return b.String()
}

// lowerAt is the small form of a character in its text: a capital sigma at the end of a word has one of its own.
func lowerAt(runes []rune, i int) string {
	switch runes[i] {
	case 'İ':
		return "i̇"
	case 'Σ':
		before, after := i-1, i+1
		for before >= 0 && caseIgnorable(runes[before]) {
			before--
		}
		for after < len(runes) && caseIgnorable(runes[after]) {
			after++
		}
		if before >= 0 && isCased(runes[before]) && (after == len(runes) || !isCased(runes[after])) {
			return "ς"
		}
		return "σ"
	}
	return string(unicode.ToLower(runes[i]))
}

// caseIgnorable says that a character does not end a word, as accents and apostrophes do not.
func caseIgnorable(r rune) bool {
	return strings.ContainsRune("'.:·’‘", r) ||
		unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf, unicode.Lm, unicode.Sk)
}

// casefold is str.casefold: forms of the same letter become one.
func casefold(s string) string {
	return strings.Map(func(r rune) rune {
		if r == 'ı' {
			return r
		}
		return unicode.ToLower(unicode.ToUpper(r))
	}, upperExpand.Replace(strings.ReplaceAll(s, "İ", "i̇")))
}

// titleRune is the title case of one character: of the letters that expand only the first is capital.
func titleRune(r rune) string {
	s := upperExpand.Replace(string(r))
	first, n := utf8.DecodeRuneInString(s)
	switch {
	case n == len(s):
		return string(unicode.ToTitle(first))
	case r == 'ŉ':
		return s
	}
	return s[:n] + strings.ToLower(s[n:])
}

func capitalize(s string) string {
	if s == "" {
		return ""
	}
	runes := []rune(s)
	var b strings.Builder
	b.WriteString(titleRune(runes[0]))
	for i := range runes[1:] {
		b.WriteString(lowerAt(runes, i+1))
	}
	return b.String()
}

// splitLines is str.splitlines.
func splitLines(s string, keep bool) []any {
	out := []any{}
	start := 0
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch r {
		case '\n', '\r', '\v', '\f', 0x1c, 0x1d, 0x1e, 0x85, 0x2028, 0x2029:
			end := i
			i += n
			if r == '\r' && i < len(s) && s[i] == '\n' {
				i++
			}
			if keep {
				end = i
			}
			out = append(out, s[start:end])
			start = i
		default:
			i += n
		}
	}
	if start < len(s) {
		out = append(out, s[start:])
	}
	return out
}
