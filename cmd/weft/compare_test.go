package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/goldens"
	"weft/runtime/weights"
)

// chatStories is a copy of stories260K with a chat template.
func chatStories(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "stories")
	if err := os.CopyFS(dir, os.DirFS(goldens.Shared(t, "data", "weights", "stories260K", "hf"))); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "tokenizer_config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(text, &members); err != nil {
		t.Fatal(err)
	}
	members["chat_template"] = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}" +
		"{% if add_generation_prompt %}assistant: {% endif %}"
	if text, err = json.Marshal(members); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// compared is what `weft compare methods --json` prints, as far as tests look at it.
type compared struct {
	Rows []struct {
		Name, Study, File, Stopped string
		Tokens                     int64
		Seconds                    float64
		PeakBytes                  int64 `json:"peak_bytes"`
		Trainable                  int64 `json:"trainable_params"`
		FileBytes                  int64 `json:"file_bytes"`
		Evaluations                []struct{ Loss float64 }
		Metrics                    map[string]struct{ Value, Low, High float64 }
		Forgetting                 struct{ Value float64 }
	}
	Differences []struct {
		A, B    string
		Metrics []struct {
			Metric           string
			Value, Low, High float64
		}
	}
	Claims []struct{ Claim, Measured string }
}

func (c *compared) row(t *testing.T, name string) int {
	t.Helper()
	for i := range c.Rows {
		if c.Rows[i].Name == name {
			return i
		}
	}
	t.Fatalf("no run %s in %+v", name, c.Rows)
	return 0
}

// small are settings with which a comparison takes seconds.
var small = []string{"compare", "methods", "--tokens", "1500", "--eval-samples", "4", "--max-tokens", "4", "--threads",
	"1", "--memory", "1GiB", "--json"}

func compareJSON(t *testing.T, args ...string) (c compared) {
	t.Helper()
	stdout, stderr, status := run(t, "", append(slices.Clone(small), args...)...)
	if status != 0 {
		t.Fatalf("%v: %s", args, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), &c); err != nil {
		t.Fatalf("%s: %v", stdout, err)
	}
	return c
}

