package doctor

import (
	"strings"
	"testing"

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
