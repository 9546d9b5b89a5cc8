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
		fmt.Fprintf(&text, `{"prompt":"%d+1=","completion":"%d"}`+"\n", first+i, first+i+1)
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
	files := Files{Model: path, Ref: "tiny", Data: []string{chats(t, "data.jsonl", 0, 40)}, Out: t.TempDir()}
	c := Default()
	c.EvalFraction = 0.25
	in, err := Read(c, files, m)
	if err != nil {
		t.Fatal(err)
	}
	if held := len(in.HeldOut.Samples); held == 0 || held > 20 ||
		held+len(in.Train.Samples) != 40 || data.Overlap(in.Train, in.HeldOut) != nil {
		t.Errorf("%d samples held out, %d trained on, %v", held, len(in.Train.Samples),
			data.Overlap(in.Train, in.HeldOut))
	}
	if err := in.CheckMemory(1 << 40); err != nil {
		t.Error(err)
	}
	if err := in.CheckMemory(1 << 10); !errors.Is(err, ErrMemory) {
		t.Errorf("1 KiB: %v", err)
	}
	// a step has 8 samples; the last one of an epoch has the rest
	all := int64(0)
	for i := range in.Train.Samples {
		all += int64(len(in.Train.Samples[i].IDs))
	}
	perEpoch := (len(in.Train.Samples) + 7) / 8
	if steps, n, err := in.StepsFor(all); err != nil || steps != perEpoch || n != all {
		t.Errorf("an epoch: %d steps of %d tokens, want %d of %d: %v", steps, n, perEpoch, all, err)
	}
	if steps, n, err := in.StepsFor(2*all + 1); err != nil || steps != 2*perEpoch+1 || n <= 2*all {
		t.Errorf("more than two epochs: %d steps of %d tokens: %v", steps, n, err)
	}
	if weights, training, err := in.Needs(); err != nil || weights <= 0 || training <= 0 {
		t.Errorf("needs %d and %d bytes: %v", weights, training, err)
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
		!slices.Contains(j.Beside, "config.json") {
		t.Errorf("%+v", j)
	}
	trained, err := in.TrainedParameters()
	if err != nil {
		t.Fatal(err)
	}
	j.Config.MaxSteps, j.Dir = 1, t.TempDir()
	if res, err := j.Run(t.Context()); err != nil || res.Trainable != trained {
		t.Errorf("%d trained parameters, planned %d: %v", res.Trainable, trained, err)
	}

	c.EvalFraction, c.EvalData = 0, chats(t, "held.jsonl", 37, 5)
	_, err = Read(c, files, m)
	if says := "3 of 5: "; !errors.Is(err, data.ErrOverlap) || !strings.Contains(err.Error(), says) ||
		!strings.Contains(err.Error(), "held.jsonl:1 is "+files.Data[0]+":38\n") {
		t.Errorf("samples on both sides: %v", err)
	}
	c.AllowOverlap = true
	if in, err = Read(c, files, m); err != nil || len(in.Train.Samples) != 40 || len(in.HeldOut.Samples) != 5 {
		t.Fatalf("with allow_overlap: %v", err)
	}
	var say strings.Builder
	if in.Describe(&say); !strings.Contains(say.String(), "3 of 5") {
		t.Errorf("with allow_overlap it is said: %s", say.String())
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
		in, err := Read(c, Files{Model: path, Data: []string{chats(t, "data.jsonl", 0, 4)}, Out: t.TempDir()}, m)
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
		"no data":          {func(_ *Config, f *Files) { f.Data = []string{"absent"} }, fs.ErrNotExist, "absent"},
		"no held-out data": {func(c *Config, _ *Files) { c.EvalData = "absent" }, fs.ErrNotExist, "absent"},
		"one side empty":   {func(c *Config, _ *Files) { c.EvalFraction = 1e-9 }, ErrConfig, "0 of 2 samples"},
		"no configuration": {func(c *Config, f *Files) {
			c.Init, c.Method, f.Model = "random", "full", t.TempDir()
		}, fs.ErrNotExist, "init random needs"},
		"no weights": {func(_ *Config, f *Files) { f.Model = t.TempDir() }, weights.ErrFormat,
			"neither model.safetensors"},
	} {
		config, files := Default(), Files{Model: path, Data: []string{sound}, Out: t.TempDir()}
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

// What the model cannot take is found while the data is read, with its lines: ids beyond its embedding, and samples
// longer than its positions, whatever max_length allows.
func TestModelLimits(t *testing.T) {
	path, m := tinyModel(t) // with the tokenizer of a larger one
	var shape struct {
		Vocab     int `json:"vocab_size"`
		Positions int `json:"max_position_embeddings"`
	}
	readJSON(t, filepath.Join(path, "config.json"), &shape)
	beyond := int32(-1)
	for _, id := range m.Tokenizer.Encode("What", tokenizer.EncodeOptions{}) {
		if int(id) >= shape.Vocab && beyond < 0 {
			beyond = id
		}
	}
	token, ok := m.Tokenizer.Token(beyond)
	if !ok {
		t.Fatalf("the model of %d tokens has embeddings for all of \"What\"", shape.Vocab)
	}
	file := func(records ...string) []string {
		name := filepath.Join(t.TempDir(), "data.jsonl")
		if err := os.WriteFile(name, []byte(strings.Join(records, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{name}
	}
	const sound = `{"prompt":"1+1=","completion":"2"}`
	long := fmt.Sprintf(`{"prompt":"1","completion":%q}`, strings.Repeat("7", 300))
	c := Default()
	c.MaxLength, c.Overlong = 1024, data.Refuse
	_, err := Read(c, Files{Model: path, Data: file(sound, `{"prompt":"What","completion":"2"}`), Out: t.TempDir()}, m)
	if !errors.Is(err, data.ErrBad) ||
		!strings.Contains(err.Error(), fmt.Sprintf("line 2: token without embedding: token %q "+
			"has the id %d, the model has embeddings for the ids below %d", token, beyond, shape.Vocab)) {
		t.Errorf("ids: %v", err)
	}
	files := Files{Model: path, Data: file(sound, sound, long), Out: t.TempDir()}
	if _, err = Read(c, files, m); !errors.Is(err, data.ErrBad) || !strings.Contains(err.Error(),
		fmt.Sprintf("line 3: longer than the limit: 302 tokens, more than the %d positions of the model",
			shape.Positions)) {
		t.Errorf("positions: %v", err)
	}
	c.Overlong = data.Truncate
	in, err := Read(c, files, m)
	if err != nil || len(in.Train.Samples[2].IDs) != shape.Positions || in.Train.Report.Counts[data.Long] != 1 {
		t.Errorf("cut: %v", err)
	}
	files.Memory = 400
	if _, err = Read(c, files, m); !errors.Is(err, ErrMemory) || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("memory: %v", err)
	}
	c.EvalData, files.Data = data.Stdin, []string{data.Stdin}
	if _, err = Read(c, files, m); !errors.Is(err, ErrConfig) {
		t.Errorf("standard input twice: %v", err)
	}
}

// Folders of `weft data split` stand for their sides: the training side as data, the validation side as eval_data.
func TestTakeSides(t *testing.T) {
	folder := func(train, validation int) string {
		dir := t.TempDir()
		for name, text := range map[string]string{
			data.ManifestName: fmt.Sprintf(`{"kind":%q,"sides":{"train":{"samples":%d},"validation":{"samples":%d},`+
				`"test":{"samples":1}}}`, data.ManifestKind, train, validation),
			"train.jsonl": "", "validation.jsonl": "", "test.jsonl": "",
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	both, alone, none := folder(3, 2), folder(3, 0), folder(0, 2)
	side := func(dir, name string) string { return filepath.Join(dir, name+".jsonl") }
	for _, c := range []struct {
		data     []string
		eval     string
		fraction float64
		want     []string
		wantEval string
		say      string
	}{
		{[]string{both}, "", 0, []string{side(both, "train")}, side(both, "validation"), ""},
		{[]string{both, "x.jsonl"}, "", 0, []string{side(both, "train"), "x.jsonl"}, side(both, "validation"), ""},
		{[]string{both}, "", 0.1, []string{side(both, "train")}, "", ""},
		{[]string{both}, "y.jsonl", 0, []string{side(both, "train")}, "y.jsonl", ""},
		{[]string{both, folder(1, 1)}, both, 0, nil, "", ""},
		{[]string{alone}, "", 0, []string{side(alone, "train")}, "", ""},
		{[]string{"x.jsonl"}, both, 0, []string{"x.jsonl"}, side(both, "validation"), ""},
		{[]string{"x.jsonl"}, alone, 0, nil, "", "has no validation side"},
		{[]string{none}, "", 0, nil, "", "has no training side"},
		{[]string{both, folder(1, 1)}, "", 0, nil, "", "more than one folder with a validation side"},
	} {
		cfg := Config{EvalData: c.eval, EvalFraction: c.fraction}
		got, err := cfg.TakeSides(c.data)
		if c.say != "" {
			if err == nil || !strings.Contains(err.Error(), c.say) {
				t.Errorf("%v: %v, want %s", c.data, err, c.say)
			}
			continue
		}
		if err != nil || c.want != nil && (!slices.Equal(got, c.want) || cfg.EvalData != c.wantEval) {
			t.Errorf("%v: %v and %s, %v", c.data, got, cfg.EvalData, err)
		}
	}
}
