package settings

import (
	"encoding/csv"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"
)

// Strings registers a flag with several values. On the command line and in a variable they are separated by commas; a
// comma within brackets, as in the regular expression q_proj[0-9]{1,2}, or within a value in double quotes does not
// separate. [A, B] is a list as YAML and JSON write it. In a file each item of a list is one value as it stands. The
// flag
// may be repeated.
func Strings(fs *pflag.FlagSet, p *[]string, name string, def []string, usage string) {
	*p = def
	fs.Var(&list{p: p}, name, usage)
}

// list is the value of Strings.
type list struct {
	p     *[]string
	given bool // the default is replaced
}

// Set implements pflag.Value.
func (l *list) Set(text string) error { return l.add(split(text)) }

func (l *list) add(values []string) error {
	if !l.given {
		*l.p = nil
	}
	l.given = true
	*l.p = append(*l.p, values...)
	return nil
}

// Type implements pflag.Value.
func (l *list) Type() string { return "stringSlice" }

// String implements pflag.Value.
func (l *list) String() string { return "[" + joined(*l.p) + "]" }

// joined is a list in which each value is written so that split returns it.
func joined(values []string) string {
	text := strings.Join(values, ",")
	if slices.Equal(split(text), values) {
		return text
	}
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = `"` + strings.ReplaceAll(v, `"`, `""`) + `"`
	}
	return strings.Join(out, ",")
}

// split cuts a text at the commas that separate values.
func split(text string) []string {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	if flow, ok := flowList(text); ok {
		return flow
	}
	if strings.HasPrefix(text, `"`) || strings.Contains(text, `,"`) { // values in quotes, as in CSV
		if record, err := csv.NewReader(strings.NewReader(text)).Read(); err == nil {
			return record
		}
	}
	return cut(text, func(string) bool { return true })
}

// flowList reads [A, B].
func flowList(text string) ([]string, bool) {
	text = strings.TrimSpace(text)
	if !strings.HasPrefix(text, "[") || !strings.HasSuffix(text, "]") || !strings.Contains(text, ",") &&
		!strings.HasPrefix(text, `["`) {
		return nil, false // a class of characters of a regular expression
	}
	var node yaml.Node
	if yaml.Unmarshal([]byte(text), &node) != nil || len(node.Content) != 1 ||
		node.Content[0].Kind != yaml.SequenceNode {
		return nil, false
	}
	out, err := scalars(node.Content[0])
	return out, err == nil
}

// scalars returns the items of a YAML list as they are written.
func scalars(n *yaml.Node) ([]string, error) {
	out := []string{}
	for _, item := range n.Content {
		if item.Kind == yaml.AliasNode {
			item = item.Alias
		}
		if item.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("line %d: a list or mapping where a value is expected", item.Line)
		}
		out = append(out, item.Value)
	}
	return out, nil
}

// cut cuts a text at each comma outside of brackets behind which a part begins. Where brackets do not match, they do
// not count.
func cut(text string, begins func(rest string) bool) (out []string) {
	var open []rune
	matched, begin, class := true, 0, false
	var at []int
	escape := false
	for i, c := range text {
		switch {
		case escape:
			escape = false
		case c == '\\':
			escape = true
		case class: // within [ ] only ] counts
			class = c != ']'
		case c == '[':
			class = true
		case c == '(' || c == '{':
			open = append(open, c)
		case c == ')' || c == '}':
			if len(open) == 0 || (open[len(open)-1] == '(') != (c == ')') {
				matched = false
				continue
			}
			open = open[:len(open)-1]
		case c == ',' && len(open) == 0:
			at = append(at, i)
		}
	}
	if !matched || class || len(open) > 0 {
		at = nil
		for i, c := range text {
			if c == ',' {
				at = append(at, i)
			}
		}
	}
	for _, i := range at {
		if begins(text[i+1:]) {
			out = append(out, text[begin:i])
			begin = i + 1
		}
	}
	return append(out, text[begin:])
}

