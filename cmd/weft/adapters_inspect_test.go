package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/adapters/peft"
	"weft/adapters/peft/pefttest"
	"weft/internal/goldens"
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

// Who adds an adapter that another base's name is in is told so, and has it added.
func TestAdaptersAddWarns(t *testing.T) {
	dir, model := storiesAdapter(t, 1)
	renamed := filepath.Join(t.TempDir(), "other-15M")
	if err := os.Symlink(model, renamed); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "adapter_config.json")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	for base, warned := range map[string]bool{"org/stories-260K": true, "other-15M-GGUF": false,
		"/models/stories-260K": false, "": false} {
		var fields map[string]any
		if err := json.Unmarshal(text, &fields); err != nil {
			t.Fatal(err)
		}
		fields["base_model_name_or_path"] = base
		changed, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(config, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		var out, told bytes.Buffer
		cmd := rootCommand()
		cmd.SetArgs([]string{"adapters", "add", "default/x", dir, "--model", renamed, "--data", data})
		cmd.SetOut(&out)
		cmd.SetErr(&told)
		if err := cmd.Execute(); err != nil || !strings.HasPrefix(out.String(), "added default/x@") {
			t.Errorf("%q: %v, %s", base, err, out.String())
		}
		if got := strings.HasPrefix(told.String(), "weft: warning: it was made for"); got != warned {
			t.Errorf("%q: told %q, want a warning: %v", base, told.String(), warned)
		}
	}
}

func TestAdaptersInspect(t *testing.T) {
	stories := goldens.Shared(t, "data", "weights", "stories260K", "hf")
	cfg, err := pefttest.Config(stories)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "adapter")
	if err := pefttest.Write(dir, cfg,
		pefttest.Options{Rank: 4, Targets: []string{"q_proj", "down_proj"}, Layers: []int{0, 1, 3},
			Base: "stories260K"}); err != nil {
		t.Fatal(err)
	}
	renamed := filepath.Join(t.TempDir(), "other-15M")
	if err := os.Symlink(stories, renamed); err != nil {
		t.Fatal(err)
	}
	another := goldens.Path(t, "serve", "models", "qwen2")
	other, err := pefttest.Config(another)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		model string
		want  []string
		err   error
	}{
		"fits": {stories,
			[]string{"rank      4, alpha 8, scale 2", "targets   down_proj, q_proj in layers 0-1, 3",
				"verdict   fits hf"}, nil},
		"renamed": {renamed,
			[]string{"verdict   fits other-15M",
				"warning   it was made for \"stories260K\", the base is called \"other-15M\": is it the same model?"},
			nil},
		"alone": {"", []string{"made for  stories260K", "sound by itself"}, nil},
		"another": {another,
			[]string{"verdict   refused",
				fmt.Sprintf("the base has no model.layers.3.mlp.down_proj (it has %d layers)", other.Layers),
				"fix: the adapter says that it was made for \"stories260K\""}, peft.ErrRefused},
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

// A chat template that cannot be read is refused before anybody is answered with it.
func TestTemplateThatCannotBeRead(t *testing.T) {
	dir, model := storiesAdapter(t, 1)
	file := filepath.Join(dir, "chat_template.jinja")
	add := func(data string) (string, error) {
		var out bytes.Buffer
		cmd := rootCommand()
		cmd.SetArgs([]string{"adapters", "add", "default/x", dir, "--model", model, "--data", data})
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		err := cmd.Execute()
		return out.String(), err
	}
	for text, bad := range map[string]bool{"{% if": true, "{{ messages[0]['content'] }}": false} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		said, err := inspect(t, dir, "--model", model)
		if (err != nil) != bad || bad && !strings.Contains(said, "chat_template.jinja: ") {
			t.Errorf("inspect with the template %q: %v\n%s", text, err, said)
		}
		if said, err := add(t.TempDir()); (err != nil) != bad || bad &&
			!strings.Contains(err.Error(), "chat_template.jinja: ") {
			t.Errorf("add with the template %q: %v\n%s", text, err, said)
		}
	}
}
