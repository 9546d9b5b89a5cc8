package goldens

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// outcome notes how a test ended.
type outcome struct {
	testing.TB
	how string
}

func (o *outcome) Helper() {}

func (o *outcome) Fatalf(string, ...any) {
	o.how = "failed"
	runtime.Goexit()
}

func (o *outcome) Skipf(string, ...any) {
	o.how = "skipped"
	runtime.Goexit()
}

func ends(t *testing.T, find func(testing.TB, ...string) string, elem ...string) (how, path string) {
	t.Helper()
	o := &outcome{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		path = find(o, elem...)
		o.how = "found"
	}()
	<-done
	return o.how, path
}

// A variable that names a folder of test data makes tests fail without it; without one the committed set is used.
func TestWhereFilesAreFound(t *testing.T) {
	for env, find := range map[string]func(testing.TB, ...string) string{"WEFT_GOLDENS": Path,
		"WEFT_TESTDATA": Shared} {
		inSet := map[string]string{"WEFT_GOLDENS": "serve", "WEFT_TESTDATA": "data"}[env]
		for _, c := range []struct{ value, element, want string }{
			{t.TempDir(), "nothing", "failed"},
			{filepath.Join(t.TempDir(), "nothing"), "", "failed"},
			{t.TempDir(), "", "found"},
			{t.TempDir(), filepath.Join("serve", "smollm2"), "skipped"},
			{"", "no such set " + strings.Repeat("x", 20), "skipped"},
			{"", inSet, "found"},
		} {
			t.Setenv(env, c.value)
			if how, path := ends(t, find, c.element); how != c.want || how == "found" && c.value != "" &&
				!strings.HasPrefix(path, c.value) {
				t.Errorf("%s=%q, %q: %s (%s), want %s", env, c.value, c.element, how, path, c.want)
			}
		}
	}
}

// Each runs a test on the committed set and on a named one, whose parts must all be there; files of the two do not mix.
func TestEach(t *testing.T) {
	named := t.TempDir()
	for _, dir := range []string{"goldens/serve", "data/x"} {
		if err := os.MkdirAll(filepath.Join(named, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("WEFT_TESTDATA", "")
	t.Setenv("WEFT_GOLDENS", filepath.Join(named, "goldens"))
	var seen []string
	Each(t, func(t *testing.T) {
		t.Run("within", func(t *testing.T) {
			seen = append(seen, Path(t, "serve"))
			how, path := ends(t, Shared, "data", "x")
			seen = append(seen, how, path)
		})
	})
	want := []string{filepath.Join(Root(), "internal/goldens/testdata/goldens/serve"), "failed", "",
		filepath.Join(named, "goldens/serve"), "found", filepath.Join(named, "data/x")}
	if !slices.Equal(seen, want) {
		t.Errorf("%q, want %q", seen, want)
	}
	if every := Every(t, "serve"); len(every) != 2 || every[0] != want[0] || every[1] != want[3] {
		t.Errorf("every set: %q", every)
	}
	if how, _ := ends(t, func(t testing.TB, elem ...string) string { return strings.Join(Every(t, elem...), "") },
		"serve", "models"); how != "failed" {
		t.Errorf("a named set without a part: %s", how)
	}
}

// The committed set stays small.
func TestCommittedSize(t *testing.T) {
	total := int64(0)
	err := filepath.WalkDir(filepath.Join(Root(), "internal", "goldens", "testdata"),
		func(_ string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err == nil {
				total += info.Size()
			}
			return err
		})
	if err != nil || total > 8<<20 {
		t.Errorf("%d bytes, at most 8 MiB: %v", total, err)
	}
}
