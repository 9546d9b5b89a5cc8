package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

const page = "# Page\n\n```sh\nexport A=1\nsleep 60 &\n```\n\ntext\n\n<!-- prints: A is 1 -->\n```sh\necho \"A is $A\"\n```\n" +
	"<!-- not run: it's for the eye -->\n```sh\nfalse\n```\n```json\n{}\n```\n"

func TestConvert(t *testing.T) {
	t.Setenv("PORT", "1")
	t.Setenv("WORK", t.TempDir())
	run := func(page string) (string, error) {
		script, err := convert("p.md", page)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "bash")
		cmd.Stdin, cmd.Env = strings.NewReader(script), os.Environ()
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run(page)
	if err != nil || !strings.Contains(out, "p.md:15: not run: it's for the eye") || !strings.Contains(out, "A is 1") {
		t.Fatalf("%v:\n%s", err, out)
	}
	for what, bad := range map[string]string{
		"a command that fails":   strings.Replace(page, "export A=1", "false; export A=1", 1),
		"an output that differs": strings.Replace(page, "prints: A is 1", "prints: A is 2", 1),
	} {
		if out, err := run(bad); err == nil {
			t.Errorf("%s went unnoticed:\n%s", what, out)
		}
	}
	if _, err := convert("p.md", "```sh\n"); err == nil {
		t.Error("an open fence went unnoticed")
	}
	if _, err := convert("p.md", "<!-- prints: x -->\n```json\n```\n"); err == nil {
		t.Error("a directive that nothing follows went unnoticed")
	}
}
