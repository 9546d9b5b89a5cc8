package tidy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"weft/internal/goldens"
)

var topFolders = []string{"server", "runtime", "adapters", "quant", "finetune", "scripts", "cmd", "internal", "docs",
	".ci", ".github"}

func TestPackagesHaveOneComment(t *testing.T) {
	for _, p := range list(t) {
		name := filepath.Base(p.ImportPath)
		want := "Package " + name + " "
		if strings.HasPrefix(p.ImportPath, "weft/cmd/") || strings.HasPrefix(p.ImportPath, "weft/scripts/") {
			want = "Command " + name + " "
		}
		if !strings.HasPrefix(p.Doc, want) {
			t.Errorf("%s: package comment begins %q, want %q", p.ImportPath, p.Doc, want)
		}
	}
}

var fileName = regexp.MustCompile(`^[a-z0-9]+(_[a-z0-9]+)*\.[a-z]+$`)

func TestFiles(t *testing.T) {
	for _, path := range tracked(t) {
		top, _, nested := strings.Cut(path, "/")
		if nested && !slices.Contains(topFolders, top) {
			t.Errorf("%s: top-level folder %s is not one of %v", path, top, topFolders)
		}
		base, ext := filepath.Base(path), filepath.Ext(path)
		inTestdata := strings.Contains(path, "/testdata/")
		if slices.Contains([]string{".go", ".c", ".h", ".py"}, ext) && !inTestdata && !fileName.MatchString(base) {
			t.Errorf("%s: names are lower case with underscores", path)
		}
		if ext == ".go" && filepath.Dir(path) == "runtime" {
			t.Errorf("%s: no Go file lies directly in runtime/", path)
		}
		info, err := os.Stat(filepath.Join(goldens.Root(), path))
		if err != nil {
			continue // deleted, not yet committed
		}
		if info.Size() > 2<<20 {
			t.Errorf("%s: %d bytes; nothing above 2 MiB belongs in the repository", path, info.Size())
		}
	}
}

// banned holds words that must not stay in the tree, with what to do instead. They are split so that this file passes
// its own rule.
var banned = []struct{ word, instead string }{
	{"TO" + "DO", "do it, or name an issue in docs"},
	{"FIX" + "ME", "fix it"},
	{"XX" + "X", "say what is meant"},
	{"not impl" + "emented", "an error that says what is supported"},
}

func TestBannedWords(t *testing.T) {
	for _, path := range tracked(t) {
		if !slices.Contains([]string{".go", ".c", ".h", ".sh", ".py", ".md", ".yml", ".yaml"}, filepath.Ext(path)) ||
			strings.Contains(path, "/testdata/") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(goldens.Root(), path))
		if err != nil {
			continue
		}
		for i, line := range strings.Split(string(text), "\n") {
			for _, b := range banned {
				if strings.Contains(line, b.word) && !strings.HasSuffix(path, "_test.go") {
					t.Errorf("%s:%d: %q: %s", path, i+1, b.word, b.instead)
				}
			}
		}
	}
}

func tracked(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command("git", "ls-files")
	cmd.Dir = goldens.Root()
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("git ls-files: %v (not a git checkout)", err)
	}
	return strings.Fields(string(out))
}
