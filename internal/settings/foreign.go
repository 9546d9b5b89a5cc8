package settings

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Foreign is a setting of other programs that this one does not have under any name.
type Foreign struct {
	Names []string // with - between words
	// Take are the values, in lower case, that are taken: as "" they have no effect here, as "FLAG=VALUE" they set that
	// flag, if it is not set itself.
	Take map[string]string
	Any  bool   // every other value is taken too and has no effect here
	Say  string // answers other values: what to write instead
}

// foreignOf marks the hidden flags of AddForeign.
const foreignOf = "weft_foreign"

// AddForeign makes fs, the flags of a command, take the settings in the table, on the command line, in a file and in
// variables, as hidden flags of its own (see OfCommand); names that fs has itself are left out.
func AddForeign(fs *pflag.FlagSet, command string, table []Foreign) {
	have := map[string]bool{}
	fs.VisitAll(func(f *pflag.Flag) {
		for _, name := range Names(f) {
			have[name] = true
		}
	})
	for i := range table {
		for _, name := range table[i].Names {
			if have[name] {
				continue
			}
			f := fs.VarPF(&foreign{of: &table[i]}, name, "", "a `setting` of other programs")
			f.Hidden = true
			if _, on := table[i].Take["true"]; on {
				f.NoOptDefVal = "true" // as of a boolean flag
			}
			annotate(f, foreignOf, name)
			annotate(f, ownSetting, command)
		}
	}
}

// foreign is the value of such a flag.
type foreign struct {
	of    *Foreign
	given bool
	text  string
	sets  string // FLAG=VALUE
}

// Set implements pflag.Value.
func (v *foreign) Set(text string) error {
	v.given, v.text = true, text
	word := strings.ToLower(strings.TrimSpace(text))
	if w, ok := yesNo[word]; ok {
		if _, own := v.of.Take[word]; !own {
			word = w
		}
	}
	sets, ok := v.of.Take[strings.TrimPrefix(word, "torch.")]
	if !ok && !v.of.Any {
		return fmt.Errorf("%s", v.of.Say)
	}
	v.sets = sets
	return nil
}

// Type implements pflag.Value.
func (v *foreign) Type() string { return "string" }

// String implements pflag.Value.
func (v *foreign) String() string { return v.text }

// applyForeign sets the flags that foreign settings mean, and returns the names of those without effect.
func applyForeign(flags *pflag.FlagSet) (idle []string, err error) {
	flags.VisitAll(func(f *pflag.Flag) {
		v, ok := f.Value.(*foreign)
		if !ok || !v.given || err != nil {
			return
		}
		name, value, sets := strings.Cut(v.sets, "=")
		if !sets {
			idle = append(idle, f.Name)
			return
		}
		target := flags.Lookup(name)
		before := target.Value.String()
		if !target.Changed {
			err = set(flags, name, value, f.Name)
		} else if before != value {
			err = fmt.Errorf("%s %s means %s %s, which is set to %s: give one", f.Name, v.text, name, value, before)
		}
	})
	return idle, err
}

// WithoutEffect lists the settings of other programs that were given and have no effect here.
func WithoutEffect(flags *pflag.FlagSet) []string {
	idle, err := applyForeign(flags)
	if err != nil {
		return nil
	}
	return slices.Sorted(slices.Values(idle))
}

// RenamedAll is Renamed for several names of several flags; flags that fs does not have are left out.
func RenamedAll(fs *pflag.FlagSet, names map[string][]string) {
	for _, flag := range slices.Sorted(maps.Keys(names)) {
		f := fs.Lookup(flag)
		if f == nil {
			continue
		}
		if _, ok := f.Value.(*renamed); !ok {
			f.Value = &renamed{Value: f.Value}
		}
		annotate(f, earlierOf, append(f.Annotations[earlierOf], names[flag]...)...)
	}
}
