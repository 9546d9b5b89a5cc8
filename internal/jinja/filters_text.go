package jinja

import (
	"fmt"
	"html"
	"net/url"
	"regexp"
	"strings"
	"unicode"
)

// titleFilter capitalizes behind spaces, hyphens and opening brackets, unlike str.title.
func titleFilter(s string) string {
	var b strings.Builder
	start := true
	for _, r := range s {
		boundary := IsSpace(r) || strings.ContainsRune("-({[<", r)
		switch {
		case boundary:
			b.WriteRune(r)
		case start:
			b.WriteString(upper(string(r)))
		default:
			b.WriteString(Lower(string(r)))
		}
		start = boundary
	}
	return b.String()
}

func escapeHTML(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&#39;", `"`, "&#34;").Replace(s)
}

var tagPattern = regexp.MustCompile(`(?s)<!--.*?-->|<.*?>`)

func stripTags(s string) string {
	return html.UnescapeString(strings.Join(strings.FieldsFunc(tagPattern.ReplaceAllString(s, ""), IsSpace), " "))
}

func wordCount(s string) int64 {
	return int64(
		len(strings.FieldsFunc(s,
			func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsNumber(r) })))
}

func centerFilter(ev *evaluator, s string, args []any) (any, error) {
	if !given(args[0]) {
		args[0] = int64(80)
	}
	return centerMethod(ev, s, []any{args[0], absent{}})
}

func replaceFilter(ev *evaluator, s string, args []any) (any, error) {
	from, err := toStr(ev, args[0])
	if err != nil {
		return nil, err
	}
	to, err := toStr(ev, args[1])
	if err != nil {
		return nil, err
	}
	n := -1
	if given(args[2]) && args[2] != nil {
		if n, err = intArg(args[2], -1); err != nil {
			return nil, err
		}
	}
	return replace(ev, s, from, to, n)
}

// plainText demands a string, as filters that do not convert do.
func plainText(v any) (string, error) {
	switch s := v.(type) {
	case string:
		return s, nil
	case *undefined:
		return "", s.err()
	}
	return "", typeError("a str is needed, not '%s'", typeName(v))
}

func truncateFilter(_ *evaluator, v any, args []any) (any, error) {
	size, err := length(v)
	if err != nil {
		return nil, err
	}
	n, err := intArg(args[0], 255)
	if err != nil {
		return nil, err
	}
	end, err := textArg(args[2], "...")
	if err != nil {
		return nil, err
	}
	leeway := 5
	if given(args[3]) && args[3] != nil {
		if leeway, err = intArg(args[3], 5); err != nil {
			return nil, err
		}
	}
	switch {
	case n < runeLen(end) || leeway < 0:
		return nil,
			&failure{kind: "AssertionError", msg: fmt.Sprintf("expected length >= %d and leeway >= 0", runeLen(end))}
	case size <= n+leeway:
		return v, nil
	}
	s, err := plainText(v)
	if err != nil {
		return nil, err
	}
	s = s[:byteOffset(s, n-runeLen(end))]
	if i := strings.LastIndexByte(s, ' '); i >= 0 && !boolArg(args[1], false) {
		s = s[:i]
	}
	return s + end, nil
}

func indentFilter(ev *evaluator, v any, args []any) (any, error) {
	s, err := plainText(v)
	if err != nil {
		return nil, err
	}
	unit, isText := args[0].(string)
	if !isText {
		n, err := intArg(args[0], 4)
		if err != nil {
			return nil, err
		}
		if unit, err = padding(ev, " ", n); err != nil {
			return nil, err
		}
	}
	first, blank := boolArg(args[1], false), boolArg(args[2], false)
	var w writer
	for i, line := range splitLines(s+"\n", false) {
		text := line.(string)
		if i == 0 && first || i > 0 && (blank || text != "") {
			text = unit + text
		}
		if i > 0 {
			text = "\n" + text
		}
		if err = w.write(ev, text); err != nil {
			return nil, err
		}
	}
	return w.b.String(), nil
}

