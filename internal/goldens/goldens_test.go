package goldens

import (
	"path/filepath"
	"runtime"
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

// TestNamedSetMustBeThere: a variable that names a folder of test data makes tests fail without it.
func TestNamedSetMustBeThere(t *testing.T) {
	for env, find := range map[string]func(testing.TB, ...string) string{"WEFT_GOLDENS": Path,
		"WEFT_TESTDATA": Shared} {
		for _, c := range []struct{ value, element, want string }{
			{t.TempDir(), "nothing", "failed"},
			{filepath.Join(t.TempDir(), "nothing"), "", "failed"},
			{t.TempDir(), "", "found"},
			{"", "no such set " + strings.Repeat("x", 20), "skipped"},
		} {
			t.Setenv(env, c.value)
			o := &outcome{TB: t}
			done := make(chan struct{})
			go func() {
				defer close(done)
				find(o, c.element)
				o.how = "found"
			}()
			<-done
			if o.how != c.want {
				t.Errorf("%s=%q, %q: %s, want %s", env, c.value, c.element, o.how, c.want)
			}
		}
	}
}
