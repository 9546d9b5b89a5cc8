package train

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/finetune/data"
	"weft/runtime/device"
	"weft/runtime/model"
	"weft/runtime/weights"
)

const scratchConfig = `{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 256,
	"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
	"num_key_value_heads": 1, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "initializer_range": 0.3,
	"tie_word_embeddings": false}`

func scratchSource(t *testing.T) (weights.Source, *model.Config) {
	t.Helper()
	cfg, err := model.ParseConfig([]byte(scratchConfig))
	if err != nil {
		t.Fatal(err)
	}
	src, err := NewScratch([]byte(scratchConfig), cfg, 1)
	if err != nil {
		t.Fatal(err)
	}
	return src, cfg
}

// scratchModel is a small model with random weights, which needs no file.
func scratchModel(t *testing.T, dev device.Device) *model.Frozen {
	t.Helper()
	src, cfg := scratchSource(t)
	m, err := model.Load(src, cfg, dev, model.Options{MaxBatchTokens: 16, MaxLogitRows: 4, MaxContext: 256})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m.Frozen()
}

// scratchJob is a short run of scratchModel: 4 steps an epoch, 2 epochs, an evaluation every 3 steps, checkpoints
// every 2.
func scratchJob(t *testing.T, dir string) *Job {
	t.Helper()
	dev := newDevice(t)
	j := &Job{Dir: dir, Config: settings(t), Device: dev, Model: scratchModel(t, dev), Train: samples(23),
		Eval: samples(5), Base: "base", Data: "data"}
	c := &j.Config
	c.Rank, c.BatchSize, c.Accumulation, c.Epochs, c.LearningRate, c.WarmupSteps = 4, 3, 2, 2, 1e-2, 2
	c.EvalSteps, c.SaveSteps, c.SaveLimit, c.EvalData = 3, 2, 2, "held-out"
	return j
}

