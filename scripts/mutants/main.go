// Command mutants breaks the program on purpose, one line at a time, and says which of the faults no test finds.
// list.txt holds the faults and the packages that must see them. The tests run in a copy of the tracked files without
// the folders beside the repository, so that only what the repository holds can catch a fault.
//
//	go run ./scripts/mutants [-only TEXT] [-short=false]
//
// The exit status is 1 if a fault survives, 2 if one cannot be tried.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// mutant is a fault: one line of a file in another form, behind the line context if that is set.
type mutant struct {
	name, file, was, becomes, behind string
	packages                         []string
}

// timeLimit is for the tests of one package: a fault may keep them from ending.
const timeLimit = 5 * time.Minute

func main() {
	only := flag.String("only", "", "try the faults whose description or file contains this")
	short := flag.Bool("short", true, "run the tests with -short")
	flag.Parse()
	status, err := run(os.Stdout, *only, *short)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		status = 2
	}
	os.Exit(status)
}

func run(out io.Writer, only string, short bool) (status int, err error) {
	list, err := read(filepath.Join("scripts", "mutants", "list.txt"))
	if err != nil {
		return 2, err
	}
	list = slices.DeleteFunc(list, func(m mutant) bool {
		return !strings.Contains(m.name, only) && !strings.Contains(m.file, only)
	})
	dir, err := copyTree()
	if err != nil {
		return 2, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(filepath.Dir(dir))) }()
	fmt.Fprintf(out, "%d faults, tested in %s\n", len(list), dir)

	var packages []string
	for _, m := range list {
		for _, p := range m.packages {
			if !slices.Contains(packages, p) {
				packages = append(packages, p)
			}
		}
	}
	for _, p := range packages { // whose tests must pass as they are
		if red, text := test(dir, p, short); red {
			return 2, fmt.Errorf("%s fails without a fault:\n%s", p, text)
		}
	}
	begin := time.Now()
	var survivors []string
	var untried []error
	for i, m := range list {
		start := time.Now()
		by, err := try(dir, m, short)
		if err != nil {
			untried = append(untried, err)
			by = "NOT TRIED"
		} else if by == "" {
			survivors = append(survivors, m.name)
			by = "SURVIVES"
		}
		fmt.Fprintf(out, "%3d/%d %6.1f s  %-28s %s\n", i+1, len(list), time.Since(start).Seconds(), by, m.name)
	}
	fmt.Fprintf(out, "%d of %d faults are found, in %v\n", len(list)-len(survivors)-len(untried), len(list),
		time.Since(begin).Round(time.Second))
	for _, s := range survivors {
		fmt.Fprintln(out, "not found:", s)
	}
	return min(len(survivors), 1), errors.Join(untried...)
}

// try returns the package whose tests find the fault, "" if none does.
func try(dir string, m mutant, short bool) (by string, err error) {
	path := filepath.Join(dir, m.file)
	sound, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	broken, err := m.apply(string(sound))
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(path, []byte(broken), 0o600); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.WriteFile(path, sound, 0o600)) }()
	for _, p := range m.packages {
		red, text := test(dir, p, short)
		if strings.Contains(text, "[build failed]") {
			return "", fmt.Errorf("%s: %s: the changed line does not compile:\n%s", m.file, m.name, text)
		}
		if red {
			return p, nil
		}
	}
	return "", nil
}

// test runs a package's tests up to the first that fails.
func test(dir, pkg string, short bool) (red bool, output string) {
	ctx, cancel := context.WithTimeout(context.Background(), timeLimit+time.Minute)
	defer cancel()
	args := []string{"test", "-failfast", "-tags", "invariants", "-timeout", timeLimit.String()}
	if short {
		args = append(args, "-short")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Dir = dir
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); name != "WEFT_GOLDENS" && name != "WEFT_TESTDATA" && name != "GOFLAGS" {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "GOFLAGS=-buildvcs=false -trimpath") // without it the kernels are compiled again
	text, err := cmd.CombinedOutput()
	return err != nil, string(text)
}

// copyTree copies the tracked files to a new folder.
func copyTree() (string, error) {
	files, err := exec.CommandContext(context.Background(), "git", "ls-files", "-z").Output()
	if err != nil {
		return "", fmt.Errorf("git ls-files: %w", err)
	}
	parent, err := os.MkdirTemp("", "weft-mutants-")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(parent, "weft")
	for _, file := range strings.Split(strings.TrimSuffix(string(files), "\x00"), "\x00") {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed and not committed yet
		}
		if err != nil {
			return "", err
		}
		info, err := os.Stat(file)
		if err != nil {
			return "", err
		}
		to := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return "", err
		}
		if err := os.WriteFile(to, text, info.Mode().Perm()); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// apply changes the line in a file's text.
func (m *mutant) apply(text string) (string, error) {
	lines := strings.SplitAfter(text, "\n")
	at := -1
	for i, line := range lines {
		if strings.TrimSpace(line) != m.was || m.behind != "" && (i == 0 || strings.TrimSpace(lines[i-1]) != m.behind) {
			continue
		}
		if at >= 0 {
			return "", fmt.Errorf("%s: %s: the line is there twice: %s", m.file, m.name, m.was)
		}
		at = i
	}
	if at < 0 {
		return "", fmt.Errorf("%s: %s: the line is not there: %s", m.file, m.name, m.was)
	}
	lines[at] = m.becomes + "\n"
	return strings.Join(lines, ""), nil
}

// read returns the faults of a list, in the form that its first lines describe.
func read(path string) ([]mutant, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list []mutant
	var m mutant
	scan := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; scan.Scan(); n++ {
		line := scan.Text()
		rest := strings.TrimSpace(line[min(len(line), 2):])
		switch {
		case line == "":
			m = mutant{}
		case strings.HasPrefix(line, "# "):
			m.name = rest
		case strings.HasPrefix(line, "- "):
			m.was = rest
		case strings.HasPrefix(line, "+ "):
			m.becomes = rest
		case strings.HasPrefix(line, "@ "):
			m.behind = rest
		case strings.HasPrefix(line, "> "):
			m.packages = strings.Fields(rest)
			if m.name == "" || m.file == "" || m.was == "" || m.was == m.becomes || len(m.packages) == 0 {
				return nil, fmt.Errorf("%s:%d: the entry lacks a part", path, n)
			}
			list = append(list, m)
		case strings.HasPrefix(line, "#"):
		default:
			m.file = line
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: no fault", path)
	}
	return list, scan.Err()
}
