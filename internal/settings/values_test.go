package settings

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/spf13/pflag"
)

// set is a set of flags with one of each kind.
type flagSet struct {
	*pflag.FlagSet
	list, plain   []string
	texts, ranges map[string]string
	yes           bool
}

func newFlags(yaml string, t *testing.T) *flagSet {
	t.Helper()
	f := &flagSet{FlagSet: pflag.NewFlagSet("x", pflag.ContinueOnError)}
	Strings(f.FlagSet, &f.list, "list", []string{"default"}, "")
	Texts(f.FlagSet, &f.texts, "texts", "")
	Patterns(f.FlagSet, &f.ranges, "patterns", "")
	f.StringArrayVar(&f.plain, "plain", nil, "")
	f.BoolVar(&f.yes, "yes", false, "")
	AcceptYesNo(f.FlagSet)
	path := filepath.Join(t.TempDir(), "x.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	f.String("config", path, "")
	return f
}

// Commas within an expression or a value do not separate; a value is the same from a flag, a variable and a file.
func TestLists(t *testing.T) {
	for text, want := range map[string][]string{
		"q_proj,v_proj": {"q_proj", "v_proj"}, `.*\.(q|v)_proj[0-9]{1,2}`: {`.*\.(q|v)_proj[0-9]{1,2}`},
		"a{1,2},b": {"a{1,2}", "b"}, "(a,b),[c,d]": {"(a,b)", "[c,d]"}, `\(a,b`: {`\(a`, "b"}, "(a,b": {"(a", "b"},
		"[a, b]": {"a", "b"}, `["a,b", "c"]`: {"a,b", "c"}, "[qv]_proj": {"[qv]_proj"}, "[a-z]": {"[a-z]"},
		`"a,b",c`: {"a,b", "c"}, "": nil, "x": {"x"}, `[^,]{2,},b`: {`[^,]{2,}`, "b"}, `"a{1,2}"`: {"a{1,2}"},
		"layers.[(,].q": {"layers.[(,].q"}, `["a"]`: {"a"},
	} {
		f := newFlags("", t)
		if err := f.Parse([]string{"--list", text}); err != nil || !slices.Equal(f.list, want) {
			t.Errorf("flag %q: %q, %v, want %q", text, f.list, err, want)
		}
		g := newFlags("", t)
		if err := g.Set("list",
			f.Lookup("list").Value.String()[1:len(f.Lookup("list").Value.String())-1]); err != nil ||
			len(want) > 0 && !slices.Equal(g.list, want) {
			t.Errorf("%q printed and read again: %q", text, g.list)
		}
		f = newFlags("", t)
		_, err := Resolve(f.FlagSet, func(k string) (string, bool) { return text, k == "WEFT_LIST" }, nil)
		if err != nil || !slices.Equal(f.list, want) {
			t.Errorf("variable %q: %q, %v, want %q", text, f.list, err, want)
		}
	}
	f := newFlags("", t)
	if err := f.Parse([]string{"--list", "a,b", "--list", "c"}); err != nil ||
		!slices.Equal(f.list, []string{"a", "b", "c"}) {
		t.Errorf("repeated: %q, %v", f.list, err)
	}
}

func TestMappings(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"a=1,b=2": {"a": "1", "b": "2"}, "motto=Hello, world": {"motto": "Hello, world"},
		"motto=Hello, world,name=Ada": {"motto": "Hello, world", "name": "Ada"}, "a=1, b=2": {"a": "1", "b": "2"},
		"a=x=y,z": {"a": "x=y,z"}, `"a=1,b=2",c=3`: {"a": "1,b=2", "c": "3"}, "a=": {"a": ""}, "a=:-( , b": {"a": ":-( , b"},
		`a="Hello, n=1"`: {"a": "Hello, n=1"}, `a="x, b=c",n=2`: {"a": "x, b=c", "n": "2"}, `a="`: {"a": `"`},
		`a="x" or "y",n=2`: {"a": `"x" or "y"`, "n": "2"}, `a=say "x, y",n=2`: {"a": `say "x, y"`, "n": "2"},
	} {
		f := newFlags("", t)
		if err := f.Parse([]string{"--texts", text}); err != nil || !maps.Equal(f.texts, want) {
			t.Errorf("texts %q: %q, %v, want %q", text, f.texts, err, want)
		}
	}
	for text, want := range map[string]map[string]string{
		"q_proj=8,v_proj=4":                 {"q_proj": "8", "v_proj": "4"},
		`layers\.[0-9]{1,2}\.q_proj=8,v=16`: {`layers\.[0-9]{1,2}\.q_proj`: "8", "v": "16"},
		`(?P<n>q|v)_proj=8`:                 {`(?P<n>q|v)_proj`: "8"}, "a(?=b)=2": {"a(?=b)": "2"},
	} {
		f := newFlags("", t)
		if err := f.Parse([]string{"--patterns", text}); err != nil || !maps.Equal(f.ranges, want) {
			t.Errorf("patterns %q: %q, %v, want %q", text, f.ranges, err, want)
		}
	}
	if err := newFlags("", t).Parse([]string{"--texts", "a"}); err == nil {
		t.Error("a text without a name is taken")
	}
}

// In a file values stand as they are written.
func TestFileValues(t *testing.T) {
	none := func(string) (string, bool) { return "", false }
	f := newFlags(`
list: ['.*_proj[0-9]{1,2}', "a,b", yes, 1.10]
plain: [x=1, "y,z"]
texts: {motto: "Hello, world", version: 1.10, ok: yes, quote: 'say "a", b=c'}
patterns: {'layers\.[0-9]{1,2}': 8}
yes: yes
`, t)
	if _, err := Resolve(f.FlagSet, none, nil); err != nil {
		t.Fatal(err)
	}
	if want := []string{".*_proj[0-9]{1,2}", "a,b", "yes", "1.10"}; !slices.Equal(f.list, want) {
		t.Errorf("list %q", f.list)
	}
	if !slices.Equal(f.plain, []string{"x=1", "y,z"}) || !f.yes {
		t.Errorf("%q, %v", f.plain, f.yes)
	}
	if want := map[string]string{"motto": "Hello, world", "version": "1.10", "ok": "yes", "quote": `say "a", b=c`}; !reflect.DeepEqual(
		f.texts,
		want,
	) {
		t.Errorf("texts %q", f.texts)
	}
	if !maps.Equal(f.ranges, map[string]string{`layers\.[0-9]{1,2}`: "8"}) {
		t.Errorf("patterns %q", f.ranges)
	}
	for _, yaml := range []string{"list: {a: b}", "list: [[a]]", "texts: [a]", "yes: [true]", "yes: {a: 1}",
		"yes: maybe",
		"texts: {a: {b: c}}", "texts: {a: [b]}", "texts: {a: }", "plain: {a: b}"} {
		if _, err := Resolve(newFlags(yaml, t).FlagSet, none, nil); err == nil {
			t.Errorf("%s is taken", yaml)
		}
	}
}

func TestWrap(t *testing.T) {
	if got, want := wrap("one two three\nfour fivefivefive six", 9),
		"one two\nthree\nfour\nfivefivefive\nsix"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