// completed runs j to its end, with its report.
func completed(t *testing.T, j *Job) *Result {
	t.Helper()
	res, err := j.Run(t.Context())
	if err == nil {
		_, err = j.Report(res, "test", &data.Report{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}

// snapshot lists everything below a folder: names, kinds, contents, times of change.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %v %v", path, info.Mode(), info.ModTime())
		if info.Mode().IsRegular() {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(text)
			b.WriteString(" " + hex.EncodeToString(sum[:]))
		}
		b.WriteString("\n")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// What is not of a run stays, whatever the settings: a run is refused before it changes anything, and the message names
// what is in the way.
func TestOutputKeepsWhatIsOfOthers(t *testing.T) {
	for name, c := range map[string]struct {
		build func(root string) (out string, reads []Place)
		text  string
	}{
		"beside the base": {func(root string) (string, []Place) {
			put(t, root+"/model/config.json", "{}")
			return root, []Place{{"base model", root + "/model"}}
		}, "contains the base model"},
		"the base": {func(root string) (string, []Place) {
			put(t, root+"/model/config.json", "{}")
			return root + "/model", []Place{{"base model", root + "/model"}}
		}, "is the base model"},
		"the base by another spelling": {func(root string) (string, []Place) {
			put(t, root+"/model/config.json", "{}")
			return root + "/model/../model/.", []Place{{"base model", root + "/model"}}
		}, "is the base model"},
		"the base by a link": {func(root string) (string, []Place) {
			put(t, root+"/real/config.json", "{}")
			link(t, "real", root+"/out")
			return root + "/out", []Place{{"base model", root + "/real"}}
		}, "is the base model"},
		"in the base": {func(root string) (string, []Place) {
			put(t, root+"/model/config.json", "{}")
			return root + "/model/runs/new", []Place{{"base model", root + "/model"}}
		}, "lies in the base model"},
		"in the base by a link": {func(root string) (string, []Place) {
			put(t, root+"/model/config.json", "{}")
			link(t, "model", root+"/same")
			return root + "/same/runs/new", []Place{{"base model", root + "/model"}}
		}, "lies in the base model"},
		"above the base": {func(root string) (string, []Place) {
			put(t, root+"/out/a/b/model.gguf", "x")
			return root + "/out", []Place{{"base model", root + "/out/a/b/model.gguf"}}
		}, "contains the base model"},
		"a base that a link in the folder names": {func(root string) (string, []Place) {
			put(t, root+"/elsewhere/config.json", "{}")
			put(t, root+"/out/x", "")
			link(t, root+"/elsewhere", root+"/out/model")
			return root + "/out", []Place{{"base model", root + "/out/model"}}
		}, "contains the base model"},
		"above the data": {func(root string) (string, []Place) {
			put(t, root+"/out/data.jsonl", "{}")
			return root + "/out", []Place{{"data", root + "/out/data.jsonl"}}
		}, "contains the data"},
		"above the evaluation data": {func(root string) (string, []Place) {
			put(t, root+"/out/held.jsonl", "{}")
			return root + "/out", []Place{{"evaluation data", root + "/out/held.jsonl"}}
		}, "contains the evaluation data"},
		"an adapter that no run made": {func(root string) (string, []Place) {
			put(t, root+"/adapter/adapter_model.safetensors", "mine")
			return root, nil
		}, "no run of weft wrote (adapter)"},
		"checkpoints of another program": {func(root string) (string, []Place) {
			put(t, root+"/checkpoint-500/optimizer.pt", "x")
			put(t, root+"/run.json", "{}")
			return root, nil
		}, "(checkpoint-500, run.json)"},
		"many files": {func(root string) (string, []Place) {
			for i := range 9 {
				put(t, fmt.Sprintf("%s/file%d", root, i), "x")
			}
			return root, nil
		}, "file4 and 4 more"},
		"a lock with content": {func(root string) (string, []Place) {
			put(t, root+"/.lock", "pid 7")
			return root, nil
		}, "(.lock)"},
		"a manifest of something else": {func(root string) (string, []Place) {
			put(t, root+"/"+manifestFile, `{"weft_train_output": 99}`)
			put(t, root+"/adapter/adapter_model.safetensors", "mine")
			return root, nil
		}, "adapter"},
		"a manifest that lists too much": {func(root string) (string, []Place) {
			text, _ := json.Marshal(manifest{Version: manifestVersion, Events: []string{"../secret", "/etc", "."},
				Results: map[string][]string{"notes.txt": {"x"}, "../secret": {"x"}, "adapter/sub/../../secret": {"x"},
					"adapter": {"x"}, "adapter/mine": {"x"}, "": {""}}})
			put(t, root+"/out/"+manifestFile, string(text))
			put(t, root+"/secret", "x")
			put(t, root+"/out/notes.txt", "x")
			put(t, root+"/out/adapter/mine", "x")
			return root + "/out", nil
		}, "(adapter/mine (changed since it was written), notes.txt)"},
		"a file": {func(root string) (string, []Place) {
			put(t, root+"/out", "x")
			return root + "/out", nil
		}, "is a file"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			out, reads := c.build(root)
			before := snapshot(t, root)
			for _, change := range []func(c *Config){func(*Config) {}, func(c *Config) { c.Overwrite = true }} {
				j := scratchJob(t, out)
				j.Reads = reads
				change(&j.Config)
				if _, err := j.Run(t.Context()); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.text) {
					t.Errorf("%v, want %q", err, c.text)
				}
			}
			if after := snapshot(t, root); after != before {
				t.Errorf("refused, and changed:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// Files put into the folder of a run are kept: with --overwrite-output-dir any, with --resume those in the folders that
// a run replaces.
func TestFilesAddedToARun(t *testing.T) {
	for name, c := range map[string]struct {
		add     func(dir string)
		resumes bool
		text    string
	}{
		"notes": {func(dir string) { put(t, dir+"/notes.txt", "x") }, true, "(notes.txt)"},
		"a name like that of a checkpoint": {func(dir string) { put(t, dir+"/checkpoint-notes.txt", "x") }, true,
			"(checkpoint-notes.txt)"},
		"notes in the adapter": {func(dir string) { put(t, dir+"/adapter/README.md", "x") }, false,
			"(adapter/README.md)"},
		"notes in a checkpoint":  {func(dir string) { put(t, dir+"/checkpoint-6/x", "x") }, false, "(checkpoint-6/x)"},
		"a folder in the events": {func(dir string) { put(t, dir+"/events/other/x", "x") }, false, "(events/other)"},
		"an adapter of others": {func(dir string) {
			put(t, dir+"/adapter/adapter_model.safetensors", "mine")
		}, false, "(adapter/adapter_model.safetensors (changed since it was written))"},
		"a link instead of the adapter": {func(dir string) {
			if err := os.Rename(dir+"/adapter", dir+"-mine"); err != nil {
				t.Fatal(err)
			}
			link(t, dir+"-mine", dir+"/adapter")
		}, true, "(adapter)"},
		"a link in a checkpoint": {func(dir string) {
			if err := os.Remove(dir + "/checkpoint-6/" + progressFile); err != nil {
				t.Fatal(err)
			}
			link(t, "/etc/hostname", dir+"/checkpoint-6/"+progressFile)
		}, false, "(checkpoint-6/progress.json)"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			dir := filepath.Join(root, "out")
			completed(t, scratchJob(t, dir))
			c.add(dir)
			before := snapshot(t, root)
			j := scratchJob(t, dir)
			j.Config.Overwrite = true
			if _, err := j.Run(t.Context()); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("overwriting: %v, want %q", err, c.text)
			}
			if !c.resumes {
				j = scratchJob(t, dir)
				j.Config.Resume = true
				if _, err := j.Run(t.Context()); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.text) {
					t.Errorf("resuming: %v, want %q", err, c.text)
				}
			}
			if after := snapshot(t, root); after != before {
				t.Errorf("refused, and changed:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// A folder that runs made is removed and made again, also by a run of the other method, and what killed runs left.
func TestOverwrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	completed(t, scratchJob(t, dir))
	whole := digestOf(t, dir)
	if _, err := scratchJob(t, dir).Run(t.Context()); !errors.Is(err, ErrConfig) ||
		!strings.Contains(err.Error(), "continue it with --resume") {
		t.Errorf("a second run in the folder: %v", err)
	}
	for _, left := range []string{".checkpoint-1/x", ".writing-1/x", ".run.json.1", ".report.html.1",
		"." + manifestFile + ".1"} {
		put(t, filepath.Join(dir, left), "")
	}
	full := scratchJob(t, dir)
	full.Config.Overwrite, full.Config.Method, full.Config.SaveSteps = true, "full", 0
	completed(t, full)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := ""
	for _, e := range entries {
		names += e.Name() + " "
	}
	if names != ".lock events model report.html run.json samples.jsonl.zst weft-run.json " {
		t.Errorf("the folder has %s", names)
	}
	if _, err := scratchJob(t, dir).Run(t.Context()); !errors.Is(err, ErrConfig) ||
		!strings.Contains(err.Error(), "has a finished run: choose another folder, or overwrite_output_dir") {
		t.Errorf("a second run in the folder: %v", err)
	}
	again := scratchJob(t, dir)
	again.Config.Overwrite = true
	completed(t, again)
	if got := digestOf(t, dir); got != whole {
		t.Error("the same run ends with other weights")
	}
	if m, err := readManifest(dir); err != nil || len(m.Events) != 1 || len(m.Results) != 3 {
		t.Errorf("manifest %+v: %v", m, err)
	}
}
