package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"gopkg.in/yaml.v3"

	"weft/internal/goldens"
)

// Every key of a recipe stands in run.json with its value, and the recipe trains the default model.
func TestRecipes(t *testing.T) {
	model := defaultModel(t)
	files, _ := filepath.Glob(filepath.Join(goldens.Root(), "docs", "recipes", "*.yaml"))
	if len(files) < 2 {
		t.Fatalf("%d recipes", len(files))
	}
	data := writeFile(t, "one.jsonl", `{"messages":[{"role":"user","content":"Who are you?"},{"role":"assistant","content":"I am Ada."}]}`)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var recipe map[string]any
			if err := yaml.Unmarshal(text, &recipe); err != nil {
				t.Fatal(err)
			}
			out := t.TempDir()
			if _, stderr, status := run(t, "", "train", "--config", file, "--model", model, "--data", data, "--out",
				out, "--threads", "2"); status != 0 {
				t.Fatalf("status %d: %s", status, stderr)
			}
			var report struct {
				Config map[string]any
				Steps  int
			}
			if text, err = os.ReadFile(filepath.Join(out, "run.json")); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(text, &report); err != nil {
				t.Fatal(err)
			}
			for key, want := range recipe {
				got, err1 := json.Marshal(report.Config[key])
				meant, err2 := json.Marshal(want)
				if err1 != nil || err2 != nil || string(got) != string(meant) {
					t.Errorf("%s is %s, the recipe says %s", key, got, meant)
				}
			}
			if report.Steps != 3 { // one sample is one step of each of three epochs
				t.Errorf("%d steps", report.Steps)
			}
		})
	}
}