// Texts registers a flag with named texts, NAME=TEXT,...: a comma belongs to the text unless NAME= follows it. A
// text in double quotes may hold that too, and a pair may stand in them. In a file it is a mapping, whose values are
// taken as they stand.
func Texts(fs *pflag.FlagSet, p *map[string]string, name, usage string) {
	begins := regexp.MustCompile(`^ ?[A-Za-z_][A-Za-z0-9_]*=`)
	ends := regexp.MustCompile(`"(,|$)`)
	fs.Var(&mapping{p: p, cut: func(text string) []string {
		var out []string
		begin, quoted := 0, false
		for i, c := range text {
			switch {
			case c == '"' && !quoted:
				quoted = i > 0 && text[i-1] == '=' && ends.MatchString(text[i+1:])
			case c == '"':
				quoted = !(i+1 == len(text) || begins.MatchString(strings.TrimPrefix(text[i+1:], ",")))
			case c == ',' && !quoted && begins.MatchString(text[i+1:]):
				out = append(out, text[begin:i])
				begin = i + 1
			}
		}
		return append(out, text[begin:])
	}, equals: strings.Index, quotes: true}, name, usage)
}

// Patterns registers a flag with values for patterns, PATTERN=VALUE,...: commas and equals signs within a pattern's
// brackets belong to it. In a file it is a mapping.
func Patterns(fs *pflag.FlagSet, p *map[string]string, name, usage string) {
	fs.Var(&mapping{p: p, cut: func(text string) []string {
		return cut(text, func(rest string) bool { return strings.Contains(rest, "=") })
	}, equals: strings.LastIndex}, name, usage)
}

// mapping is the value of Texts and Patterns.
type mapping struct {
	p      *map[string]string
	cut    func(string) []string
	equals func(s, substr string) int
	quotes bool // a value may stand in double quotes
	given  bool
}

// Set implements pflag.Value.
func (m *mapping) Set(text string) error {
	parts := m.cut(text)
	if strings.HasPrefix(text, `"`) {
		if record, err := csv.NewReader(strings.NewReader(text)).Read(); err == nil {
			parts = record
		}
	}
	pairs := map[string]string{}
	for _, part := range parts {
		i := m.equals(part, "=")
		if i < 0 {
			if strings.TrimSpace(part) == "" {
				continue
			}
			return fmt.Errorf("%q must be formatted as key=value", part)
		}
		value := part[i+1:]
		if inner := strings.Trim(value, `"`); m.quotes && value == `"`+inner+`"` && !strings.Contains(inner, `"`) {
			value = inner
		}
		pairs[strings.TrimSpace(part[:i])] = value
	}
	return m.add(pairs)
}

func (m *mapping) add(pairs map[string]string) error {
	if !m.given {
		*m.p = nil
	}
	if m.given = true; *m.p == nil {
		*m.p = map[string]string{}
	}
	maps.Copy(*m.p, pairs)
	return nil
}

// Type implements pflag.Value.
func (m *mapping) Type() string { return "stringToString" }

// String implements pflag.Value.
func (m *mapping) String() string {
	if m.p == nil {
		return "[]"
	}
	pairs := make([]string, 0, len(*m.p))
	for _, k := range slices.Sorted(maps.Keys(*m.p)) {
		pairs = append(pairs, k+"="+(*m.p)[k])
	}
	return "[" + strings.Join(pairs, ",") + "]"
}

// words are values of a flag under other names.
type words struct {
	pflag.Value
	of map[string]string
}

// Set implements pflag.Value.
func (w *words) Set(text string) error {
	if v, ok := w.of[strings.ToLower(strings.TrimSpace(text))]; ok {
		text = v
	}
	return w.Value.Set(text)
}

// Words lets a flag take further words for its values, given in lower case: they are replaced.
func Words(fs *pflag.FlagSet, flag string, of map[string]string) {
	f := fs.Lookup(flag)
	f.Value = &words{f.Value, of}
}

// yesNo are the words for booleans that YAML 1.1 has besides true and false.
var yesNo = map[string]string{"yes": "true", "y": "true", "on": "true", "no": "false", "n": "false", "off": "false"}

// AcceptYesNo lets every boolean flag take yes, no, on and off.
func AcceptYesNo(fs *pflag.FlagSet) {
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Value.Type() == "bool" {
			f.Value = &words{f.Value, yesNo}
		}
	})
}

// plainValue returns the value of a flag without what is around it.
func plainValue(v pflag.Value) pflag.Value {
	for {
		switch w := v.(type) {
		case *words:
			v = w.Value
		case *renamed:
			v = w.Value
		default:
			return v
		}
	}
}
