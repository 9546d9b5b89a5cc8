package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"weft/adapters/peft"
	"weft/adapters/peft/pefttest"
	"weft/internal/testdata"
)

// inspect runs `weft adapters inspect` and returns what it prints.
func inspect(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := adaptersInspectCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.Execute()
	return out.String(), err
}

func TestAdaptersInspect(t *testing.T) {
	stories := testdata.Shared(t, "data", "weights", "stories260K", "hf")
	cfg, err := pefttest.Config(stories)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "adapter")
	if err := pefttest.Write(dir, cfg, pefttest.Options{Rank: 4, Targets: []string{"q_proj", "down_proj"}, Layers: []int{0, 1, 3}, Base: "stories260K"}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		model string
		want  []string
		err   error
	}{
		"fits":    {stories, []string{"rank      4, alpha 8, scale 2", "targets   down_proj, q_proj in layers 0-1, 3", "verdict   fits hf", "warning   it was made for \"stories260K\", the base is called \"hf\""}, nil},
		"alone":   {"", []string{"made for  stories260K", "sound by itself"}, nil},
		"another": {testdata.Goldens(t, "serve", "models", "qwen2"), []string{"verdict   refused", "the base has no model.layers.3.mlp.down_proj (it has 3 layers)", "fix: the adapter says that it was made for \"stories260K\""}, peft.ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := inspect(t, dir, "--model", c.model)
			if !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			for _, want := range c.want {
				if !strings.Contains(text, want) {
					t.Errorf("%q is not in\n%s", want, text)
				}
			}
		})
	}
	text, err := inspect(t, dir, "--model", stories, "--json")
	if err != nil {
		t.Fatal(err)
	}
	var r peft.Report
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	if r.Verdict != peft.Fits || r.Params != 4368 || r.Bytes < 4*r.Params || len(r.Digest) != 64 || r.Tensors != 12 {
		t.Errorf("%+v", r)
	}
}
