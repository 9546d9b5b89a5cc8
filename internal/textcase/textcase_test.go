package textcase

import (
	"strings"
	"testing"
)

// recorder is a test that notes its complaints.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Helper()                        {}
func (r *recorder) Errorf(format string, _ ...any) { r.errors = append(r.errors, format) }

func TestRunFile(t *testing.T) {
	text := "# a comment\n\nsum one a=3 b=-4\n----\n-1 one\n\nnothing\n----\n"
	run := func(c *Command) string {
		if c.Name == "nothing" {
			return ""
		}
		n := c.Int("a", 0) + c.Int("b", 0)
		return strings.TrimSpace(strings.Repeat("-1 ", -n) + strings.Join(c.Args, " "))
	}
	r := &recorder{TB: t}
	if out := runFile(r, "x.txt", text, run); out != text || len(r.errors) > 0 {
		t.Errorf("%q, complaints %v; want the text itself", out, r.errors)
	}
	wrong := strings.Replace(text, "-1 one", "-2 one", 1)
	if out := runFile(r, "x.txt", wrong, run); out != text || len(r.errors) != 1 {
		t.Errorf("%q, complaints %v; want one complaint and the right text", out, r.errors)
	}
}
