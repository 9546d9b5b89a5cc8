// Package goldens finds the golden files and the public test data that tests use; neither is in the repository.
package goldens

import (
	"os"
	"path/filepath"
	"testing"
)

// Path returns the path below $WEFT_GOLDENS, by default ../shared/goldens beside the repository. Where it is absent the
// test fails if the variable is set, and is skipped otherwise.
func Path(t testing.TB, elem ...string) string {
	t.Helper()
	return find(t, "WEFT_GOLDENS", filepath.Join("shared", "goldens"), elem)
}

// Shared returns the path below $WEFT_TESTDATA (default ../shared beside the repository); paths in goldens that begin
// with "data/" are relative to it. Where it is absent the test fails or is skipped as in Path.
func Shared(t testing.TB, elem ...string) string {
	t.Helper()
	return find(t, "WEFT_TESTDATA", "shared", elem)
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

func find(t testing.TB, env, def string, elem []string) string {
	t.Helper()
	base := os.Getenv(env)
	named := base != ""
	if !named {
		base = filepath.Join(filepath.Dir(Root()), def)
	}
	p := filepath.Join(append([]string{base}, elem...)...)
	if _, err := os.Stat(p); err != nil {
		if named {
			t.Fatalf("%s names a folder without what this test needs: %v", env, err)
		}
		t.Skipf("%s is absent: set %s to the folder that holds the test data", p, env)
	}
	return p
}
