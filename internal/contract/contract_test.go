package contract

import (
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"weft/internal/goldens"
)

var (
	update = flag.Bool("update", false, "write testdata/contract.json instead of comparing with it")
	other  = flag.String("weft", "", "play the session against this binary instead of the one built from cmd/weft")
)

const recording = "testdata/contract.json"

// recorded is the whole session.
type recorded struct {
	// Flags are by command; those that a newer program adds are no difference.
	Flags map[string]map[string]flagUse
	// Steps are requests and commands, each reduced to lines.
	Steps map[string][]string
}

// TestContract plays the session and compares every step with the recording.
func TestContract(t *testing.T) {
	if testing.Short() {
		t.Skip("the session starts some hundred processes: without -short only")
	}
	w := &world{t: t, weft: build(t), dir: t.TempDir()}
	w.model = chatModel(t, filepath.Join(w.dir, "stories"))
	var want recorded
	if text, err := os.ReadFile(recording); err == nil {
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatalf("%s: %v", recording, err)
		}
	} else if !*update {
		t.Fatal(err)
	}
	got := recorded{Steps: map[string][]string{}}
	w.steps = got.Steps
	w.commands()
	w.requests()
	if *update {
		got.Flags = w.recordFlags(want.Flags)
		save(t, got)
		return
	}
	w.checkFlags(want.Flags)
	for _, name := range slices.Sorted(maps.Keys(union(want.Steps, got.Steps))) {
		if slices.Equal(want.Steps[name], got.Steps[name]) || listsAll.MatchString(name) &&
			containsAll(got.Steps[name], want.Steps[name]) {
			continue
		}
		t.Errorf("%s differs (-update records what is meant):\n%s", name, difference(want.Steps[name], got.Steps[name]))
	}
}

// listsAll matches the steps that list routes or metrics: there, too, a newer program may add some.
var listsAll = regexp.MustCompile(`GET (/openapi\.json|/metrics)$`)

func containsAll(list, part []string) bool {
	return !slices.ContainsFunc(part, func(line string) bool { return !slices.Contains(list, line) })
}

func union(a, b map[string][]string) map[string][]string {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// difference lists the lines that only one side has, or both in order where only that differs.
func difference(want, got []string) string {
	var b strings.Builder
	for _, line := range want {
		if !slices.Contains(got, line) {
			fmt.Fprintf(&b, "  - %s\n", line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			fmt.Fprintf(&b, "  + %s\n", line)
		}
	}
	if b.Len() == 0 {
		fmt.Fprintf(&b, "  order or number: %q\n  instead of: %q\n", got, want)
	}
	return b.String()
}

func save(t *testing.T, r recorded) {
	t.Helper()
	text, err := json.MarshalIndent(r, "", " ")
	if err == nil {
		err = os.WriteFile(recording, append(text, '\n'), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// world is where the session plays.
type world struct {
	t     *testing.T
	weft  string // the binary
	dir   string // holds all files of the session
	model string // a folder of a tiny model with a chat template
	steps map[string][]string
}

// record keeps a step; two steps of one name are a mistake in the session.
func (w *world) record(name string, lines []string) {
	w.t.Helper()
	if _, twice := w.steps[name]; twice {
		w.t.Fatalf("step %q is played twice", name)
	}
	w.steps[name] = lines
}

func build(t *testing.T) string {
	t.Helper()
	if *other != "" {
		return *other
	}
	sources(t)
	path := filepath.Join(t.TempDir(), "weft")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-tags", "invariants", "-o", path,
		"weft/cmd/weft")
	cmd.Dir = goldens.Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// sources looks at every file that the binary is made of, so that go test takes no result from its cache after one has
// changed.
func sources(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(goldens.Root(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		switch {
		case entry.IsDir() && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin"):
			return filepath.SkipDir
		case entry.IsDir() || strings.HasSuffix(name, "_test.go") ||
			!slices.Contains([]string{".go", ".c", ".h", ".json", ".mod"}, filepath.Ext(name)):
			return nil
		}
		_, err = os.Stat(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// chatModel makes dir a copy of stories260K with a chat template.
func chatModel(t *testing.T, dir string) string {
	t.Helper()
	from := goldens.Shared(t, "data", "weights", "stories260K", "hf")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} {
		if err := os.Symlink(filepath.Join(from, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(from, "tokenizer_config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	config["chat_template"] = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}" +
		"{% if add_generation_prompt %}assistant: {% endif %}"
	if text, err = json.Marshal(config); err == nil {
		err = os.WriteFile(filepath.Join(dir, "tokenizer_config.json"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
