// Package textcase runs tests written as text: a file holds commands, each followed by ---- and what it must print. `go
// test PKG -rewrite` writes what the commands print now; read the difference before committing it.
package textcase

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write what the commands of the text tests print to their files")

// Command is one command of a file: the words of its line.
type Command struct {
	Name string
	Args []string // words without =
	opts map[string]string
	t    testing.TB
	pos  string
}

// Opt returns the value of name=value, or def.
func (c *Command) Opt(name, def string) string {
	if v, ok := c.opts[name]; ok {
		return v
	}
	return def
}

// Int returns the value of name=value as a number, or def.
func (c *Command) Int(name string, def int) int {
	c.t.Helper()
	v, ok := c.opts[name]
	if !ok {
		return def
	}
	n, digits := 0, strings.TrimPrefix(v, "-")
	for _, r := range digits {
		if r < '0' || r > '9' {
			c.t.Fatalf("%s: %s=%s is not a number", c.pos, name, v)
		}
		n = n*10 + int(r-'0')
	}
	if digits != v {
		n = -n
	}
	return n
}

// Has reports whether the word is one of the arguments.
func (c *Command) Has(word string) bool {
	for _, a := range c.Args {
		if a == word {
			return true
		}
	}
	return false
}

// Fatalf ends the test at the command's place.
func (c *Command) Fatalf(format string, args ...any) {
	c.t.Helper()
	c.t.Fatalf(c.pos+": "+format, args...)
}

// Run runs each file that matches the pattern as a subtest named after it. start is called once a file and returns the
// function that runs its commands and returns what they print. Lines between commands that are empty or begin with #
// are kept.
func Run(t *testing.T, pattern string, start func(t *testing.T) func(*Command) string) {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no files, %v", pattern, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			out := runFile(t, file, string(text), start(t))
			if *rewrite {
				if err := os.WriteFile(file, []byte(out), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// runFile runs the commands of text and returns it with what they printed.
func runFile(t testing.TB, file, text string, run func(*Command) string) string {
	t.Helper()
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	var out strings.Builder
	for i := 0; i < len(lines); {
		line := lines[i]
		out.WriteString(line + "\n")
		i++
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		pos := filepath.Base(file) + ": " + line
		if i == len(lines) || lines[i] != "----" {
			t.Fatalf("%s: no ---- follows", pos)
		}
		i++
		var want []string
		for ; i < len(lines) && lines[i] != ""; i++ {
			want = append(want, lines[i])
		}
		got := strings.TrimRight(run(parse(t, pos, line)), "\n")
		if w := strings.Join(want, "\n"); got != w && !*rewrite {
			t.Errorf("%s\ngot:\n%s\nwant:\n%s", pos, got, w)
		}
		out.WriteString("----\n")
		if got != "" {
			out.WriteString(got + "\n")
		}
	}
	return out.String()
}

func parse(t testing.TB, pos, line string) *Command {
	words := strings.Fields(line)
	c := &Command{Name: words[0], opts: map[string]string{}, t: t, pos: pos}
	for _, w := range words[1:] {
		if name, value, ok := strings.Cut(w, "="); ok {
			c.opts[name] = value
		} else {
			c.Args = append(c.Args, w)
		}
	}
	return c
}
