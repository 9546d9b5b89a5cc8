package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/internal/goldens"
)

// Every fault of the list can still be applied: its line is in its file, once, and its packages exist.
func TestListFitsTheCode(t *testing.T) {
	list, err := read("list.txt")
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 50 {
		t.Errorf("%d faults", len(list))
	}
	seen := map[string]bool{}
	for _, m := range list {
		text, err := os.ReadFile(filepath.Join(goldens.Root(), m.file))
		if err != nil {
			t.Error(err)
			continue
		}
		broken, err := m.apply(string(text))
		if err != nil {
			t.Error(err)
		} else if key := m.file + broken; seen[key] {
			t.Errorf("%s: %s: the fault is in the list twice", m.file, m.name)
		} else {
			seen[key] = true
		}
		for _, p := range m.packages {
			if _, err := os.Stat(filepath.Join(goldens.Root(), p)); err != nil {
				t.Errorf("%s: %v", m.name, err)
			}
		}
	}
}

func TestApply(t *testing.T) {
	m := mutant{file: "f", name: "n", was: "a := 1", becomes: "a := 2"}
	for text, want := range map[string]string{
		"x\n\ta := 1\ny\n":        "x\na := 2\ny\n",
		"a := 1\n\ta := 1\n":      "twice",
		"a := 11\n":               "not there",
		"if b {\n\ta := 1 // c\n": "not there",
	} {
		got, err := m.apply(text)
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.Contains(got, want)) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	m.behind = "if b {"
	if got, err := m.apply("a := 1\nif b {\n\ta := 1\n}\n"); err != nil || got != "a := 1\nif b {\na := 2\n}\n" {
		t.Errorf("%q, %v", got, err)
	}
}