func formatFilter(ev *evaluator, v any, a callArgs) (any, error) {
	s, err := toStr(ev, v)
	if err != nil {
		return nil, err
	}
	if len(a.names) == 0 {
		return percentFormat(ev, s, Tuple(a.pos))
	}
	if len(a.pos) > 0 {
		return nil,
			&failure{kind: "FilterArgumentError", msg: "can't handle positional and keyword arguments at the same time"}
	}
	m := NewMap()
	for i, n := range a.names {
		m.Set(n, a.named[i])
	}
	return percentFormat(ev, s, m)
}

func urlQuote(ev *evaluator, v any, safe string) (string, error) {
	s, err := toStr(ev, v)
	if err != nil {
		return "", err
	}
	q := strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
	return strings.NewReplacer("%2F", safe).Replace(q), nil
}

func urlencodeFilter(ev *evaluator, v any, _ []any) (any, error) {
	if m, ok := v.(*Map); ok {
		v = view{m, "dict_items"}
	} else if _, isText := v.(string); isText || !isIterable(v) {
		return urlQuote(ev, v, "/")
	}
	items, err := ev.collect(v)
	if err != nil {
		return nil, err
	}
	parts := make([]string, len(items))
	for i, it := range items {
		pair, err := ev.collect(it)
		if err != nil {
			return nil, err
		}
		if len(pair) != 2 {
			return nil, valueError("urlencode needs pairs")
		}
		k, err := urlQuote(ev, pair[0], "%2F")
		if err != nil {
			return nil, err
		}
		x, err := urlQuote(ev, pair[1], "%2F")
		if err != nil {
			return nil, err
		}
		parts[i] = strings.ReplaceAll(k, "%20", "+") + "=" + strings.ReplaceAll(x, "%20", "+")
	}
	return strings.Join(parts, "&"), nil
}

func xmlattrFilter(ev *evaluator, v any, args []any) (any, error) {
	m, ok := v.(*Map)
	if !ok {
		return nil, typeError("xmlattr needs a mapping, not '%s'", typeName(v))
	}
	var parts []string
	for i, k := range m.keys {
		if _, u := m.vals[i].(*undefined); u || m.vals[i] == nil {
			continue
		}
		key, err := toStr(ev, k)
		if err != nil {
			return nil, err
		}
		if strings.ContainsAny(key, " \t\n\f\r/>=") {
			return nil, valueError("Invalid character in attribute name: %q", key)
		}
		x, err := toStr(ev, m.vals[i])
		if err != nil {
			return nil, err
		}
		parts = append(parts, escapeHTML(key)+`="`+escapeHTML(x)+`"`)
	}
	s := strings.Join(parts, " ")
	if s != "" && boolArg(args[0], true) {
		s = " " + s
	}
	return s, nil
}

func fileSize(ev *evaluator, v any, binary bool) (any, error) {
	x, err := floatFilter(ev, v, []any{nil})
	if err != nil {
		return nil, err
	}
	f, ok := x.(float64)
	if !ok {
		return nil, valueError("could not convert to float")
	}
	base, units := 1000.0, []string{"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"}
	if binary {
		base, units = 1024, []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"}
	}
	if f == 1 {
		return "1 Byte", nil
	}
	if f < base {
		return fmt.Sprintf("%d Bytes", int64(f)), nil
	}
	unit := base
	for i, u := range units {
		unit *= base
		if f < unit || i == len(units)-1 {
			return fmt.Sprintf("%.1f %s", base*f/unit, u), nil
		}
	}
	return nil, nil
}

func wordwrapFilter(ev *evaluator, v any, args []any) (any, error) {
	s, err := plainText(v)
	if err != nil {
		return nil, err
	}
	width, err := intArg(args[0], 79)
	if err != nil {
		return nil, err
	}
	if width <= 0 {
		return nil, valueError("invalid width %d (must be > 0)", width)
	}
	sep := "\n"
	if given(args[2]) && args[2] != nil {
		if sep, err = textArg(args[2], sep); err != nil {
			return nil, err
		}
	}
	wr := wrapper{width: width, breakLong: boolArg(args[1], true), hyphens: boolArg(args[3], true)}
	var w writer
	for i, line := range splitLines(s, false) {
		if i > 0 {
			if err = w.write(ev, sep); err != nil {
				return nil, err
			}
		}
		if err = w.write(ev, strings.Join(wr.wrap(line.(string)), sep)); err != nil {
			return nil, err
		}
	}
	return w.b.String(), nil
}

