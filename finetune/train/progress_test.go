package train

import (
	"log/slog"
	"strings"
	"testing"
)

// Both kinds of progress show loss, tokens a second and the time left; that of a resumed run counts its own steps.
func TestProgress(t *testing.T) {
	for _, terminal := range []bool{true, false} {
		var out strings.Builder
		p := NewProgress(&out, slog.New(slog.NewTextHandler(&out, nil)), 1)
		p.terminal = terminal
		for step := 91; step <= 93; step++ {
			p.Step(StepInfo{Step: step, Total: 100, Loss: 1.25, LR: 1e-3, Tokens: 300, Seconds: 2})
		}
		p.Eval(93, 2.5)
		p.End()
		want := []string{"step=93 of=100", "loss=1.2500", "tokens_per_second=150", "left=14s",
			"msg=evaluation step=93 loss=2.5000"}
		if terminal {
			want = []string{"\r[======================  ] 93/100 loss 1.2500 lr 0.001 150 tokens/s, 14s left\n",
				"loss=2.5000\n"}
		}
		for _, part := range want {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%q, want %q", out.String(), part)
			}
		}
		if newlines := strings.Count(out.String(), "\n"); terminal && newlines != 2 {
			t.Errorf("%d lines on a terminal, want 2: %q", newlines, out.String())
		}
	}
}
