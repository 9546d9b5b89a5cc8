package tidy

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"weft/internal/goldens"
)

// link finds the destinations of links and images in Markdown.
var link = regexp.MustCompile(`\]\(([^()\s]+)\)`)

// TestLinks: every relative link in the docs leads to a file or folder of the repository, and its fragment, if it has
// one, to a heading of that page.
func TestLinks(t *testing.T) {
	files := tracked(t)
	links := 0
	for _, path := range files {
		if filepath.Ext(path) != ".md" || strings.Contains(path, "/testdata/") {
			continue
		}
		page, err := os.ReadFile(filepath.Join(goldens.Root(), path))
		if err != nil {
			continue // deleted, not yet committed
		}
		for i, line := range strings.Split(prose(string(page)), "\n") {
			for _, m := range link.FindAllStringSubmatch(line, -1) {
				if strings.Contains(m[1], "://") {
					continue
				}
				links++
				if why := dead(files, path, m[1]); why != "" {
					t.Errorf("%s:%d: link to %s: %s", path, i+1, m[1], why)
				}
			}
		}
	}
	if links < 20 {
		t.Errorf("only %d relative links were found", links)
	}
}

// dead says why a link on a page leads nowhere; "" if it does not.
func dead(files []string, page, to string) string {
	file, fragment, _ := strings.Cut(to, "#")
	at := page
	if file != "" {
		at = filepath.Join(filepath.Dir(page), file)
	}
	if !slices.ContainsFunc(files, func(f string) bool { return under(f, at) }) {
		return "no such file in the repository"
	}
	if fragment == "" {
		return ""
	}
	text, err := os.ReadFile(filepath.Join(goldens.Root(), at))
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(text)) {
		if heading := strings.TrimLeft(line, "#"); heading != line && anchor(heading) == fragment {
			return ""
		}
	}
	return "no such heading"
}

var notInAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)

// anchor is the fragment that GitHub gives a heading.
func anchor(heading string) string {
	heading = notInAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
	return strings.ReplaceAll(heading, " ", "-")
}

func TestDead(t *testing.T) {
	files := []string{"README.md", "docs/operating.md", "docs/glossary.md", "docs/images/report.png"}
	for to, want := range map[string]bool{"docs/operating.md": false, "docs/none.md": true, "docs/images": false,
		"docs/image": true, "docs/glossary.md#not-used": false, "docs/glossary.md#unused": true, "#no-heading": true} {
		if got := dead(files, "README.md", to); (got != "") != want {
			t.Errorf("%s: %q", to, got)
		}
	}
	if why := dead(files, "docs/operating.md", "../README.md"); why != "" {
		t.Error(why)
	}
}

// TestArchitectureNamesPackages holds the table of packages in docs/ARCHITECTURE.md against `go list`.
func TestArchitectureNamesPackages(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(goldens.Root(), "docs/ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n## Packages\n")
	table, _, _ = strings.Cut(table, "\n## ")
	named := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| (`+"`"+`[^|]+) \|`).FindAllStringSubmatch(table, -1) {
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			if named[name[1]] {
				t.Errorf("docs/ARCHITECTURE.md has two rows for %s", name[1])
			}
			named[name[1]] = true
		}
	}
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, "weft/")
		if !named[name] {
			t.Errorf("docs/ARCHITECTURE.md has no row for %s", name)
		}
		delete(named, name)
	}
	for name := range named {
		t.Errorf("docs/ARCHITECTURE.md has a row for %s, which is no package", name)
	}
}