// The whole comparison on built-in data: the table's numbers are those of the files, and differences those of the rows.
func TestCompareMethods(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	model := chatStories(t)
	c := compareJSON(t, "--model", model, "--out", out)
	var names []string
	for _, row := range c.Rows {
		names = append(names, row.Name)
	}
	want := []string{"base", "base-nf4", "full", "lora", "qlora", "full-replay", "lora-replay", "lora-checkpointing",
		"overfitted", "dropout", "stopped"}
	if !slices.Equal(names, want) {
		t.Fatalf("runs %v, want %v", names, want)
	}
	base := c.Rows[0].Metrics["general_loss"].Value
	for _, row := range c.Rows {
		if got := row.Metrics["general_loss"].Value - base; math.Abs(got-row.Forgetting.Value) > 1e-9 {
			t.Errorf("%s: forgetting %v, the losses differ by %v", row.Name, row.Forgetting.Value, got)
		}
		if strings.HasPrefix(row.Name, "base") {
			continue
		}
		info, err := os.Stat(filepath.Join(out, row.File))
		if err != nil || info.Size() != row.FileBytes {
			t.Errorf("%s: file %s of %d bytes: %v", row.Name, row.File, row.FileBytes, err)
		}
		src, err := weights.OpenSafetensors(filepath.Join(out, row.File))
		if err != nil {
			t.Fatal(err)
		}
		n := int64(0)
		for _, name := range src.Names() {
			tensor, _ := src.Info(name)
			size := int64(1)
			for _, d := range tensor.Shape {
				size *= int64(d)
			}
			n += size
		}
		if err := src.Close(); err != nil || n != row.Trainable {
			t.Errorf("%s: %d trained parameters, the file has %d: %v", row.Name, row.Trainable, n, err)
		}
		if row.Tokens < 1500 || row.Seconds <= 0 || row.PeakBytes < 1<<20 || len(row.Evaluations) == 0 {
			t.Errorf("%+v", row)
		}
	}
	plain, twice := c.Rows[c.row(t, "lora")], c.Rows[c.row(t, "lora-checkpointing")]
	if !reflect.DeepEqual(plain.Metrics, twice.Metrics) {
		t.Errorf("gradient checkpointing changes the result: %v, %v", plain.Metrics, twice.Metrics)
	}
	if reflect.DeepEqual(plain.Metrics, c.Rows[c.row(t, "lora-replay")].Metrics) {
		t.Error("replay changes nothing")
	}
	if len(c.Claims) != 3 || len(c.Differences) != 8 {
		t.Errorf("claims %+v, differences %+v", c.Claims, c.Differences)
	}
	for _, d := range c.Differences {
		for _, m := range d.Metrics {
			a, b := c.Rows[c.row(t, d.A)].Metrics[m.Metric], c.Rows[c.row(t, d.B)].Metrics[m.Metric]
			if math.Abs(a.Value-b.Value-m.Value) > 1e-9 || m.Low > m.Value || m.High < m.Value {
				t.Errorf("%s minus %s: %+v, of %v and %v", d.A, d.B, m, a, b)
			}
		}
	}
	page, err := os.ReadFile(filepath.Join(out, "methods.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"loss", "replay", "checkpointing", "overfitting"} {
		svg, err := os.ReadFile(filepath.Join(out, "methods-"+name+".svg"))
		if err != nil || !strings.HasPrefix(string(svg), `<svg xmlns="http://www.w3.org/2000/svg"`) ||
			!strings.Contains(string(page), "(methods-"+name+".svg)") {
			t.Errorf("%s: %.80s, %v", name, svg, err)
		}
	}
	// the same call again makes no run
	before, err := os.Stat(filepath.Join(out, "runs", "qlora", "result.json"))
	if err != nil {
		t.Fatal(err)
	}
	again := compareJSON(t, "--model", model, "--out", out)
	after, err := os.Stat(filepath.Join(out, "runs", "qlora", "result.json"))
	if err != nil || !after.ModTime().Equal(before.ModTime()) || !reflect.DeepEqual(c, again) {
		t.Errorf("the same call again: %+v, %v", again, err)
	}
	_, stderr, status := run(t, "", append(slices.Clone(small), "--model", model, "--out", out, "--seed", "7")...)
	if status != 2 || !strings.Contains(stderr, "seed was 42 and is 7") {
		t.Errorf("other settings: %d, %s", status, stderr)
	}
}

// A comparison that was killed, and then interrupted, ends with the table of one that was not.
func TestCompareContinues(t *testing.T) {
	model, out := chatStories(t), t.TempDir()
	args := []string{"--model", model, "--methods", "full,lora", "--studies", "overfitting", "--tokens", "4000"}
	whole := compareJSON(t, append(args, "--out", filepath.Join(out, "whole"))...)
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	args = append(args, "--out", filepath.Join(out, "stopped"))
	for _, end := range []struct {
		at     string
		signal syscall.Signal
	}{{"run 2 of", syscall.SIGKILL}, {"run 4 of", syscall.SIGINT}} {
		p := &process{t: t, log: &syncBuffer{}, done: make(chan error, 1),
			cmd: exec.Command(path, append(slices.Clone(small), args...)...)}
		p.cmd.Stderr = p.log
		if err := p.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { p.done <- p.cmd.Wait() }()
		t.Cleanup(func() { p.cmd.Process.Kill() })
		p.says(end.at)
		time.Sleep(100 * time.Millisecond) // into the run
		p.signal(end.signal)
		status := p.wait(time.Minute)
		if end.signal == syscall.SIGINT &&
			(status != 1 || !strings.Contains(p.log.String(), "the same command continues the comparison")) {
			t.Errorf("status %d, %s", status, p.log)
		}
		// a child whose parent was killed ends soon after it
		busy := filepath.Join(out, "stopped", "runs", "full", "train", ".lock")
		for deadline := time.Now().Add(30 * time.Second); locked(busy) && time.Now().Before(deadline); {
			time.Sleep(20 * time.Millisecond)
		}
	}
	continued := compareJSON(t, args...)
	for _, c := range []*compared{&whole, &continued} {
		c.Claims = nil // they have times and memory
		for i := range c.Rows {
			c.Rows[i].Seconds, c.Rows[i].PeakBytes = 0, 0
		}
	}
	if !reflect.DeepEqual(whole, continued) {
		t.Errorf("uninterrupted %+v\ncontinued %+v", whole, continued)
	}
}

func locked(path string) bool {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil
}

// A GGUF model, whose full finetuning is written as a GGUF file: with a learning rate of nothing it is the base.
func TestCompareGGUF(t *testing.T) {
	var samples, other strings.Builder
	for i := range 40 {
		fmt.Fprintf(&other, `{"prompt":"Lily saw %d birds.","completion":" They sang."}`+"\n", i)
		fmt.Fprintf(&samples, `{"prompt":"Tom had %d red balls and","completion":" gave Lily %d."}`+"\n", i, i/2)
	}
	file, out := writeFile(t, "data.jsonl", samples.String()), filepath.Join(t.TempDir(), "out")
	args := []string{"--model", goldens.Shared(t, "data", "weights", "stories260K", "stories260K.gguf"), "--data", file,
		"--general", writeFile(t, "general.jsonl", other.String()), "--studies", "none", "--methods", "full,qlora",
		"--learning-rate", "full=1e-12", "--out", out}
	plan, stderr, status := run(t, "", append(slices.Clone(small), append(args, "--dry-run")...)...)
	if _, err := os.Stat(out); status != 0 || err == nil || !strings.Contains(plan, `"tokens_per_second"`) ||
		!strings.Contains(plan, `"memory_bytes"`) {
		t.Fatalf("dry run: %d, %s%s", status, plan, stderr)
	}
	if left, err := os.ReadDir(filepath.Dir(out)); err != nil || len(left) != 0 {
		t.Errorf("the dry run left %v, %v", left, err)
	}
	c := compareJSON(t, args...)
	full := c.Rows[c.row(t, "full")]
	if d := math.Abs(full.Metrics["loss"].Value - c.Rows[0].Metrics["loss"].Value); d > 1e-6 {
		t.Errorf("the losses of base and copy differ by %v", d)
	}
	if !strings.HasSuffix(full.File, ".gguf") || c.Rows[c.row(t, "qlora")].Metrics["loss"].Value ==
		c.Rows[c.row(t, "base-nf4")].Metrics["loss"].Value {
		t.Errorf("%+v", c.Rows)
	}
	stdout, stderr, status := run(t, "", "generate", "--model", filepath.Join(out, full.File), "--prompt", "Once",
		"--max-tokens", "4", "--memory", "1GiB")
	if status != 0 {
		t.Errorf("%s%s", stdout, stderr)
	}
}

func TestCompareRefuses(t *testing.T) {
	model, dir := chatStories(t), t.TempDir()
	file := writeFile(t, "data.jsonl", strings.Repeat(`{"prompt":"a","completion":"b"}`+"\n", 3))
	var twenty strings.Builder
	for i := range 20 {
		fmt.Fprintf(&twenty, `{"prompt":"number %d","completion":"yes"}`+"\n", i)
	}
	many := writeFile(t, "many.jsonl", twenty.String())
	full := filepath.Join(dir, "full")
	if err := os.MkdirAll(full, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(full, "notes.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	sides := filepath.Join(dir, "sides")
	if _, stderr, status := run(t, "", "data", "split", writeFile(t, "more.jsonl",
		`{"prompt":"a","completion":"b"}`+"\n"+`{"prompt":"c","completion":"d"}`+"\n"), "--out", sides, "--validation",
		"0"); status != 0 {
		t.Fatal(stderr)
	}
	gguf := goldens.Shared(t, "data", "weights", "stories260K", "stories260K.gguf")
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"--out=", 2, "--out is empty"},
		{"--methods full,dora", 2, `--methods "dora": one of full, lora, qlora`},
		{"--methods lora,lora", 2, "lora is named twice"},
		{"--studies sleep", 2, `--studies "sleep": one of replay, checkpointing, overfitting`},
		{"--learning-rate lora=fast", 2, "--learning-rate lora=fast: give a number"},
		{"--learning-rate lora=0", 2, "--learning-rate lora=0: above 0"},
		{"--learning-rate dora=1", 2, `--learning-rate "dora"`},
		{"--tokens 0", 2, "--tokens 0: 1 to"},
		{"--tokenize ja", 2, "--tokenize"},
		{"--data " + sides, 2, "has no validation side: split it with weft data split"},
		{"--data " + file, 1, "--data: bad training data: the fraction 0.2 leaves validation without a sample"},
		{"--data " + many + " --general " + many + " --validation 0.1 --studies none", 1,
			"--general: held-out samples are training samples too"},
		{"--data " + filepath.Join(dir, "absent.jsonl"), 1, "no such file"},
		{"--out " + full, 2, "files that no comparison wrote (notes.txt)"},
		{"--memory 30MiB", 1, "full takes"},
		{"--memory 30MiB", 1, "30.0MiB may be used: leave it out with --methods"},
		{"--model " + gguf, 1, "no chat template"},
	} {
		args := append(slices.Clone(small), "--model", model, "--out", filepath.Join(t.TempDir(), "out"))
		_, stderr, status := run(t, "", append(args, strings.Fields(c.args)...)...)
		if status != c.status || !strings.Contains(stderr, c.says) {
			t.Errorf("%s: status %d, %s", c.args, status, stderr)
		}
	}
}
