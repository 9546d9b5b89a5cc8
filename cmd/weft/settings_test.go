package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft/finetune/train"
	"weft/internal/settings"
)

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestResolvePrecedence(t *testing.T) {
	path := writeFile(t, "weft.yaml", "max-seqs: 3\nmax_queued: 7\nkv-memory: 64MiB\nlisten: 127.0.0.1:9\n")
	env := map[string]string{"WEFT_MAX_QUEUED": "8", "WEFT_MAX_SEQS": "4"}
	cmd := serveCommand()
	cmd.Flags().String("config", path, "")
	if err := cmd.Flags().Parse([]string{"--max-seqs", "5"}); err != nil {
		t.Fatal(err)
	}
	list, err := resolve(cmd.Flags(), func(k string) (string, bool) { v, ok := env[k]; return v, ok })
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]settings.Setting{}
	for _, s := range list {
		got[s.Key] = s
	}
	for key, want := range map[string][2]string{
		"max-seqs": {"5", "flag"}, "max-queued": {"8", "environment WEFT_MAX_QUEUED"},
		"kv-memory": {"64.0MiB", "file " + path}, "listen": {"127.0.0.1:9", "file " + path},
		"page-len": {"16", "default"},
	} {
		if s := got[key]; s.Value != want[0] || s.Source != want[1] {
			t.Errorf("%s = %q from %q, want %q from %q", key, s.Value, s.Source, want[0], want[1])
		}
	}
}

