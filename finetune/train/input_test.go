package train

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/finetune/data"
	"weft/internal/goldens"
	"weft/runtime/chat"
	"weft/runtime/tokenizer"
	"weft/runtime/weights"
)

// chats is a file of n different conversations.
func chats(t *testing.T, name string, first, n int) string {
	t.Helper()
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, `{"prompt":"What is %d plus 1?","completion":"%d"}`+"\n", first+i, first+i+1)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func tinyModel(t *testing.T) (string, data.Model) {
	t.Helper()
	tok, err := tokenizer.Load(goldens.Path(t, "serve", "tokenizers", "smollm2"))
	if err != nil {
		t.Fatal(err)
	}
	template, err := chat.Parse(chat.ChatML)
	if err != nil {
		t.Fatal(err)
	}
	return goldens.Path(t, "train", "models", "tiny-llama"), data.Model{Tokenizer: tok, Template: template}
}

// A run's files become a job: samples trained on and held out, the names and digests of its inputs.
func TestInput(t *testing.T) {
	path, m := tinyModel(t)
	files := Files{Model: path, Ref: "tiny", Data: chats(t, "data.jsonl", 0, 40), Out: t.TempDir()}
	c := Default()
	c.EvalFraction = 0.25
	in, err := Read(c, files, m)
	if err != nil {
		t.Fatal(err)
	}
	if held := len(in.HeldOut.Samples); held == 0 || held > 20 ||
		held+len(in.Train.Samples) != 40 || in.Repeated() != 0 {
		t.Errorf("%d samples held out, %d trained on, %d on both sides", held, len(in.Train.Samples), in.Repeated())
	}
	if err := in.CheckMemory(1 << 40); err != nil {
		t.Error(err)
	}
	if err := in.CheckMemory(1 << 10); !errors.Is(err, ErrMemory) {
		t.Errorf("1 KiB: %v", err)
	}
	dev := newDevice(t)
	base, err := in.LoadModel(dev, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { base.Close() })
	j, err := in.Job(base.Frozen(), dev)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(path, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(file); j.Base != hex.EncodeToString(sum[:]) {
		t.Errorf("base %s, want the SHA-256 of its file", j.Base)
	}
	digest := in.Train.Report.Digest
	if j.BaseRef != "tiny" || j.Dir != files.Out || j.Data != digest+"+"+digest ||
		len(j.Train) != len(in.Train.Samples) || len(j.Eval) != len(in.HeldOut.Samples) ||
		!slices.Contains(j.Beside, filepath.Join(path, "config.json")) {
		t.Errorf("%+v", j)
	}

	c.EvalFraction, c.EvalData = 0, chats(t, "held.jsonl", 37, 5)
	if in, err = Read(c, files, m); err != nil || in.Repeated() != 3 || len(in.Train.Samples) != 40 {
		t.Errorf("%d samples on both sides, want 3: %v", in.Repeated(), err)
	}
}

// Random weights are named by configuration and seed, and differ by it.
func TestRandomInput(t *testing.T) {
	path, m := tinyModel(t)
	c := Default()
	c.Init, c.Method = "random", "full"
	seen := map[string]bool{}
	for _, seed := range []uint64{1, 2, 1} {
		c.Seed = seed
		in, err := Read(c, Files{Model: path, Data: chats(t, "data.jsonl", 0, 4), Out: t.TempDir()}, m)
		if err != nil {
			t.Fatal(err)
		}
		dev := newDevice(t)
		base, err := in.LoadModel(dev, nil)
		if err != nil {
			t.Fatal(err)
		}
		j, err := in.Job(base.Frozen(), dev)
		if err != nil || j.Eval != nil {
			t.Fatal(j.Eval, err)
		}
		seen[j.Base] = true
		base.Close()
	}
	if len(seen) != 2 {
		t.Errorf("%d digests of two seeds", len(seen))
	}
}

func TestInputRefuses(t *testing.T) {
	path, m := tinyModel(t)
	sound := chats(t, "data.jsonl", 0, 2)
	for name, c := range map[string]struct {
		change func(c *Config, f *Files)
		want   error
		text   string
	}{
		"no data":          {func(_ *Config, f *Files) { f.Data = "absent" }, fs.ErrNotExist, "absent"},
		"no held-out data": {func(c *Config, _ *Files) { c.EvalData = "absent" }, fs.ErrNotExist, "absent"},
		"one side empty":   {func(c *Config, _ *Files) { c.EvalFraction = 1e-9 }, ErrConfig, "0 of 2 samples"},
		"no configuration": {func(c *Config, f *Files) {
			c.Init, c.Method, f.Model = "random", "full", t.TempDir()
		}, fs.ErrNotExist, "init random needs"},
		"no weights": {func(_ *Config, f *Files) { f.Model = t.TempDir() }, weights.ErrFormat,
			"neither model.safetensors"},
	} {
		config, files := Default(), Files{Model: path, Data: sound, Out: t.TempDir()}
		c.change(&config, &files)
		in, err := Read(config, files, m)
		if err == nil {
			_, err = in.LoadModel(newDevice(t), nil)
		}
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %v with %q", name, err, c.want, c.text)
		}
	}
}
