package peft

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/internal/numtest"
	"weft/runtime/device"
	"weft/runtime/device/cpu"
	"weft/runtime/device/ref"
	"weft/runtime/lora"
	"weft/runtime/model"
	"weft/runtime/tensor"
	"weft/runtime/weights"
)

// golden is golden.json of one adapter's folder.
type golden struct {
	Base     string  `json:"base"`
	BasePath string  `json:"base_path"`
	Expect   string  `json:"expect"`
	Reason   string  `json:"reason"`
	Error    float64 `json:"f32_vs_f64_max_abs"`
}

// refused reports whether weft refuses the adapter: what it may honour or refuse, it honours.
func (g *golden) refused() bool {
	return g.Expect == "refuse" && !strings.Contains(g.Reason, "honour them or refuse")
}

// goldenAdapters calls f for each folder of the goldens.
func goldenAdapters(t *testing.T, f func(t *testing.T, dir string, g *golden)) {
	t.Helper()
	root := goldens.Path(t, "serve", "adapters")
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		text, err := os.ReadFile(filepath.Join(dir, "golden.json"))
		if err != nil {
			continue // summary.json and the like
		}
		seen++
		t.Run(e.Name(), func(t *testing.T) {
			var g golden
			if err := json.Unmarshal(text, &g); err != nil {
				t.Fatal(err)
			}
			f(t, dir, &g)
		})
	}
	if seen == 0 {
		t.Fatalf("no golden adapter in %s", root)
	}
}

// openBase opens the model for which a golden adapter was made.
func openBase(t *testing.T, g *golden) *ModelFile {
	t.Helper()
	var path string
	if strings.HasPrefix(g.BasePath, "data/") {
		path = goldens.Shared(t, g.BasePath)
	} else {
		path = goldens.Path(t, "serve", "models", g.Base)
	}
	base, err := OpenModel(path, g.Base)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { base.Close() })
	return base
}

// goldenDevices are all devices with float activations.
func goldenDevices(t *testing.T) map[string]device.Device {
	t.Helper()
	out := map[string]device.Device{"ref": ref.New(ref.Options{})}
	for _, isa := range cpu.ISAs() {
		dev, err := cpu.New(cpu.Options{ISA: isa, Threads: 2, Activations: cpu.Float})
		if err != nil {
			t.Logf("%s: %v", isa, err)
			continue
		}
		out["cpu-"+isa] = dev
	}
	for _, dev := range out {
		t.Cleanup(func() {
			if err := dev.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return out
}

// What must be refused is, with its reason; the rest computes PEFT's logits, and the base's once it is off. What is
// optional is served here, so it must, too.
func TestGoldenAdapters(t *testing.T) { goldens.Each(t, testGoldenAdapters) }

func testGoldenAdapters(t *testing.T) {
	goldenAdapters(t, func(t *testing.T, dir string, g *golden) {
		base := openBase(t, g)
		a, err := Load(dir, base)
		if g.refused() {
			var refused *RefusedError
			if !errors.As(err, &refused) || len(refused.Reasons) == 0 {
				t.Fatalf("error %v, want a refusal: %s", err, g.Reason)
			}
			t.Log(err)
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if g.Expect == "refuse" {
			return // it has no logits
		}
		for name, dev := range goldenDevices(t) {
			t.Run(name,
				func(t *testing.T) { checkLogits(t, filepath.Join(dir, "golden.safetensors"), g, base, a, dev) })
		}
	})
}

func checkLogits(t *testing.T, path string, g *golden, base *ModelFile, a *lora.Adapter, dev device.Device) {
	t.Helper()
	file, err := weights.OpenSafetensors(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	m, err := model.Load(base.Source, base.Config(), dev, model.Options{MaxBatchTokens: 128, MaxLogitRows: 128})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	w, err := lora.Load(dev, a)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Free()
	sequences := 0
	for _, name := range file.Names() {
		seq, ok := strings.CutSuffix(name, ".ids")
		if !ok {
			continue
		}
		sequences++
		ids, _, err := file.Ints(name)
		if err != nil {
			t.Fatal(err)
		}
		for what, adapter := range map[string]*lora.Weights{".logits": w, ".base_logits": nil} {
			want, _, err := file.Floats(seq + what)
			if err != nil {
				t.Fatal(err)
			}
			numtest.MaxAbs(t, seq+what, forward(t, m, dev, adapter, ids), want, 5*g.Error)
		}
	}
	if sequences == 0 {
		t.Fatal("no sequence in the golden file")
	}
}

// forward returns the logits of every token of one sequence; w may be nil.
func forward(t *testing.T, m model.Model, dev device.Device, w *lora.Weights, ids []int32) []float32 {
	t.Helper()
	kv := m.KVConfig()
	kv.PageLen, kv.NumPages, kv.DType = 16, (len(ids)+15)/16, tensor.F32
	cache, err := dev.NewKVCache(kv)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Free()
	b := &model.Batch{IDs: ids, Indptr: []int32{0, int32(len(ids))}, Lens: []int32{int32(len(ids))},
		PageTables: [][]int32{make([]int32, kv.NumPages)}}
	if w != nil {
		b.LoRA = []lora.Segment{{Begin: 0, End: len(ids), Scale: 1, Weights: w}}
	}
	rows := make([]int32, len(ids))
	for i := range ids {
		rows[i] = int32(i)
	}
	b.Positions = rows
	for i := range kv.NumPages {
		b.PageTables[0][i] = int32(i)
	}
	if err := m.Forward(b, cache); err != nil {
		t.Fatal(err)
	}
	var out []float32
	for block := range slices.Chunk(rows, m.MaxLogitRows()) {
		logits, err := m.Logits(block)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, logits...)
	}
	return out
}
