package main

import (
	"log/slog"
	"strings"
	"testing"

	"weft/finetune/train"
)

// Both kinds of progress tell loss, tokens a second and the time left; that of a resumed run counts its own steps.
func TestProgress(t *testing.T) {
	for _, terminal := range []bool{true, false} {
		var out strings.Builder
		p := newProgress(&out, slog.New(slog.NewTextHandler(&out, nil)), 1)
		p.terminal = terminal
		for step := 91; step <= 93; step++ {
			p.step(train.StepInfo{Step: step, Total: 100, Loss: 1.25, LR: 1e-3, Tokens: 300, Seconds: 2})
		}
		p.eval(93, 2.5)
		p.end()
		want := []string{"step=93 of=100", "loss=1.2500", "tokens_per_second=150", "left=14s",
			"msg=evaluation step=93 loss=2.5000"}
		if terminal {
			want = []string{"\r[======================  ] 93/100 loss 1.2500 lr 0.001 150 tokens/s, 14s left\n",
				"loss=2.5000\n"}
		}
		if !contains(out.String(), want...) {
			t.Errorf("%q, want %q", out.String(), want)
		}
		if newlines := strings.Count(out.String(), "\n"); terminal && newlines != 2 {
			t.Errorf("%d lines on a terminal, want 2: %q", newlines, out.String())
		}
	}
}
