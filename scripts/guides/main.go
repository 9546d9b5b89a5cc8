// Command guides turns the examples of a guide into one bash script, so that CI runs what the guides show.
//
//	go run ./scripts/guides docs/applications.md >script
//
// Fenced blocks of sh, python, js and go run in the order of the page, in one shell: what a block leaves running or
// exports is available to the next. Other blocks are text. A comment before a block may be
//
//	<!-- not run: REASON -->   the script says so instead of running it
//	<!-- prints: TEXT -->      what the block prints must contain TEXT
//
// $PORT replaces 8000 in 127.0.0.1:8000, $WORK replaces /tmp; $PYTHON and $NODE_DIR are a Python and a folder of Node
// with the openai package.
package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: guides FILE.md")
		os.Exit(2)
	}
	text, err := os.ReadFile(os.Args[1])
	if err == nil {
		var script string
		if script, err = convert(os.Args[1], string(text)); err == nil {
			fmt.Print(script)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "guides:", err)
		os.Exit(1)
	}
}

// block is a fenced block that a reader would run.
type block struct {
	line           int // of its fence, from 1
	language       string
	text           string
	notRun, prints string
}

var directive = regexp.MustCompile(`^<!-- (not run|prints): (.+) -->$`)

// languages are those of blocks that run; other blocks are only shown.
var languages = map[string]bool{"sh": true, "python": true, "js": true, "go": true}

// blocks finds the blocks that run, in their order.
func blocks(page string) ([]block, error) {
	var out []block
	var now *block
	var body []string
	next := block{}
	fenced := false
	for i, line := range strings.Split(page, "\n") {
		language, fence := strings.CutPrefix(line, "```")
		switch m := directive.FindStringSubmatch(line); {
		case fence && !fenced:
			fenced, body = true, nil
			if languages[language] {
				now = &next
				now.line, now.language = i+1, language
			} else if next.notRun+next.prints != "" {
				return nil, fmt.Errorf("line %d: a directive in front of a block of %q, which never runs", i+1,
					language)
			}
		case fence:
			fenced = false
			if now != nil {
				now.text = strings.Join(body, "\n")
				out = append(out, *now)
				now, next = nil, block{}
			}
		case fenced:
			body = append(body, line)
		case m != nil && m[1] == "prints":
			next.prints = m[2]
		case m != nil:
			next.notRun = m[2]
		}
	}
	if fenced {
		return nil, errors.New("a fence is not closed")
	}
	return out, nil
}

// prelude ends what runs in the background, and names the block that failed behind what it printed.
const prelude = `set -euo pipefail
exec 3>&1
trap 'status=$?; [ $status -eq 0 ] || { cat "$WORK/printed"; echo "$at: failed"; } >&3
kill $(jobs -p) 2>/dev/null || true; wait; exit $status' EXIT
`

// convert writes the script of a page.
func convert(name, page string) (string, error) {
	all, err := blocks(page)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	var b strings.Builder
	b.WriteString(prelude)
	for i, k := range all {
		where := fmt.Sprintf("%s:%d", name, k.line)
		if k.notRun != "" {
			fmt.Fprintf(&b, "echo %s\n", quote(where+": not run: "+k.notRun))
			continue
		}
		text := strings.ReplaceAll(k.text, "127.0.0.1:8000", "127.0.0.1:"+os.Getenv("PORT"))
		text = strings.ReplaceAll(text, "/tmp/", os.Getenv("WORK")+"/")
		fmt.Fprintf(&b, "at=%s; echo \"$at: %s\"\n: >\"$WORK/printed\"\nexec >>\"$WORK/printed\" 2>&1\n",
			quote(where), k.language)
		end := fmt.Sprintf("END_OF_BLOCK_%d", i)
		switch k.language {
		case "python":
			fmt.Fprintf(&b, "\"$PYTHON\" - <<'%s'\n", end)
		case "js":
			fmt.Fprintf(&b, "(cd \"$NODE_DIR\" && cat >guide.mjs && node guide.mjs) <<'%s'\n", end)
		case "go":
			b.WriteString("mkdir -p .cache/guide\n")
			fmt.Fprintf(&b, "cat >.cache/guide/main.go <<'%s'\n", end)
		}
		b.WriteString(text + "\n")
		if k.language != "sh" {
			b.WriteString(end + "\n")
		}
		if k.language == "go" {
			b.WriteString("go run .cache/guide/main.go\n")
		}
		b.WriteString("exec >&3 2>&3\ncat \"$WORK/printed\"\n")
		if k.prints != "" {
			fmt.Fprintf(&b, "grep -qF -e %s \"$WORK/printed\" || { echo %s; exit 1; }\n", quote(k.prints),
				quote("does not print "+k.prints))
		}
	}
	return b.String(), nil
}

// quote makes s one word of bash.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
