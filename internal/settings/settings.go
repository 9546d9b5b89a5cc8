// Package settings sets flags from environment variables and a YAML file, and reports the source of each value.
package settings

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"
)

// Setting is the effective value of one flag and its source.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Source string `json:"source"` // "flag", "environment WEFT_…", "file …" or "default"
}

// OfCommand marks the flags in own as a command's own settings, which no other command means by these names: their
// variables are WEFT_<COMMAND>_<NAME>, and a file given to the command is its own too, so that a key which it does not
// know is an error there.
func OfCommand(command string, own *pflag.FlagSet) *pflag.FlagSet {
	own.VisitAll(func(f *pflag.Flag) { annotate(f, ownSetting, command) })
	return own
}

// Annotations of flags: a command's own, one whose variable has another name, and earlier names of a flag.
const (
	ownSetting = "weft_own_setting_of"
	variableOf = "weft_variable"
	earlierOf  = "weft_earlier_names"
)

func annotate(f *pflag.Flag, key string, values ...string) {
	if f.Annotations == nil {
		f.Annotations = map[string][]string{}
	}
	f.Annotations[key] = values
}

// Renamed says that a flag had an earlier name, which remains valid on the command line (see AcceptNames), as a key of
// a file and in the name of the variable, and is not listed in the help.
func Renamed(fs *pflag.FlagSet, flag, earlier string) {
	RenamedAll(fs, map[string][]string{flag: {earlier}})
}

// renamed is the value of a flag that has an earlier name. It notes how often the command line sets it, and by which
// earlier name, to find both names given.
type renamed struct {
	pflag.Value
	times   int
	earlier string
}

func (r *renamed) Set(s string) error {
	r.times++
	return r.Value.Set(s)
}

// AcceptNames makes fs take each flag with _ for -, too, and by its earlier names.
func AcceptNames(fs *pflag.FlagSet) {
	now := map[string]*pflag.Flag{}
	fs.VisitAll(func(f *pflag.Flag) {
		for _, earlier := range f.Annotations[earlierOf] {
			now[earlier] = f
		}
	})
	fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		name = strings.ReplaceAll(name, "_", "-")
		if f := now[name]; f != nil {
			if v, ok := f.Value.(*renamed); ok {
				v.earlier = name
			}
			name = f.Name
		}
		return pflag.NormalizedName(name)
	})
}

// Names returns the name of a flag and its earlier ones.
func Names(f *pflag.Flag) []string { return append([]string{f.Name}, f.Annotations[earlierOf]...) }

// SetVariable names the environment variable that sets the flag, where it is not the one that follows from the flag.
func SetVariable(fs *pflag.FlagSet, flag, name string) {
	annotate(fs.Lookup(flag), variableOf, name)
}

