package load

import (
	"testing"
	"time"
)

// ParseGoal reads vLLM's goals, and refuses what is none.
func TestParseGoal(t *testing.T) {
	g, err := ParseGoal([]string{"ttft:500", " tpot:50", "e2e:5000.5"})
	if want := (Goal{500 * time.Millisecond, 50 * time.Millisecond, 5000500 * time.Microsecond}); err != nil ||
		g != want {
		t.Errorf("%v, %v, want %v", g, err, want)
	}
	for _, bad := range []string{"", "ttft", "ttft:", "ttft:-1", "ttft:0", "itl:5", "tpot:fast"} {
		if _, err := ParseGoal([]string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
