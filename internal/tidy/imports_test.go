package tidy

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"weft/internal/goldens"
)

type pkg struct {
	ImportPath string
	Imports    []string
	Doc        string
	GoFiles    []string
	CgoFiles   []string
}

// layers lists the folders from top to bottom; a package imports its own folder or one further down. internal/node
// imports the layers below it; the other packages of internal import no other layer.
var layers = []string{"docs", "scripts", "cmd", "internal/node", "server", "finetune", "adapters", "runtime", "quant",
	"internal"}

// forbidden lists imports that the order of layers alone would allow.
var forbidden = []struct{ from, to, why string }{
	{"server", "finetune", "server and finetune meet only in internal/node and cmd"},
	{"server/openai", "runtime/engine", "the wire types know neither gin nor the engine"},
	{"server/openai", "github.com/gin-gonic/gin", "the wire types know neither gin nor the engine"},
	{"runtime/chat", "runtime", "prompts are shared by server, trainer and adapters: they know no engine"},
	{"runtime/chat", "github.com/gin-gonic/gin", "prompts know no HTTP"},
	{"runtime/chat", "net/http", "prompts know no HTTP"},
	{"internal/jinja", "weft", "the template engine is a leaf"},
	{"quant", "weft", "quant is a leaf"},
	{"runtime/sched", "runtime/device", "the scheduler is pure: no device"},
	{"runtime/sched", "runtime/model", "the scheduler is pure: no model"},
	{"runtime/kv", "runtime/device", "kv is bookkeeping: indices only"},
	{"runtime/sched", "time", "the scheduler is pure: no clock"},
	{"runtime/kv", "time", "kv is pure: no clock"},
	{"finetune/retrain/gate", "time", "the gate is a function of measurements: no clock"},
	{"finetune/retrain/plan", "time", "the plan is a function of records: no clock"},
	{"runtime/tokenizer", "runtime/engine", "the tokenizer knows no engine"},
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range list(t) {
		for _, imp := range p.Imports {
			if why := complaint(p.ImportPath, imp); why != "" {
				t.Errorf("%s imports %s: %s", p.ImportPath, imp, why)
			}
		}
	}
}

// TestOnlyTheCPUDeviceUsesC: the others build and run under the race detector without a C compiler.
func TestOnlyTheCPUDeviceUsesC(t *testing.T) {
	for _, p := range list(t) {
		if len(p.CgoFiles) > 0 && p.ImportPath != "weft/runtime/device/cpu" &&
			p.ImportPath != "weft/runtime/device/cpu/kernels" {
			t.Errorf("%s uses cgo in %v; only runtime/device/cpu and its kernels may", p.ImportPath, p.CgoFiles)
		}
	}
}

func TestComplaint(t *testing.T) {
	for _, c := range []struct {
		from, to string
		bad      bool
	}{
		{"weft/server", "weft/runtime/engine", false},
		{"weft/runtime/device/cpu", "weft/server", true},
		{"weft/runtime/device/cpu", "weft/runtime/device", false},
		{"weft/quant", "weft/runtime/tensor", true},
		{"weft/internal/numtest", "weft/quant", true},
		{"weft/server", "weft/finetune/train", true},
		{"weft/finetune/train", "weft/runtime/chat", false},
		{"weft/runtime/chat", "weft/internal/jinja", false},
		{"weft/runtime/chat", "weft/runtime/engine", true},
		{"weft/runtime/chat", "net/http", true},
		{"weft/internal/jinja", "weft/internal/goldens", true},
		{"weft/finetune/train", "weft/server/openai", true},
		{"weft/internal/node", "weft/server", false},
		{"weft/internal/node", "weft/finetune/train", false},
		{"weft/internal/node/bench", "weft/internal/node", false},
		{"weft/internal/node/bench", "weft/runtime/engine", false},
		{"weft/cmd/weft", "weft/internal/node/bench", false},
		{"weft/server", "weft/internal/node", true},
		{"weft/finetune/train", "weft/internal/node", true},
		{"weft/internal/store", "weft/internal/node", true},
		{"weft/internal/node", "weft/cmd/weft", true},
		{"weft/internal/modelref", "weft/runtime/weights", true},
		{"weft/server", "weft/internal/modelref", false},
		{"weft/runtime/sched", "time", true},
		{"weft/server/openai", "github.com/gin-gonic/gin", true},
	} {
		if got := complaint(c.from, c.to); (got != "") != c.bad {
			t.Errorf("%s → %s: %q", c.from, c.to, got)
		}
	}
}

func complaint(from, to string) string {
	from = strings.TrimPrefix(from, "weft/")
	for _, f := range forbidden {
		if under(from, f.from) && under(strings.TrimPrefix(to, "weft/"), f.to) || under(from, f.from) &&
			under(to, f.to) {
			if !under(strings.TrimPrefix(to, "weft/"), f.from) {
				return f.why
			}
		}
	}
	if !strings.HasPrefix(to, "weft/") {
		return ""
	}
	to = strings.TrimPrefix(to, "weft/")
	top, _, _ := strings.Cut(from, "/")
	rf, rt := rank(from), rank(to)
	switch {
	case rf < 0:
		return "folder " + top + " is not one of " + strings.Join(layers, " ")
	case rt < 0:
		return "the imported folder is not one of " + strings.Join(layers, " ")
	case rt < rf:
		return "imports point down: " + strings.Join(layers, " → ")
	}
	return ""
}

func under(path, folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }

// rank is the layer of a package: the longest that it lies under.
func rank(path string) int {
	best := -1
	for i, l := range layers {
		if under(path, l) && (best < 0 || len(l) > len(layers[best])) {
			best = i
		}
	}
	return best
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Doc,GoFiles,CgoFiles", "./...")
	cmd.Dir = goldens.Root()
	out, err := cmd.Output()
	if err != nil {
		var ee *exec.ExitError
		if errors.As(err, &ee) {
			t.Fatalf("go list: %v\n%s", err, ee.Stderr)
		}
		t.Fatal(err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < 5 {
		t.Fatalf("go list found %d packages: the rules would check nothing", len(pkgs))
	}
	return pkgs
}