// variable returns the environment variable that sets a flag under one of its names.
func variable(f *pflag.Flag, name string) string {
	if v := f.Annotations[variableOf]; len(v) > 0 {
		return v[0]
	}
	if of := f.Annotations[ownSetting]; len(of) > 0 {
		name = of[0] + "-" + name
	}
	return "WEFT_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// Resolve fills each flag that the command line left alone from its variable (WEFT_<NAME>, see OfCommand), then from
// the YAML file, and returns the effective settings. A flag wins over the environment, the environment over the file,
// the file over the default. known lists the flags of every command: other keys of the file are errors. Every error is
// a mistake of the caller.
func Resolve(flags *pflag.FlagSet, lookup func(string) (string, bool), known func() map[string]bool) ([]Setting,
	error) {
	path := ""
	if f := flags.Lookup("config"); f != nil {
		path = f.Value.String()
		if v, ok := lookup("WEFT_CONFIG"); ok && !f.Changed {
			path = v
		}
	}
	file, err := readConfig(path)
	if err != nil {
		return nil, err
	}
	var out []Setting
	var failed error
	ownFile := false
	flags.VisitAll(func(f *pflag.Flag) {
		if failed != nil || f.Name == "help" || f.Name == "config" {
			return
		}
		s := Setting{Key: f.Name, Source: "default"}
		ownFile = ownFile || f.Annotations[ownSetting] != nil
		isForeign := f.Annotations[foreignOf] != nil
		if v, ok := f.Value.(*renamed); ok && v.times > 1 && v.earlier != "" && !isList(v) {
			failed = fmt.Errorf("--%s and --%s are one setting: give one, once", f.Name, v.earlier)
			return
		}
		env, value, inEnv, err := fromEnvironment(f, lookup)
		if err != nil {
			failed = err
			return
		}
		key, v, inFile, err := file.take(path, f)
		switch {
		case err != nil:
			failed = err
		case f.Changed:
			s.Source = "flag"
		case inEnv:
			s.Source = "environment " + env
			failed = set(flags, f.Name, value, s.Source)
		case inFile:
			s.Source = "file " + path
			if err := v.set(flags, f); err != nil {
				failed = fmt.Errorf("%s: %s: %w", path, key, Plain(err))
			}
		}
		if !isForeign {
			out = append(out, s)
		}
	})
	if failed != nil {
		return nil, failed
	}
	if _, err := applyForeign(flags); err != nil {
		return nil, err
	}
	for i := range out {
		f := flags.Lookup(out[i].Key)
		if out[i].Value = f.Value.String(); f.Changed && out[i].Source == "default" {
			out[i].Source = "another setting"
		}
	}
	// A file may serve several commands: only keys that no command knows are errors, unless the file is the command's
	// own.
	for _, key := range slices.Sorted(maps.Keys(file)) {
		if ownFile || !known()[key] {
			return nil, fmt.Errorf("%s: unknown key %q%s", path, key, Suggestion(key, flags))
		}
	}
	return out, nil
}

// fromEnvironment returns the variable that sets f and its value, where there is one; two, under two names, are an
// error.
func fromEnvironment(f *pflag.Flag, lookup func(string) (string, bool)) (env, value string, ok bool, err error) {
	for _, name := range Names(f) {
		key := variable(f, name)
		v, found := lookup(key)
		if !found || key == "WEFT_ISA" || key == env { // the device reads WEFT_ISA itself
			continue
		}
		if ok {
			return "", "", false, fmt.Errorf("%s and %s are one setting: give one", env, key)
		}
		env, value, ok = key, v, true
	}
	return env, value, ok, nil
}

func set(flags *pflag.FlagSet, name, value, source string) error {
	if err := flags.Set(name, value); err != nil {
		return fmt.Errorf("%s: %w", source, Plain(err))
	}
	return nil
}

// isList reports whether a flag has several values.
func isList(v pflag.Value) bool {
	switch v := plainValue(v).(type) {
	case *list, *mapping:
		return true
	default:
		_, ok := v.(pflag.SliceValue)
		return ok
	}
}

// fileValue is a value of a YAML file.
type fileValue struct {
	text  string            // of a scalar, as it is written
	items []string          // of a list
	pairs map[string]string // of a mapping
	other error             // why it is none of these
}

// set sets a flag to the value; items and pairs are taken as they stand.
func (v fileValue) set(flags *pflag.FlagSet, f *pflag.Flag) error {
	var err error
	switch to := plainValue(f.Value).(type) {
	case *foreign:
		text := v.text
		if v.items != nil || v.pairs != nil || v.other != nil {
			text = strings.Join(v.items, ",")
		}
		err = to.Set(text)
	case *mapping:
		switch {
		case v.pairs != nil:
			err = to.add(v.pairs)
		case v.items != nil:
			err = errors.New("a list where a mapping is expected")
		case v.other != nil:
			err = v.other
		default:
			err = f.Value.Set(v.text)
		}
	case *list:
		switch {
		case v.items != nil:
			err = to.add(v.items)
		case v.pairs != nil || v.other != nil:
			err = errors.New("a mapping where a value is expected")
		default:
			err = f.Value.Set(v.text)
		}
	case pflag.SliceValue:
		switch {
		case v.items != nil:
			err = to.Replace(v.items)
		case v.pairs != nil || v.other != nil:
			err = errors.New("a mapping where a value is expected")
		default:
			err = f.Value.Set(v.text)
		}
	default:
		switch {
		case v.other != nil:
			err = v.other
		case v.pairs != nil:
			err = errors.New("a mapping where a value is expected")
		case v.items != nil:
			err = errors.New("a list where one value is expected")
		default:
			return flags.Set(f.Name, v.text)
		}
	}
	if err == nil {
		f.Changed = true
	}
	return err
}

// values are those of a YAML file by key, with - for _.
type values map[string]fileValue

// take removes the value of f from the values; more than one, under several names, are an error.
func (all values) take(path string, f *pflag.Flag) (key string, v fileValue, ok bool, err error) {
	for _, name := range Names(f) {
		found, there := all[name]
		if there && ok {
			return "", v, false, fmt.Errorf("%s: %q and %q are one setting: give one", path, key, name)
		}
		if there {
			key, v, ok = name, found, true
			delete(all, name)
		}
	}
	return key, v, ok, nil
}

func readConfig(path string) (values, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	var raw map[string]yaml.Node
	if err := yaml.Unmarshal(text, &raw); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	out, seen := make(values, len(raw)), map[string]bool{}
	for k, n := range raw {
		k = strings.ReplaceAll(k, "_", "-")
		if seen[k] {
			return nil, fmt.Errorf("%s: key %q is there twice, with - and with _", path, k)
		}
		seen[k] = true
		if v, ok := valueOf(&n); ok {
			out[k] = v
		}
	}
	return out, nil
}

// valueOf reads a value; ok is false for null.
func valueOf(n *yaml.Node) (v fileValue, ok bool) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch n.Kind {
	case yaml.SequenceNode:
		if v.items, v.other = scalars(n); v.other != nil {
			v.items = nil
		}
	case yaml.MappingNode:
		var nodes map[string]yaml.Node
		if v.other = n.Decode(&nodes); v.other != nil {
			return v, true
		}
		v.pairs = map[string]string{}
		for name, of := range nodes {
			inner, ok := valueOf(&of)
			if !ok || inner.items != nil || inner.pairs != nil || inner.other != nil {
				return fileValue{other: fmt.Errorf("%s: one value is expected", name)}, true
			}
			v.pairs[name] = inner.text
		}
	default:
		return fileValue{text: n.Value}, n.Tag != "!!null"
	}
	return v, true
}

// Suggestion returns ` (did you mean "x"?)` for the nearest flag within two edits.
func Suggestion(key string, flags *pflag.FlagSet) string {
	best, bestDist := "", 3
	flags.VisitAll(func(f *pflag.Flag) {
		if d := editDistance(key, f.Name); d < bestDist && !f.Hidden {
			best, bestDist = f.Name, d
		}
	})
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diag+cost)
		}
	}
	return row[len(b)]
}