func TestResolveRefuses(t *testing.T) {
	for name, c := range map[string]struct{ yaml, want string }{
		"unknown key":   {"max-sequences: 3\n", `unknown key "max-sequences"`},
		"suggestion":    {"max-seq: 3\n", `did you mean "max-seqs"?`},
		"bad number":    {"max-seqs: many\n", "max-seqs"},
		"bad size":      {"kv-memory: lots\n", "not a size"},
		"nested":        {"model:\n  path: x\n", "a mapping where a value is expected"},
		"twice":         {"max-seqs: 3\nmax_seqs: 4\n", "is there twice"},
		"broken yaml":   {"a: [\n", "weft.yaml"},
		"not a mapping": {"- 1\n", "weft.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := serveCommand()
			cmd.Flags().String("config", writeFile(t, "weft.yaml", c.yaml), "")
			_, err := resolve(cmd.Flags(), func(string) (string, bool) { return "", false })
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

// A command's own settings are not those of a server under the same names, and a recipe holds nothing else.
func TestOwnSettings(t *testing.T) {
	env := map[string]string{"WEFT_DATA": "/srv/weft", "WEFT_LISTEN": "0.0.0.0:8000", "WEFT_MEMORY": "3GiB",
		"WEFT_TRAIN_R": "5", "WEFT_SEED": "9"}
	lookup := func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	got := map[string]settings.Setting{}
	list, err := resolve(trainCommand().Flags(), lookup)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		got[s.Key] = s
	}
	for key, want := range map[string]string{"data": "[]", "listen": "", "memory": "3.00GiB", "r": "5", "seed": "42"} {
		if got[key].Value != want {
			t.Errorf("%s = %q from %s, want %q", key, got[key].Value, got[key].Source, want)
		}
	}
	for yaml, want := range map[string]string{"max_seqs: 3\n": `unknown key "max-seqs"`, "lora_alfa: 3\n": `unknown key "lora-alfa" (did you mean "lora-alpha"?)`} {
		cmd := trainCommand()
		cmd.Flags().String("config", writeFile(t, "recipe.yaml", yaml), "")
		if _, err := resolve(cmd.Flags(), lookup); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", yaml, err, want)
		}
	}
}

func contains(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

// Every setting of a run is a flag of `weft train` under its own name, and run.json says what the flags say.
func TestTrainingSettingsAreFlags(t *testing.T) {
	text, err := json.Marshal(train.Default())
	if err != nil {
		t.Fatal(err)
	}
	var names map[string]json.RawMessage
	if err := json.Unmarshal(text, &names); err != nil {
		t.Fatal(err)
	}
	var c train.Config
	flags := pflag.NewFlagSet("train", pflag.ContinueOnError)
	addTrainingFlags(flags, &c)
	settings.AcceptNames(flags)
	known := 0
	flags.VisitAll(func(*pflag.Flag) { known++ })
	for name := range names {
		if flags.Lookup(name) == nil {
			t.Errorf("%s is no flag", name)
		}
	}
	if known != len(names) {
		t.Errorf("%d flags, %d settings", known, len(names))
	}
	if got, err := json.Marshal(c); err != nil || !bytes.Equal(got, text) {
		t.Errorf("the flags' defaults are %s, the package's %s", got, text)
	}
}

// Every flag says in its usage what its value is, and every flag of serve and train stands in a section of the help.
func TestFlagsForPeople(t *testing.T) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			switch name := settings.ValueName(f); {
			case f.Usage == "":
				t.Errorf("%s --%s: no usage", c.CommandPath(), f.Name)
			case name == "" && f.Value.Type() != "bool", strings.HasPrefix(name, "STRING"), name == "INTS",
				strings.HasSuffix(name, "SLICE"), strings.HasSuffix(name, "ARRAY"):
				t.Errorf("%s --%s %s: name the value in backquotes", c.CommandPath(), f.Name, name)
			}
		})
		if c.Runnable() && !c.HasSubCommands() && c.Name() != "help" && c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	root := rootCommand()
	visit(root)
	for _, name := range []string{"serve", "train"} {
		c, _, err := root.Find([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		if help := c.UsageString(); strings.Contains(help, "\nFlags:\n") || strings.Contains(help, "eval-share") ||
			!contains(help, "\nModel and device:\n", "\nLogging:\n", "--adapter-memory SIZE", "\nExamples:\n") {
			t.Errorf("help of %s:\n%s", name, help)
		}
	}
}

// The flag --eval-fraction was called --eval-share: that name is taken from the command line, a file and the
// environment.
func TestEarlierName(t *testing.T) {
	none := func(string) (string, bool) { return "", false }
	value := func(lookup func(string) (string, bool), yaml string, args ...string) (string, error) {
		cmd := trainCommand()
		cmd.Flags().String("config", writeFile(t, "recipe.yaml", yaml), "")
		if err := cmd.Flags().Parse(args); err != nil {
			return "", err
		}
		_, err := resolve(cmd.Flags(), lookup)
		return cmd.Flags().Lookup("eval-fraction").Value.String(), err
	}
	variable := func(name string) func(string) (string, bool) {
		return func(k string) (string, bool) { return "0.25", k == name }
	}
	for name, c := range map[string]struct {
		lookup func(string) (string, bool)
		yaml   string
		args   []string
	}{
		"flag":         {none, "", []string{"--eval-fraction", "0.25"}},
		"earlier flag": {none, "", []string{"--eval-share", "0.25"}},
		"with _":       {none, "", []string{"--eval_share=0.25"}},
		"key":          {none, "eval_fraction: 0.25\n", nil},
		"earlier key":  {none, "eval_share: 0.25\n", nil},
		"key with -":   {none, "eval-share: 0.25\n", nil},
		"variable":     {variable("WEFT_TRAIN_EVAL_FRACTION"), "", nil},
		"earlier one":  {variable("WEFT_TRAIN_EVAL_SHARE"), "", nil},
	} {
		if got, err := value(c.lookup, c.yaml, c.args...); err != nil || got != "0.25" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := value(none, "eval_share: 0.1\neval_fraction: 0.2\n"); err == nil ||
		!strings.Contains(err.Error(), "one setting") {
		t.Errorf("both names in a file: %v", err)
	}
	for _, args := range [][]string{{"--eval-share=0.1", "--eval-fraction", "0.2"},
		{"--eval_fraction=0.2", "--eval_share", "0.1"}} {
		if _, err := value(none, "", args...); err == nil || !strings.Contains(err.Error(), "one setting") {
			t.Errorf("%v: %v", args, err)
		}
	}
	both := func(k string) (string, bool) { return "0.25", strings.HasPrefix(k, "WEFT_TRAIN_EVAL_") }
	if _, err := value(both, ""); err == nil || !strings.Contains(err.Error(), "one setting") {
		t.Errorf("two variables: %v", err)
	}
	if got, err := value(none, "eval_share: 0.5\n", "--eval-share", "0.25"); err != nil || got != "0.25" {
		t.Errorf("a flag over a file: %q, %v", got, err)
	}
}
