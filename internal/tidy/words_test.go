package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"weft/internal/goldens"
)

// phrase is a row of the glossary's table of words that are not used.
type phrase struct {
	text    string
	in      *regexp.Regexp // in prose: whole words, any case
	name    *regexp.Regexp // in an exported name: a word of it; nil for phrases of several words
	instead string
}

// forbiddenPhrases reads the table under "Not used" in docs/glossary.md: | phrase, phrase | instead |.
func forbiddenPhrases(t *testing.T) []phrase {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(goldens.Root(), "docs", "glossary.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "\n## Not used\n")
	if !found {
		t.Fatal(`docs/glossary.md has no section "Not used"`)
	}
	var out []phrase
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]+) \| ([^|]+) \|$`).FindAllStringSubmatch(table, -1) {
		if row[1] == "not" || strings.HasPrefix(row[1], "---") {
			continue
		}
		for _, p := range strings.Split(row[1], ",") {
			p = strings.TrimSpace(p)
			one := phrase{text: p, instead: row[2]}
			one.in = regexp.MustCompile(`(?i)\b` + strings.ReplaceAll(regexp.QuoteMeta(p), " ", `\s+`) + `\b`)
			if !strings.Contains(p, " ") {
				title := strings.ToUpper(p[:1]) + p[1:]
				one.name = regexp.MustCompile(title + `([A-Z0-9_]|$)`)
			}
			out = append(out, one)
		}
	}
	if len(out) < 20 {
		t.Fatalf("only %d phrases were read from docs/glossary.md", len(out))
	}
	return out
}

// TestWords holds the glossary's list against what a reader meets: exported names, the texts of messages and help
// (string literals of several words outside of tests), and the docs.
func TestWords(t *testing.T) {
	phrases := forbiddenPhrases(t)
	for _, path := range tracked(t) {
		full := filepath.Join(goldens.Root(), path)
		switch {
		case strings.Contains(path, "/testdata/") || strings.HasPrefix(path, "internal/tidy/"):
		case path == "docs/glossary.md":
		case strings.HasSuffix(path, ".md"):
			text, err := os.ReadFile(full)
			if err != nil {
				continue // deleted, not yet committed
			}
			for i, line := range strings.Split(prose(string(text)), "\n") {
				complain(t, phrases, path, i+1, line)
			}
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			checkSource(t, phrases, full, path)
		}
	}
}

var (
	fencedBlock = regexp.MustCompile("(?ms)^```.*?^```")
	inlineCode  = regexp.MustCompile("`[^`\n]*`")
)

// prose blanks what is code in a page of Markdown, keeping the lines.
func prose(page string) string {
	page = fencedBlock.ReplaceAllStringFunc(page, func(b string) string {
		return strings.Repeat("\n", strings.Count(b, "\n"))
	})
	return inlineCode.ReplaceAllString(page, "")
}

func complain(t *testing.T, phrases []phrase, path string, line int, text string) {
	for _, p := range phrases {
		if p.in.MatchString(text) {
			t.Errorf("%s:%d: %q is not used (docs/glossary.md): %s", path, line, p.text, p.instead)
		}
	}
}

func checkSource(t *testing.T, phrases []phrase, full, path string) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, full, nil, parser.SkipObjectResolution)
	if os.IsNotExist(err) {
		return
	}
	if err != nil {
		t.Error(err)
		return
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.Field:
			for _, name := range n.Names {
				checkName(t, phrases, path, fset.Position(name.Pos()).Line, name.Name)
			}
		case *ast.FuncDecl:
			checkName(t, phrases, path, fset.Position(n.Pos()).Line, n.Name.Name)
		case *ast.TypeSpec:
			checkName(t, phrases, path, fset.Position(n.Pos()).Line, n.Name.Name)
		case *ast.ValueSpec:
			for _, name := range n.Names {
				checkName(t, phrases, path, fset.Position(name.Pos()).Line, name.Name)
			}
		case *ast.BasicLit:
			if n.Kind != token.STRING {
				break
			}
			text, err := strconv.Unquote(n.Value)
			if err == nil && strings.Contains(strings.TrimSpace(text), " ") && !strings.HasPrefix(text, `json:"`) {
				complain(t, phrases, path, fset.Position(n.Pos()).Line, text)
			}
		}
		return true
	})
}

func checkName(t *testing.T, phrases []phrase, path string, line int, name string) {
	if !ast.IsExported(name) {
		return
	}
	for _, p := range phrases {
		if p.name != nil && p.name.MatchString(name) {
			t.Errorf("%s:%d: the name %s has %q, which is not used (docs/glossary.md): %s", path, line, name, p.text,
				p.instead)
		}
	}
}

// TestPhrases: the check itself sees what it must, and nothing else.
func TestPhrases(t *testing.T) {
	var guest, back phrase
	for _, p := range forbiddenPhrases(t) {
		switch p.text {
		case "guest":
			guest = p
		case "the way back":
			back = p
		}
	}
	if guest.name == nil || back.in == nil {
		t.Fatal("the glossary does not list guest and the way back")
	}
	for text, want := range map[string]bool{"a Guest waits": true, "guests": false, "the way\n back": true,
		"suggest": false} {
		if got := guest.in.MatchString(text) || back.in.MatchString(text); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	for name, want := range map[string]bool{"Guest": true, "EngineGuest": true, "GuestName": true,
		"Guesthouse": false} {
		if got := guest.name.MatchString(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if got := prose("a `guest` b\n```sh\nguest\n```\nc"); got != "a  b\n\n\n\nc" {
		t.Errorf("prose left %q", got)
	}
}
