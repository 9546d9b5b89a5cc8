package peft

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/internal/numtest"
	"weft/internal/testdata"
	"weft/runtime/device"
	"weft/runtime/device/ref"
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

// goldenAdapters calls f for each folder of the goldens.
func goldenAdapters(t *testing.T, f func(t *testing.T, dir string, g *golden)) {
	t.Helper()
	root := testdata.Goldens(t, "serve", "adapters")
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
		path = testdata.Shared(t, g.BasePath)
	} else {
		path = testdata.Goldens(t, "serve", "models", g.Base)
	}
	base, err := OpenModel(path, g.Base)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { base.Close() })
	return base
}

// What must be refused is, with its reason; the rest is read, and merged into its base computes PEFT's logits.
func TestGoldenAdapters(t *testing.T) {
	goldenAdapters(t, func(t *testing.T, dir string, g *golden) {
		if strings.Contains(g.Base, "moe") || g.Base == "mixtral" {
			t.Skip("its base is not served")
		}
		base := openBase(t, g)
		a, err := Load(dir, base)
		var refused *RefusedError
		if errors.As(err, &refused) {
			t.Log(err)
		}
		if g.Expect == "refuse" {
			if !errors.Is(err, ErrRefused) || len(refused.Reasons) == 0 {
				t.Fatalf("error %v, want a refusal: %s", err, g.Reason)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		m, err := merged(base, a)
		if err != nil {
			t.Fatal(err)
		}
		checkLogits(t, dir, g, func(dev device.Device, opt model.Options) (model.Model, error) {
			return model.Load(m, &m.cfg, dev, opt)
		})
	})
}

func checkLogits(t *testing.T, dir string, g *golden, load func(device.Device, model.Options) (model.Model, error)) {
	t.Helper()
	file, err := weights.OpenSafetensors(filepath.Join(dir, "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	dev := ref.New(ref.Options{})
	defer dev.Close()
	m, err := load(dev, model.Options{MaxBatchTokens: 128, MaxLogitRows: 128})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, name := range file.Names() {
		seq, ok := strings.CutSuffix(name, ".ids")
		if !ok {
			continue
		}
		ids, _, err := file.Ints(name)
		if err != nil {
			t.Fatal(err)
		}
		want, _, err := file.Floats(seq + ".logits")
		if err != nil {
			t.Fatal(err)
		}
		numtest.MaxAbs(t, seq+".logits", forward(t, m, dev, ids), want, 5*g.Error)
	}
}

// forward returns the logits of every token of one sequence.
func forward(t *testing.T, m model.Model, dev device.Device, ids []int32) []float32 {
	t.Helper()
	kv := m.KVConfig()
	kv.PageLen, kv.NumPages, kv.DType = 16, (len(ids)+15)/16, tensor.F32
	cache, err := dev.NewKVCache(kv)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Free()
	b := &model.Batch{IDs: ids, Indptr: []int32{0, int32(len(ids))}, Lens: []int32{int32(len(ids))}, PageTables: [][]int32{make([]int32, kv.NumPages)}}
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
	logits, err := m.Logits(rows)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(logits)
}
