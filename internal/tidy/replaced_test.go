package tidy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"weft/internal/goldens"
)

// reachesReplaced finds calls of gin's that would end in a package of internal/replaced, which only returns errors.
var reachesReplaced = regexp.MustCompile(
	`\.(?:(?:Should|Must)?Bind(?:With|BodyWith\w*|JSON|XML|Query|YAML|TOML|Plain|Header|Uri)?|YAML|TOML|BSON|` +
		`Negotiate|RunQUIC)\(|gin-gonic/gin/(?:binding|render)"`)

func TestReplacedModulesAreNotCalled(t *testing.T) {
	for _, path := range tracked(t) {
		if filepath.Ext(path) != ".go" || strings.HasPrefix(path, "internal/replaced/") ||
			path == "internal/tidy/replaced_test.go" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(goldens.Root(), path))
		if err != nil || !strings.Contains(string(text), `"github.com/gin-gonic/gin`) {
			continue
		}
		if found := reachesReplaced.FindString(string(text)); found != "" {
			t.Errorf("%s: %s ends in internal/replaced: see docs/adr/0006-gin-without-its-formats.md", path, found)
		}
	}
}

func TestReplacedModulesAreNamed(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join(goldens.Root(), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	folders, err := filepath.Glob(filepath.Join(goldens.Root(), "internal/replaced/*"))
	if err != nil || len(folders) == 0 {
		t.Fatal(folders, err)
	}
	for _, f := range folders {
		if !strings.Contains(string(mod), "=> ./internal/replaced/"+filepath.Base(f)+"\n") {
			t.Errorf("go.mod puts internal/replaced/%s in the place of nothing", filepath.Base(f))
		}
	}
}
