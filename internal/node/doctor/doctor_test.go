package doctor

import "testing"

// Every check says what was looked at and found, and what is not in order has an advice.
func TestExamine(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Examine("v1") {
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
