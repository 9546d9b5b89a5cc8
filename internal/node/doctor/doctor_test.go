package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/internal/limits"
)

// Every check says what was looked at and found, and what is not in order has an advice.
func TestExamine(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Examine("v1", limits.Own()) {
		if c.What == "" || c.Found == "" || !c.OK && c.What != "huge pages" && c.Advice == "" || seen[c.What] {
			t.Errorf("%+v", c)
		}
		seen[c.What] = true
	}
	for _, what := range []string{"version", "processor", "cores", "device", "memory", "default model"} {
		if !seen[what] {
			t.Errorf("no line about %s in %v", what, seen)
		}
	}
}

// TestExamineLimits: the report follows the limits of the process, and says what sets them.
func TestExamineLimits(t *testing.T) {
	found := map[string]Check{}
	for _, c := range Examine("v1", limits.Limits{Memory: 340 << 20, MemoryFrom: "memory.max of cgroup /x", CPUs: 1.5,
		CPUsFrom: "CPU quota of cgroup /y"}) {
		found[c.What] = c
	}
	if m := found["memory"]; m.OK || m.Found != "340.0MiB available (memory.max of cgroup /x)" {
		t.Errorf("%+v", m)
	}
	if c := found["cores"]; !strings.HasPrefix(c.Found, "1 usable of ") ||
		!strings.HasSuffix(c.Found, "(1.5, CPU quota of cgroup /y)") {
		t.Errorf("%+v", c)
	}
}

// TestExamineSmall: where the default model's weights do not fit, the report says so before a server tries, and nothing
// is measured that needs more memory than there is.
func TestExamineSmall(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", home)
	stories := goldens.Shared(t, "data", "weights", "stories260K", "stories260K.gguf")
	if err := os.Mkdir(filepath.Join(home, "weft"), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(home, "weft", "SmolLM2-135M-Instruct.Q4_1.gguf")
	if err := os.Symlink(stories, file); err != nil {
		t.Fatal(err)
	}
	for memory, says := range map[int64]string{1 << 19: "its weights take at least ", 100 << 20: ""} {
		for _, c := range Examine("v1", limits.Limits{Memory: memory, MemoryFrom: "memory.max of cgroup /x", CPUs: 1}) {
			if c.What == "default model" && (c.OK != (says == "") || !strings.Contains(c.Advice, says)) ||
				c.What == "read bandwidth" && c.Found != "not measured: too little memory" {
				t.Errorf("%d bytes: %+v", memory, c)
			}
		}
	}
	if err := errors.Join(os.Remove(file), os.WriteFile(file, []byte("GGUF, but no more"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, c := range Examine("v1", limits.Limits{Memory: 1 << 30, CPUs: 1}) {
		if c.What == "default model" && (c.OK || !strings.Contains(c.Advice, "cannot be read")) {
			t.Errorf("a damaged file: %+v", c)
		}
	}
}
