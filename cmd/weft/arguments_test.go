package main

import (
	"bytes"
	"strings"
	"testing"
)

// Wrong arguments are answered with what the command takes and what was given.
func TestArguments(t *testing.T) {
	for args, want := range map[string]string{
		"serve extra":       "`weft serve` takes no arguments, \"extra\" is given",
		"train a b":         "`weft train` takes no arguments, \"a\" \"b\" are given; several files of samples: --data FILE",
		"inspect":           "`weft inspect` takes the arguments FILE, none is given",
		"keys revoke a b":   "`weft keys revoke` takes the arguments KEY, \"a\" \"b\" are given",
		"usage --json":      "unknown flag: --json: write --format json",
		"train --bf16 True": "\"True\" is given; a flag that is on or off is written --FLAG=True",
		"nothing":           `unknown command "nothing"`,
	} {
		root := rootCommand()
		root.SetArgs(strings.Fields(args))
		if err := root.Execute(); err == nil || !strings.Contains(err.Error(), want) || exitStatus(err) != 2 {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
	for _, args := range []string{"train --help", "serve --help", "help train", "--help", "usage --help"} {
		root := rootCommand()
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetArgs(strings.Fields(args))
		if err := root.Execute(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if len(line) > 81 && !strings.HasPrefix(line, "  ") { // examples are not broken
				t.Errorf("%s: %d columns: %s", args, len(line), line)
			}
		}
	}
	for _, args := range []string{"version", "--version"} {
		root := rootCommand()
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetArgs([]string{args})
		if err := root.Execute(); err != nil || out.String() != versionText()+"\n" {
			t.Errorf("%s: %q, %v", args, out.String(), err)
		}
	}
}
