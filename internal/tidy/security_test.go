package tidy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"weft/internal/goldens"
)

// TestSecurityNamesTests: SECURITY.md names the test that holds each of its statements, so each must be there.
func TestSecurityNamesTests(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(goldens.Root(), "SECURITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	for _, path := range tracked(t) {
		if strings.HasSuffix(path, "_test.go") {
			code, err := os.ReadFile(filepath.Join(goldens.Root(), path))
			if err != nil {
				continue // deleted, not yet committed
			}
			tests.Write(code)
		}
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)`").FindAllStringSubmatch(string(text), -1)
	if len(named) < 10 {
		t.Fatalf("SECURITY.md names %d tests", len(named))
	}
	for _, n := range named {
		if !strings.Contains(tests.String(), "\nfunc "+n[1]+"(") {
			t.Errorf("SECURITY.md names %s, which is no test", n[1])
		}
	}
}