// wrapper breaks one line of text the way Python's textwrap does.
type wrapper struct {
	width              int
	breakLong, hyphens bool
}

// chunks splits as Python's expression does: runs of blanks, dashes between words, and words, which end behind hyphens
// between letters.
func (w wrapper) chunks(s string) [][]rune {
	var out [][]rune
	runes := []rune(s)
	for i := 0; i < len(runes); {
		n := w.chunk(runes, i)
		out = append(out, runes[i:i+n:i+n])
		i += n
	}
	return out
}

// chunk returns the length of the chunk that begins at i.
func (w wrapper) chunk(s []rune, i int) int {
	at := func(k int) rune {
		if k < 0 || k >= len(s) {
			return ' '
		}
		return s[k]
	}
	blank := func(r rune) bool { return strings.ContainsRune(" \t\n\v\f\r", r) }
	word := func(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r) }
	letter := func(r rune) bool { return word(r) && !unicode.IsDigit(r) }
	dashes := func(k int) int { // at least two of them, between words
		if !word(at(k-1)) && !strings.ContainsRune("!\"'&.,?", at(k-1)) {
			return 0
		}
		n := 0
		for at(k+n) == '-' {
			n++
		}
		if n < 2 || !word(at(k+n)) {
			return 0
		}
		return n
	}
	hyphen := func(k int) bool {
		before := letter(at(k-1)) && (letter(at(k-2)) || at(k-2) == '-' && letter(at(k-3)))
		return at(k) == '-' && before && letter(at(k+1)) && (letter(at(k+2)) || at(k+2) == '-' && letter(at(k+3)))
	}
	n := 1
	if blank(s[i]) {
		for i+n < len(s) && blank(s[i+n]) {
			n++
		}
		return n
	}
	if d := dashes(i); d > 0 && w.hyphens {
		return d
	}
	for ; i+n < len(s) && !blank(s[i+n]); n++ {
		if w.hyphens && hyphen(i+n) {
			return n + 1
		}
		if w.hyphens && dashes(i+n) > 0 {
			break
		}
	}
	return n
}

func (w wrapper) wrap(s string) []string {
	var lines []string
	blank := func(c []rune) bool { return strings.TrimFunc(string(c), IsSpace) == "" }
	for chunks := w.chunks(s); len(chunks) > 0; {
		if len(lines) > 0 && blank(chunks[0]) {
			chunks = chunks[1:]
		}
		var line, last []rune // last is the chunk at the line's end
		for len(chunks) > 0 && len(line)+len(chunks[0]) <= w.width {
			last, chunks = chunks[0], chunks[1:]
			line = append(line, last...)
		}
		if len(chunks) > 0 && len(chunks[0]) > w.width {
			switch c := chunks[0]; {
			case w.breakLong:
				n := w.cut(c, w.width-len(line))
				last, chunks[0] = c[:n], c[n:]
				line = append(line, last...)
			case len(line) == 0:
				line, last, chunks = c, c, chunks[1:]
			}
		}
		if blank(last) {
			line = line[:len(line)-len(last)]
		}
		if len(line) > 0 {
			lines = append(lines, string(line))
		}
	}
	return lines
}

// cut says how much of a long word fills the room that a line has left: up to a hyphen, where there is one behind text.
func (w wrapper) cut(c []rune, room int) int {
	if !w.hyphens {
		return room
	}
	for k := room - 1; k > 0; k-- {
		if c[k] == '-' {
			if strings.Trim(string(c[:k]), "-") != "" {
				return k + 1
			}
			break
		}
	}
	return room
}
