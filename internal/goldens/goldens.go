// Package goldens finds the golden files and the data that tests use: those in testdata, which scripts/golden/make.py
// wrote with the reference libraries, and further sets beside the repository or named by the environment.
package goldens

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// set is a folder of golden files and the folder that paths in them which begin with "data/" are relative to.
type set struct {
	name, goldens, data string
	required            bool // what it lacks is a failure, not a reason to skip
}

// running are the sets of the tests that Each runs: name of a test → *set.
var running sync.Map

// defaultModelOnly are folders that need the default model's weights; a set may lack them.
var defaultModelOnly = []string{filepath.Join("serve", "smollm2"), filepath.Join("train", "I_anchor")}

// publicFiles is a folder of files that make.py does not write; beside a set that it wrote, those of ../shared are
// used.
var publicFiles = filepath.Join("data", "instruct")

// committed is the set in the repository.
func committed() *set {
	root := filepath.Join(Root(), "internal", "goldens", "testdata")
	return &set{name: "committed", goldens: filepath.Join(root, "goldens"), data: root, required: true}
}

// further is the set that $WEFT_GOLDENS and $WEFT_TESTDATA name, by default ../shared; nil where there is none.
func further() *set {
	goldens, data := os.Getenv("WEFT_GOLDENS"), os.Getenv("WEFT_TESTDATA")
	s := &set{name: "further", goldens: goldens, data: data, required: goldens != "" || data != ""}
	if goldens == "" {
		s.goldens = filepath.Join(beside(), "goldens")
	}
	if data == "" {
		s.data = beside()
		if up := filepath.Dir(goldens); goldens != "" && exists(filepath.Join(up, "data")) {
			s.data = up // make.py writes both folders beside each other
		}
	}
	if !s.required && !exists(s.goldens) {
		return nil
	}
	return s
}

// beside is the folder ../shared.
func beside() string { return filepath.Join(filepath.Dir(Root()), "shared") }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Each runs f as a subtest for every set: the committed one, and the one that $WEFT_GOLDENS and $WEFT_TESTDATA name or
// that is in ../shared. Path and Shared return paths of the subtest's set within f, and in its subtests.
func Each(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	for _, s := range []*set{committed(), further()} {
		if s != nil {
			each(t, s, f)
		}
	}
}

// Further runs f as a subtest for the further set only, and skips without one: for what needs public files that are too
// large for the repository.
func Further(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	s := further()
	if s == nil {
		t.Skip("needs a golden set beside the committed one: set WEFT_GOLDENS and WEFT_TESTDATA")
	}
	each(t, s, f)
}

func each(t *testing.T, s *set, f func(t *testing.T)) {
	t.Helper()
	t.Run(s.name, func(t *testing.T) {
		running.Store(t.Name(), s)
		t.Cleanup(func() { running.Delete(t.Name()) })
		f(t)
	})
}

// Path returns the path of a golden file or folder: within Each in the set that runs, otherwise in the one that
// $WEFT_GOLDENS names, or without the variable in the committed one or ../shared. Where it is absent the test fails if
// the set is the committed one or named, and is skipped otherwise.
func Path(t testing.TB, elem ...string) string {
	t.Helper()
	return find(t, "WEFT_GOLDENS", func(s *set) string { return s.goldens }, elem)
}

// Shared returns the path of public data, of which paths in goldens begin with "data/", as Path finds golden files;
// $WEFT_TESTDATA names its folder.
func Shared(t testing.TB, elem ...string) string {
	t.Helper()
	return find(t, "WEFT_TESTDATA", func(s *set) string { return s.data }, elem)
}

// Every returns the path of a golden file or folder in every set that has it.
func Every(t testing.TB, elem ...string) []string {
	t.Helper()
	var out []string
	for _, s := range []*set{committed(), further()} {
		if s == nil {
			continue
		}
		if p := filepath.Join(append([]string{s.goldens}, elem...)...); exists(p) {
			out = append(out, p)
		} else if s.required {
			t.Fatalf("the %s golden set lacks %s", s.name, p)
		}
	}
	return out
}

// Root returns the repository's root folder: the nearest one above the working directory that holds go.mod.
func Root() string {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			break
		}
		dir = up
	}
	panic("goldens: no go.mod above the working directory")
}

func find(t testing.TB, env string, root func(*set) string, elem []string) string {
	t.Helper()
	sets := []*set{committed(), further()}
	if os.Getenv(env) != "" {
		sets = sets[1:]
	}
	within := false
	for name := t.Name(); name != "." && !within; name = filepath.Dir(name) {
		if s, ok := running.Load(name); ok {
			sets, within = []*set{s.(*set)}, true
		}
	}
	path, sub := "", filepath.Join(elem...)
	public := strings.HasPrefix(sub, publicFiles) && os.Getenv("WEFT_TESTDATA") == ""
	if public {
		sets = append(sets, &set{data: beside()})
	}
	for _, s := range sets {
		if s == nil {
			continue
		}
		path = filepath.Join(root(s), sub)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	optional := public ||
		slices.ContainsFunc(defaultModelOnly, func(p string) bool { return strings.HasPrefix(sub, p) })
	if !optional && (within && sets[0].required || os.Getenv(env) != "") {
		t.Fatalf("the golden set lacks what this test needs: %s", path)
	}
	t.Skipf("%s is in no golden set: set WEFT_GOLDENS or WEFT_TESTDATA to a folder that has it", sub)
	return ""
}
