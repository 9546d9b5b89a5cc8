package jinja

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

var stringMethods map[string]methodFunc

func init() { // in init because format and join refer back to the evaluator's tables
	stringMethods = map[string]methodFunc{
		"strip":      cutter("strip", true, true),
		"lstrip":     cutter("lstrip", true, false),
		"rstrip":     cutter("rstrip", false, true),
		"split":      splitter("split", false),
		"rsplit":     splitter("rsplit", true),
		"startswith": affix("startswith", strings.HasPrefix),
		"endswith":   affix("endswith", strings.HasSuffix),
		"find":       finder("find", strings.Index, false),
		"rfind":      finder("rfind", strings.LastIndex, false),
		"index":      finder("index", strings.Index, true),
		"rindex":     finder("rindex", strings.LastIndex, true),
		"upper":      mapper("upper", upper),
		"lower":      mapper("lower", Lower),
		"casefold":   mapper("casefold", casefold),
		"capitalize": mapper("capitalize", capitalize),
		"title":      mapper("title", titleWords),
		"swapcase":   mapper("swapcase", swapCase),
		"isdigit": all("isdigit", func(r rune) bool {
			return unicode.IsDigit(r) ||
				strings.ContainsRune("²³¹⁰⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉", r)
		}),
		"isdecimal": all("isdecimal", unicode.IsDigit),
		"isnumeric": all("isnumeric", unicode.IsNumber),
		"isalpha":   all("isalpha", unicode.IsLetter),
		"isalnum":   all("isalnum", func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }),
		"isspace":   all("isspace", IsSpace),
		"isupper": textMethod("isupper", "",
			func(_ *evaluator, s string, _ []any) (any, error) { return isCase(s, isUpper), nil }),
		"islower": textMethod("islower", "",
			func(_ *evaluator, s string, _ []any) (any, error) { return isCase(s, isLower), nil }),
		"istitle": textMethod("istitle", "",
			func(_ *evaluator, s string, _ []any) (any, error) { return isTitle(s), nil }),
		"isascii": textMethod("isascii", "",
			func(_ *evaluator, s string, _ []any) (any, error) { return isASCII(s), nil }),
		"isprintable": textMethod("isprintable", "", func(_ *evaluator, s string, _ []any) (any, error) {
			return strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0, nil
		}),
		"isidentifier": textMethod("isidentifier", "",
			func(_ *evaluator, s string, _ []any) (any, error) { return isIdentifier(s), nil }),
		"replace": textMethod("replace", "old new count?", replaceMethod),
		"removeprefix": textMethod("removeprefix", "prefix", func(_ *evaluator, s string, a []any) (any, error) {
			p, err := textArg(a[0], "")
			return strings.TrimPrefix(s, p), err
		}),
		"removesuffix": textMethod("removesuffix", "suffix", func(_ *evaluator, s string, a []any) (any, error) {
			p, err := textArg(a[0], "")
			return strings.TrimSuffix(s, p), err
		}),
		"count": textMethod("count", "sub start? end?", countMethod),
		"splitlines": textMethod("splitlines", "keepends?",
			func(_ *evaluator, s string, a []any) (any, error) { return splitLines(s, boolArg(a[0], false)), nil }),
		"join": textMethod("join", "iterable",
			func(ev *evaluator, s string, a []any) (any, error) { return joinStrings(ev, s, a[0]) }),
		"partition": textMethod("partition", "sep",
			func(_ *evaluator, s string, a []any) (any, error) { return partition(s, a[0], false) }),
		"rpartition": textMethod("rpartition", "sep",
			func(_ *evaluator, s string, a []any) (any, error) { return partition(s, a[0], true) }),
		"zfill":      textMethod("zfill", "width", zfill),
		"ljust":      padder("ljust", func(n int) int { return 0 }),
		"rjust":      padder("rjust", func(n int) int { return n }),
		"center":     textMethod("center", "width fillchar?", centerMethod),
		"expandtabs": textMethod("expandtabs", "tabsize?", expandTabs),
		"format": func(ev *evaluator, recv any, a callArgs) (any, error) {
			return braceFormat(ev, recv.(string), a)
		},
		"format_map": textMethod("format_map", "mapping", func(ev *evaluator, s string, a []any) (any, error) {
			m, ok := a[0].(*Map)
			if !ok {
				return nil, typeError("format_map() argument must be a mapping, not %s", typeName(a[0]))
			}
			args := callArgs{}
			for i, k := range m.keys {
				if name, ok := k.(string); ok {
					args.names, args.named = append(args.names, name), append(args.named, m.vals[i])
				}
			}
			return braceFormat(ev, s, args)
		}),
	}
}

