package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/internal/numtest"
	"weft/runtime/device"
	"weft/runtime/tensor"
	"weft/runtime/weights"
)

// golden is golden.json of one model folder.
type golden struct {
	Error     float64           `json:"f32_vs_f64_logits_max_abs"`
	GreedyIDs []int32           `json:"greedy_ids"`
	Gaps      []float64         `json:"greedy_gaps"`
	From      int               `json:"greedy_from"`
	MaxHidden float64           `json:"hidden_max_abs"`
	MaxLogit  float64           `json:"logits_max_abs"`
	Sequences []json.RawMessage `json:"sequences"`
	SameAs    string            `json:"same_as"`
}

func readGolden(t *testing.T, dir string) (*golden, string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	if g.SameAs != "" {
		return readGolden(t, filepath.Join(filepath.Dir(dir), g.SameAs))
	}
	return &g, dir
}

// harness is a model with its own cache and page table, pages assigned in a scrambled order.
type harness struct {
	t     testing.TB
	m     *decoder
	cache device.KVCache
	pages []int32
}

func newHarness(t testing.TB, m Model, dev device.Device, pageLen, context int, kv tensor.DType) *harness {
	t.Helper()
	c := m.KVConfig()
	c.PageLen, c.DType = pageLen, kv
	c.NumPages = (context + pageLen - 1) / pageLen
	cache, err := dev.NewKVCache(c)
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{t: t, m: m.(*decoder), cache: cache}
	for i := range c.NumPages {
		h.pages = append(h.pages, int32((i*7+3)%c.NumPages))
	}
	if c.NumPages%7 == 0 {
		slices.Sort(h.pages)
		for i := range h.pages {
			h.pages[i] = int32(c.NumPages - 1 - i)
		}
	}
	t.Cleanup(cache.Free)
	return h
}

// forward computes ids at positions from start on and returns the logits of every token.
func (h *harness) forward(start, known int, ids ...int32) [][]float32 {
	h.t.Helper()
	b := &Batch{IDs: ids, Indptr: []int32{0, int32(len(ids))}, Lens: []int32{int32(known)},
		PageTables: [][]int32{h.pages}}
	var rows []int32
	for i := range ids {
		b.Positions = append(b.Positions, int32(start+i))
		rows = append(rows, int32(i))
	}
	if err := h.m.Forward(b, h.cache); err != nil {
		h.t.Fatal(err)
	}
	var out [][]float32
	for block := range slices.Chunk(rows, h.m.MaxLogitRows()) {
		logits, err := h.m.Logits(block)
		if err != nil {
			h.t.Fatal(err)
		}
		for i := range block {
			out = append(out, slices.Clone(logits[i*h.m.cfg.Vocab:(i+1)*h.m.cfg.Vocab]))
		}
	}
	return out
}

func argmax(x []float32) int32 {
	best := 0
	for i := range x {
		if x[i] > x[best] {
			best = i
		}
	}
	return int32(best)
}

func read(t testing.TB, v device.View) []float32 {
	t.Helper()
	raw := make([]byte, 4*v.Rows*v.Cols)
	if err := v.Buf.Read(4*v.Offset, raw); err != nil {
		t.Fatal(err)
	}
	out := make([]float32, v.Rows*v.Cols)
	for i := range out {
		out[i] = math.Float32frombits(
			uint32(raw[4*i]) | uint32(raw[4*i+1])<<8 | uint32(raw[4*i+2])<<16 | uint32(raw[4*i+3])<<24)
	}
	return out
}

// modelFolders lists the golden models.
func modelFolders(t *testing.T) []string {
	t.Helper()
	root := goldens.Path(t, "serve", "models")
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, filepath.Join(root, e.Name()))
		}
	}
	if len(out) == 0 {
		t.Fatalf("no model in %s", root)
	}
	return out
}

// isMoE says whether the folder's configuration has experts, from the file itself.
func isMoE(t *testing.T, dir string) bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(text), "expert")
}

func TestGoldenModels(t *testing.T) { goldens.Each(t, testGoldenModels) }

func testGoldenModels(t *testing.T) {
	for _, dir := range modelFolders(t) {
		for _, config := range []string{"config.json", "config_v4.json"} {
			text, err := os.ReadFile(filepath.Join(dir, config))
			if err != nil {
				continue // not every folder has the old spelling
			}
			for name, dev := range floatDevices(t) {
				t.Run(filepath.Base(dir)+"/"+config+"/"+name, func(t *testing.T) {
					cfg, err := ParseConfig(text)
					if isMoE(t, dir) {
						if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "llama") {
							t.Fatalf("error %v, want one that lists what is supported", err)
						}
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					checkGolden(t, dir, cfg, dev(t))
				})
			}
		}
	}
}

func checkGolden(t *testing.T, dir string, cfg *Config, dev device.Device) {
	g, goldenDir := readGolden(t, dir)
	src, err := weights.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	seqs := goldenIDs(t, dir)
	context := longest(seqs) + len(g.GreedyIDs)
	m, err := Load(src, cfg, dev, Options{MaxBatchTokens: context, MaxLogitRows: 32})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	want, err := weights.OpenSafetensors(filepath.Join(goldenDir, "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	tol := 5 * g.Error
	hiddenTol := tol * max(1, g.MaxHidden/g.MaxLogit)
	for i, ids := range seqs {
		h := newHarness(t, m, dev, 16, context, tensor.F32)
		seq := fmt.Sprintf("seq%d.", i)
		want := func(name string) []float32 {
			v, _, err := want.Floats(seq + name)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		layers := 0
		var normed []float32
		h.m.tap = func(stage string, v device.View) {
			switch stage {
			case "embed":
				numtest.MaxAbs(t, seq+stage, read(t, v), want(stage), hiddenTol)
			case "layer":
				name := fmt.Sprintf("layer.%d", layers)
				numtest.MaxAbs(t, seq+name, read(t, v), want(name), hiddenTol)
				layers++
			case "norm":
				normed = append(normed, read(t, v)...)
			}
		}
		logits := h.forward(0, len(ids), ids...)
		h.m.tap = nil
		if layers != cfg.Layers {
			t.Errorf("saw %d layers, want %d", layers, cfg.Layers)
		}
		numtest.MaxAbs(t, seq+"norm", normed, want("norm"), hiddenTol)
		numtest.MaxAbs(t, seq+"logits", slices.Concat(logits...), want("logits"), tol)
		if i == g.From {
			checkGreedy(t, h, ids, g, 2*tol)
		}
	}
}

// checkGreedy continues with the cache, one token a step, up to a step whose best two logits are too close.
func checkGreedy(t *testing.T, h *harness, ids []int32, g *golden, tie float64) {
	t.Helper()
	all := slices.Clone(ids)
	logits := h.forward(0, len(all), all...)
	for i, want := range g.GreedyIDs {
		if i < len(g.Gaps) && g.Gaps[i] <= tie {
			return
		}
		next := argmax(logits[len(logits)-1])
		if next != want {
			t.Errorf("greedy ids %v and then %d, want %v", all[len(ids):], next, g.GreedyIDs)
			return
		}
		all = append(all, next)
		if len(all) == h.m.RopeSwitch()+1 { // the oracle has no cache, and the engine recomputes here too
			logits = h.forward(0, len(all), all...)
		} else {
			logits = h.forward(len(all)-1, len(all), next)
		}
	}
}
