// Package settings fills flags from the environment and a YAML file, and says where each value comes from.
package settings

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"
)

// Setting is the value in force of one flag and where it came from.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Source string `json:"source"` // "flag", "environment WEFT_…", "file …" or "default"
}

// OfCommand marks the flags in own as a command's own settings, which no other command means by these names: their
// variables are WEFT_<COMMAND>_<NAME>, and a file given to the command is its own too, so that a key which it does not
// know is an error there.
func OfCommand(command string, own *pflag.FlagSet) *pflag.FlagSet {
	own.VisitAll(func(f *pflag.Flag) { f.Annotations = map[string][]string{ownSetting: {command}} })
	return own
}

// Annotations of flags: a command's own, and one whose variable has another name.
const (
	ownSetting = "weft_own_setting_of"
	variableOf = "weft_variable"
)

// SetVariable names the environment variable that sets the flag, where it is not the one that follows from the flag.
func SetVariable(fs *pflag.FlagSet, flag, name string) {
	fs.Lookup(flag).Annotations = map[string][]string{variableOf: {name}}
}

// variable returns the environment variable that sets a flag.
func variable(f *pflag.Flag) string {
	if v := f.Annotations[variableOf]; len(v) > 0 {
		return v[0]
	}
	name := f.Name
	if of := f.Annotations[ownSetting]; len(of) > 0 {
		name = of[0] + "-" + name
	}
	return "WEFT_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// Resolve fills each flag that the command line left alone from its variable (WEFT_<NAME>, see OfCommand), then from
// the YAML file, and returns what is in force. A flag wins over the environment, the environment over the file, the
// file over the default. known lists the flags of every command: other keys of the file are errors. Every error is a
// mistake of the caller.
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
		env := variable(f)
		ownFile = ownFile || f.Annotations[ownSetting] != nil
		if v, ok := lookup(env); f.Changed {
			s.Source = "flag"
		} else if ok && env != "WEFT_ISA" { // the device reads WEFT_ISA itself
			s.Source = "environment " + env
			failed = set(flags, f.Name, v, s.Source)
		} else if v, ok := file[f.Name]; ok {
			s.Source = "file " + path
			if v.mapping && f.Value.Type() != "stringToString" {
				failed = fmt.Errorf("%s: %s: a mapping where a value is expected", path, f.Name)
			} else {
				failed = set(flags, f.Name, v.text, s.Source)
			}
		}
		delete(file, f.Name)
		s.Value = f.Value.String()
		out = append(out, s)
	})
	if failed != nil {
		return nil, failed
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

func set(flags *pflag.FlagSet, name, value, source string) error {
	if err := flags.Set(name, value); err != nil {
		return fmt.Errorf("%s: %v", source, err)
	}
	return nil
}

// fileValue is a value of a YAML file as a flag takes it.
type fileValue struct {
	text    string
	mapping bool
}

func readConfig(path string) (map[string]fileValue, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--config: %v", err)
	}
	var raw map[string]any
	if err := yaml.Unmarshal(text, &raw); err != nil {
		return nil, fmt.Errorf("%s: %v", path, err)
	}
	out, seen := make(map[string]fileValue, len(raw)), map[string]bool{}
	for k, v := range raw {
		k = strings.ReplaceAll(k, "_", "-")
		if seen[k] {
			return nil, fmt.Errorf("%s: key %q stands twice, with - and with _", path, k)
		}
		seen[k] = true
		switch v := v.(type) {
		case []any:
			parts := make([]string, len(v))
			for i := range v {
				parts[i] = fmt.Sprint(v[i])
			}
			out[k] = fileValue{text: strings.Join(parts, ",")}
		case map[string]any:
			parts := make([]string, 0, len(v))
			for _, name := range slices.Sorted(maps.Keys(v)) {
				if _, nested := v[name].(map[string]any); nested {
					return nil, fmt.Errorf("%s: %s: %s: a mapping where a value is expected", path, k, name)
				}
				parts = append(parts, fmt.Sprintf("%s=%v", name, v[name]))
			}
			out[k] = fileValue{strings.Join(parts, ","), true}
		case nil:
		default:
			out[k] = fileValue{text: fmt.Sprint(v)}
		}
	}
	return out, nil
}

// Suggestion returns ` (did you mean "x"?)` for the nearest flag within two edits.
func Suggestion(key string, flags *pflag.FlagSet) string {
	best, bestDist := "", 3
	flags.VisitAll(func(f *pflag.Flag) {
		if d := editDistance(key, f.Name); d < bestDist {
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
