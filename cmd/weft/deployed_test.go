package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// TestDeployedSettings: every setting in docs/deploy is one of `weft serve`, with a value that it takes.
func TestDeployedSettings(t *testing.T) {
	const folder = "../../docs/deploy"
	read := func(path string) []byte {
		text, err := os.ReadFile(filepath.Join(folder, path))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	files := map[string]string{"weft.yaml": string(read("weft.yaml"))}
	for dec := yaml.NewDecoder(strings.NewReader(string(read("kubernetes/weft.yaml")))); ; {
		var doc struct {
			Kind string
			Data map[string]string
		}
		if dec.Decode(&doc) != nil {
			break
		}
		if doc.Kind == "ConfigMap" {
			files["ConfigMap"] = doc.Data["weft.yaml"]
		}
	}
	if files["ConfigMap"] == "" {
		t.Fatal("the ConfigMap holds no weft.yaml")
	}
	for name, text := range files {
		path := filepath.Join(t.TempDir(), "weft.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var keys map[string]any
		if err := yaml.Unmarshal([]byte(text), &keys); err != nil {
			t.Fatal(err)
		}
		out, err := weft("config", "--config", path)
		if n := strings.Count(out, "file "+path); err != nil || n != len(keys) {
			t.Errorf("%s: %d of %d settings are in force: %v", name, n, len(keys), err)
		}
	}

	var compose struct {
		Services struct {
			Weft struct{ Environment map[string]string }
		}
	}
	if err := yaml.Unmarshal(read("compose/compose.yaml"), &compose); err != nil {
		t.Fatal(err)
	}
	n := 0
	for name, value := range compose.Services.Weft.Environment {
		if strings.HasPrefix(name, "WEFT_") {
			n++
			_, fallback, ok := strings.Cut(strings.TrimSuffix(value, "}"), ":-") // ${NAME:-fallback}
			if ok {
				value = fallback
			}
			t.Setenv(name, value)
		}
	}
	out, err := weft("config")
	if in := strings.Count(out, "environment WEFT_"); err != nil || in != n || n == 0 {
		t.Errorf("compose.yaml: %d of %d settings are in force: %v\n%s", in, n, err, out)
	}
}
