package model

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/internal/numtest"
	"weft/runtime/device"
	"weft/runtime/device/cpu"
	"weft/runtime/tensor"
	"weft/runtime/weights"
)

// smollm2 is the content of smollm2.json.
type smollm2 struct {
	SHA256  string `json:"gguf_sha256"`
	Prompts []struct {
		PromptIDs []int32   `json:"prompt_ids"`
		GreedyIDs []int32   `json:"greedy_ids"`
		Gaps      []float64 `json:"gaps"`
		Error     float64   `json:"f32_vs_f64_max_abs"`
	} `json:"prompts"`
	WikiText struct {
		Corpus     string    `json:"corpus"`
		NumTokens  int       `json:"corpus_tokens"`
		FirstIDs   []int32   `json:"first_window_ids_head"`
		Windows    [2]int    `json:"windows"`
		Window     int       `json:"window"`
		Stride     int       `json:"stride"`
		MeanNLL    []float64 `json:"per_window_mean_nll"`
		Perplexity float64   `json:"perplexity"`
	} `json:"wikitext2"`
}

func readSmolLM2(t testing.TB) *smollm2 {
	t.Helper()
	text, err := os.ReadFile(goldens.Path(t, "serve", "smollm2", "smollm2.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g smollm2
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	return &g
}

// cachedModel returns the file with the given hash in the user's cache of models; the test is skipped where there is
// none.
func cachedModel(t testing.TB, sum string) string {
	t.Helper()
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "weft", "*.gguf"))
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		f.Close()
		if err == nil && hex.EncodeToString(h.Sum(nil)) == sum {
			return path
		}
	}
	t.Skipf("no model with the hash %s in %s/weft: scripts/fetch-model gets the default one", sum, dir)
	return ""
}

// bestISA returns the cpu device's default instruction set; the test is skipped where there is no such device.
func bestISA(t testing.TB) string {
	t.Helper()
	isas := cpu.ISAs()
	if len(isas) == 0 {
		t.Skip("built without cgo, and ref takes minutes here")
	}
	return isas[len(isas)-1]
}

// The default model's top logits before each greedy step equal the float64 oracle's, on the best instruction set for
// every prompt, on the others for the first.
func TestSmolLM2(t *testing.T) {
	g := readSmolLM2(t)
	path, best := cachedModel(t, g.SHA256), bestISA(t)
	want, err := weights.OpenSafetensors(goldens.Path(t, "serve", "smollm2", "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	for _, isa := range cpu.ISAs() {
		if isa == "scalar" && isa != best {
			continue // half a minute a prompt; the small models cover it
		}
		t.Run(isa, func(t *testing.T) {
			dev := newCPU(t, isa, 0, cpu.Float)
			context := 0
			for _, p := range g.Prompts {
				context = max(context, len(p.PromptIDs)+len(p.GreedyIDs))
			}
			m, err := Open(path, dev, Options{MaxBatchTokens: context, MaxLogitRows: 64, MaxContext: context})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			prompts := g.Prompts
			if isa != best || testing.Short() {
				prompts = prompts[:1]
			}
			for i := range prompts {
				t.Run(fmt.Sprintf("prompt%d", i), func(t *testing.T) { checkPrompt(t, g, i, want, m, dev) })
			}
		})
	}
}

// checkPrompt feeds prompt and greedy ids, and compares the logits before each greedy id.
func checkPrompt(t *testing.T, g *smollm2, i int, want *weights.Safetensors, m Model, dev device.Device) {
	p := &g.Prompts[i]
	tol := 5 * p.Error
	name := fmt.Sprintf("prompt%d.", i)
	floats := func(key string) []float32 {
		v, _, err := want.Floats(name + key)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	topIDs, _, err := want.Ints(name + "top_ids")
	if err != nil {
		t.Fatal(err)
	}
	steps := len(p.GreedyIDs)
	top, topLogits := len(topIDs)/steps, floats("top_logits")
	ids := slices.Concat(p.PromptIDs, p.GreedyIDs[:steps-1])
	logits := newHarness(t, m, dev, 16, len(ids), tensor.F32).forward(0, len(ids), ids...)
	for k := range steps {
		row := logits[len(p.PromptIDs)-1+k]
		got := make([]float32, top)
		for j, id := range topIDs[k*top : (k+1)*top] {
			got[j] = row[id]
		}
		numtest.MaxAbs(t, fmt.Sprintf("top logits of step %d", k), got, topLogits[k*top:(k+1)*top], tol)
		if id := argmax(row); p.Gaps[k] > 2*tol && id != p.GreedyIDs[k] {
			t.Errorf("step %d: best id %d, want %d (gap %v)", k, id, p.GreedyIDs[k], p.Gaps[k])
		}
	}
	for key, row := range map[string]int{"logits_position0": 0, "logits_last_prompt_token": len(p.PromptIDs) - 1} {
		if slices.ContainsFunc(want.Names(), func(n string) bool { return strings.HasSuffix(n, name+key) }) {
			numtest.MaxAbs(t, key, logits[row], floats(key), tol)
		}
	}
}

// A decode step of the default model leaves nothing for the garbage collector.
func TestStepAllocatesNothing(t *testing.T) {
	g := readSmolLM2(t)
	path := cachedModel(t, g.SHA256)
	dev := newCPU(t, bestISA(t), 0, cpu.Fast)
	m, err := Open(path, dev, Options{MaxBatchTokens: 4, MaxLogitRows: 4, MaxContext: 64})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	h := newHarness(t, m, dev, 16, 64, tensor.F16)
	b := &Batch{IDs: []int32{1}, Positions: []int32{0}, Indptr: []int32{0, 1}, Lens: []int32{1},
		PageTables: [][]int32{h.pages}}
	rows := []int32{0}
	step := func() {
		if err := m.Forward(b, h.cache); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Logits(rows); err != nil {
			t.Fatal(err)
		}
	}
	step()
	if n := testing.AllocsPerRun(5, step); n > 0 {
		t.Errorf("%v allocations a step", n)
	}
}
