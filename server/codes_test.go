package server

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestCodesAreDocumented: docs/api.md and the document name each code that an error of the server can have.
func TestCodesAreDocumented(t *testing.T) {
	codes := map[string]bool{}
	for _, row := range errorTable {
		codes[row.code] = true
	}
	inSource := regexp.MustCompile(`(?:Invalid\([^,]+,\s*|Code:\s*)"([a-z0-9_]+)"`)
	for _, dir := range []string{".", "openai", "tenant"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			for _, m := range inSource.FindAllStringSubmatch(string(text), -1) {
				codes[m[1]] = true
			}
		}
	}
	if len(codes) < 40 || !codes["tenant_limit"] {
		t.Errorf("only %d codes are found: %v", len(codes), codes)
	}
	docs, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	b := newBodies(6)
	code := b.at(map[string]any{"$ref": "#/components/schemas/ErrorDetail"})["properties"].(map[string]any)["code"]
	described := regexp.MustCompile(`[a-z0-9_]+`).FindAllString(b.at(code)["description"].(string), -1)
	has := map[string]bool{"client_closed_request": true} // no client reads it
	for _, word := range described {
		has[word] = true
	}
	for code := range codes {
		if !strings.Contains(string(docs), "`"+code+"`") {
			t.Errorf("docs/api.md does not name the code %s", code)
		}
		if !has[code] {
			t.Errorf("the document does not name the code %s", code)
		}
	}
}