func mapper(name string, f func(string) string) methodFunc {
	return textMethod(name, "", func(_ *evaluator, s string, _ []any) (any, error) { return f(s), nil })
}

func all(name string, is func(rune) bool) methodFunc {
	return textMethod(name, "", func(_ *evaluator, s string, _ []any) (any, error) {
		return s != "" && strings.IndexFunc(s, func(r rune) bool { return !is(r) }) < 0, nil
	})
}

func isUpper(r rune) bool { return unicode.IsUpper(r) || unicode.Is(unicode.Other_Uppercase, r) }
func isLower(r rune) bool { return unicode.IsLower(r) || unicode.Is(unicode.Other_Lowercase, r) }
func isCased(r rune) bool { return isUpper(r) || isLower(r) || unicode.IsTitle(r) }

func isCase(s string, is func(rune) bool) bool {
	cased := false
	for _, r := range s {
		if isCased(r) {
			if !is(r) {
				return false
			}
			cased = true
		}
	}
	return cased
}

func isTitle(s string) bool {
	prev, any := false, false
	for _, r := range s {
		switch {
		case isUpper(r) || unicode.IsTitle(r):
			if prev {
				return false
			}
			prev, any = true, true
		case isLower(r):
			if !prev {
				return false
			}
			any = true
		default:
			prev = false
		}
	}
	return any
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func isIdentifier(s string) bool {
	for i, r := range s {
		start := r == '_' || unicode.IsLetter(r) || unicode.Is(unicode.Nl, r)
		if !start && (i == 0 || !unicode.IsNumber(r) && !unicode.IsMark(r)) {
			return false
		}
	}
	return s != ""
}

// titleWords is str.title: a letter after a non-letter is capital, the others small.
func titleWords(s string) string {
	var b strings.Builder
	inWord := false
	runes := []rune(s)
	for i, r := range runes {
		switch {
		case !isCased(r):
			b.WriteRune(r)
		case inWord:
			b.WriteString(lowerAt(runes, i))
		default:
			b.WriteString(titleRune(r))
		}
		inWord = isCased(r)
	}
	return b.String()
}

func swapCase(s string) string {
	var b strings.Builder
	runes := []rune(s)
	for i, r := range runes {
		switch {
		case isUpper(r):
			b.WriteString(lowerAt(runes, i))
		case isLower(r):
			b.WriteString(upper(string(r)))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func replaceMethod(ev *evaluator, s string, args []any) (any, error) {
	from, err := textArg(args[0], "")
	if err != nil {
		return nil, err
	}
	to, err := textArg(args[1], "")
	if err != nil {
		return nil, err
	}
	n, err := intArg(args[2], -1)
	if err != nil {
		return nil, err
	}
	return replace(ev, s, from, to, n)
}

// replace checks the size of the result before it is made.
func replace(ev *evaluator, s, from, to string, n int) (any, error) {
	found := strings.Count(s, from)
	if n >= 0 {
		found = min(found, n)
	}
	if more := len(to) - len(from); more > 0 && found > (ev.lim.MaxOutput-len(s))/more {
		return nil, ev.limit("MaxOutput", ev.lim.MaxOutput)
	}
	return strings.Replace(s, from, to, n), nil
}

func countMethod(_ *evaluator, s string, args []any) (any, error) {
	sub, err := textArg(args[0], "")
	if err != nil {
		return nil, err
	}
	part, _, ok, err := window(s, args[1], args[2])
	if err != nil || !ok {
		return int64(0), err
	}
	return int64(strings.Count(part, sub)), nil
}

// joinStrings is sep.join(iterable): every item must be a string.
func joinStrings(ev *evaluator, sep string, v any) (any, error) {
	items, err := ev.collect(v)
	if err != nil {
		return nil, err
	}
	var w writer
	for i, x := range items {
		s, ok := x.(string)
		if !ok {
			return nil, typeError("sequence item %d: expected str instance, %s found", i, typeName(x))
		}
		if i > 0 {
			s = sep + s
		}
		if err = w.write(ev, s); err != nil {
			return nil, err
		}
	}
	return w.b.String(), nil
}

func partition(s string, sepArg any, right bool) (any, error) {
	sep, err := textArg(sepArg, "")
	if err != nil {
		return nil, err
	}
	if sep == "" {
		return nil, valueError("empty separator")
	}
	at := strings.Index(s, sep)
	if right {
		at = strings.LastIndex(s, sep)
	}
	switch {
	case at >= 0:
		return Tuple{s[:at], sep, s[at+len(sep):]}, nil
	case right:
		return Tuple{"", "", s}, nil
	}
	return Tuple{s, "", ""}, nil
}

func zfill(ev *evaluator, s string, args []any) (any, error) {
	w, err := intArg(args[0], 0)
	if err != nil {
		return nil, err
	}
	fill, err := padding(ev, "0", w-runeLen(s))
	if s != "" && (s[0] == '+' || s[0] == '-') {
		return s[:1] + fill + s[1:], err
	}
	return fill + s, err
}

// padding is fill n times, within the limits.
func padding(ev *evaluator, fill string, n int) (string, error) {
	if n <= 0 {
		return "", nil
	}
	if n > ev.lim.MaxOutput/max(1, len(fill)) {
		return "", ev.limit("MaxOutput", ev.lim.MaxOutput)
	}
	return strings.Repeat(fill, n), nil
}

// padder makes ljust and rjust; before says how many of n fill characters stand before the text.
func padder(name string, before func(n int) int) methodFunc {
	return textMethod(name, "width fillchar?", func(ev *evaluator, s string, args []any) (any, error) {
		return pad(ev, s, args, func(n, _ int) int { return before(n) })
	})
}

func centerMethod(ev *evaluator, s string, args []any) (any, error) {
	return pad(ev, s, args, func(n, width int) int { return n/2 + (n & width & 1) })
}

func pad(ev *evaluator, s string, args []any, before func(n, width int) int) (any, error) {
	width, err := intArg(args[0], 0)
	if err != nil {
		return nil, err
	}
	fill, err := textArg(args[1], " ")
	if err != nil || runeLen(fill) != 1 {
		return nil, typeError("The fill character must be exactly one character long")
	}
	n := max(0, width-runeLen(s))
	left := before(n, width)
	if _, err = padding(ev, fill, n); err != nil {
		return nil, err
	}
	return strings.Repeat(fill, left) + s + strings.Repeat(fill, n-left), nil
}

func expandTabs(ev *evaluator, s string, args []any) (any, error) {
	size, err := intArg(args[0], 8)
	if err != nil {
		return nil, err
	}
	var w writer
	col := 0
	for _, r := range s {
		t := string(r)
		switch r {
		case '\t':
			n := 0
			if size > 0 {
				n = size - col%size
			}
			if t, err = padding(ev, " ", n); err != nil {
				return nil, err
			}
			col += n
		case '\n', '\r':
			col = 0
		default:
			col++
		}
		if err = w.write(ev, t); err != nil {
			return nil, err
		}
	}
	return w.b.String(), nil
}
