package peft

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/runtime/model"
)

func TestParity(t *testing.T) {
	dir := t.TempDir()
	if p, err := ReadParity(dir); p != nil || err != nil {
		t.Errorf("no file: %v, %v", p, err)
	}
	want := &Parity{Base: "b",
		Prompts: []ParityPrompt{{IDs: []int32{1, 2}, Top: []int32{7, 9, 3}, Logprobs: []float64{-0.1, -2.4, -6}}}}
	if err := want.Write(dir); err != nil {
		t.Fatal(err)
	}
	p, err := ReadParity(dir)
	if err != nil {
		t.Fatal(err)
	}
	answer := map[int32]float64{7: -0.3, 9: -2.2}
	next := func([]int32) (map[int32]float64, error) { return answer, nil }
	if _, err := p.Check(100, next); err != nil {
		t.Errorf("close enough: %v", err)
	}
	answer[7] = -0.7
	if _, err := p.Check(100, next); !errors.Is(err, ErrParity) {
		t.Errorf("another probability: %v", err)
	}
	if _, err := p.Check(100, next); !strings.Contains(err.Error(), "-0.100, now -0.700:") {
		t.Errorf("another probability: %v", err)
	}
	delete(answer, 7)
	if _, err := p.Check(100, next); !errors.Is(err, ErrParity) ||
		!strings.Contains(err.Error(), "-0.100, now it is not among the 1 likeliest:") {
		t.Errorf("another token: %v", err)
	}
	answer[7] = math.NaN()
	if _, err := p.Check(100, next); !errors.Is(err, ErrParity) || !strings.Contains(err.Error(), "now NaN:") {
		t.Errorf("no number: %v", err)
	}
	if skipped, err := p.Check(2, next); skipped != 1 || err != nil {
		t.Errorf("a prompt of two tokens in a context of two: %d skipped, %v", skipped, err)
	}
	for what, c := range map[string]struct {
		vocab, context int
		fits           bool
	}{"all fits": {10, 2, true}, "a next token beyond the vocabulary": {9, 2, false},
		"a token beyond the vocabulary": {2, 2, false}, "a prompt beyond the context": {10, 1, false}} {
		err := p.Fits(&model.Config{Vocab: c.vocab, MaxContext: c.context})
		if (err == nil) != c.fits || err != nil && !errors.Is(err, ErrParity) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, text := range []string{"{", `{"nonsense":true}`, `{"prompts":null}`,
		`{"prompts":[{"ids":[],"top":[1],"logprobs":[0]}]}`, `{"prompts":[{"ids":[1],"top":[1],"logprobs":[]}]}`} {
		if err := os.WriteFile(filepath.Join(dir, ParityFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadParity(dir); err == nil {
			t.Errorf("%s is read", text)
		}
	}
}
