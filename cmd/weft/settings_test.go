package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
		"twice":         {"max-seqs: 3\nmax_seqs: 4\n", "stands twice"},
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
	for key, want := range map[string]string{"data": "", "listen": "", "memory": "3.00GiB", "r": "5", "seed": "42"} {
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

func TestReadKeys(t *testing.T) {
	keys, err := readKeys(writeFile(t, "keys", "# ours\n\n sk-one-two-three \nsk-four-five\n"))
	if err != nil || len(keys) != 2 || keys[0] != "sk-one-two-three" {
		t.Errorf("%q, %v", keys, err)
	}
	for _, text := range []string{"", "# none\n", "short\n"} {
		if _, err := readKeys(writeFile(t, "keys", text)); err == nil {
			t.Errorf("%q was taken", text)
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
	known := 0
	flags.VisitAll(func(*pflag.Flag) { known++ })
	for name := range names {
		if flags.Lookup(strings.ReplaceAll(name, "_", "-")) == nil {
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
