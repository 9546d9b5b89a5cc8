package model

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"weft/internal/numtest"
	"weft/quant"
	"weft/runtime/device"
	"weft/runtime/lora"
	"weft/runtime/tensor"
)

func loadAdapter(t testing.TB, dev device.Device, a *lora.Adapter) *lora.Weights {
	t.Helper()
	w, err := lora.Load(dev, a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Free)
	return w
}

// randomMatrix returns a random LoRA matrix of a data type, and its values rounded to the type.
func randomMatrix(rng *rand.Rand, dtype tensor.DType, rows, cols int) (lora.Matrix, []float32) {
	f := lora.Matrix{DType: dtype, Rows: rows, Cols: cols}
	values := make([]float32, rows*cols)
	for i := range values {
		v := float32(rng.NormFloat64() / 4)
		switch dtype {
		case tensor.F16:
			h := quant.F32ToF16(v)
			f.Data, v = binary.LittleEndian.AppendUint16(f.Data, h), quant.F16ToF32(h)
		case tensor.BF16:
			h := quant.F32ToBF16(v)
			f.Data, v = binary.LittleEndian.AppendUint16(f.Data, h), quant.BF16ToF32(h)
		default:
			f.Data = append(f.Data, floatBytes([]float32{v})...)
		}
		values[i] = v
	}
	return f, values
}

// randomModule makes a random module and merges it into the tensor key [out, in] of src. Where the tensor is an
// embedding [V, H], A is [R, V] and B [H, R].
func randomModule(rng *rand.Rand, src memory, key string, dtype tensor.DType, rank int, embedding,
	dora bool) lora.Module {
	w := src[key]
	out, in := w.shape[0], w.shape[1]
	if embedding {
		out, in = in, out
	}
	m := lora.Module{Scale: 0.5}
	var a, b []float32
	m.A, a = randomMatrix(rng, dtype, rank, in)
	m.B, b = randomMatrix(rng, dtype, out, rank)
	if dora {
		_, m.Gain = randomMatrix(rng, tensor.F32, 1, out)
		for i := range m.Gain {
			m.Gain[i] = 1 + m.Gain[i]/4
		}
	}
	w.values = slices.Clone(w.values)
	for o := range out {
		for i := range in {
			at := o*in + i
			if embedding {
				at = i*out + o
			}
			sum := 0.0
			for r := range rank {
				sum += float64(b[o*rank+r]) * float64(a[r*in+i])
			}
			w.values[at] += float32(0.5 * sum)
			if dora {
				w.values[at] *= m.Gain[o]
			}
		}
	}
	src[key] = w
	return m
}

var targetNames = [lora.NumTargets]string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
	"self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}

// kinds of adapters in these tests.
var adapterKinds = []string{"f32", "f16", "bf16", "dora", "embedding", "tables", "head"}

// adapterOf returns an adapter of a kind, with random ranks, and merges it into merged.
func adapterOf(rng *rand.Rand, cfg *Config, merged memory, kind string) *lora.Adapter {
	a := &lora.Adapter{Layers: make([][lora.NumTargets]lora.Module, cfg.Layers)}
	dtype := map[string]tensor.DType{"f16": tensor.F16, "bf16": tensor.BF16, "embedding": tensor.F16}[kind]
	if dtype == tensor.Invalid {
		dtype = tensor.F32
	}
	for l := range cfg.Layers {
		for target, name := range targetNames {
			if target == int(lora.OProj) && l == 0 || (kind == "tables" || kind == "head") && target > 0 {
				continue // untouched
			}
			a.Layers[l][target] = randomModule(rng, merged, fmt.Sprintf("model.layers.%d.%s.weight", l, name), dtype,
				1+(target*5+l+len(kind))%19, false, kind == "dora")
		}
	}
	table := func(key string) *quant.Matrix {
		w := merged[key]
		f, values := randomMatrix(rng, tensor.BF16, w.shape[0], w.shape[1])
		merged[key] = memoryTensor{w.shape, values}
		return &quant.Matrix{Layout: quant.BF16, Rows: f.Rows, Cols: f.Cols, Data: f.Data}
	}
	switch kind {
	case "embedding":
		a.Embed = randomModule(rng, merged, "model.embed_tokens.weight", dtype, 5, true, false)
	case "head":
		a.Head = randomModule(rng, merged, "lm_head.weight", dtype, 3, false, true)
	case "tables":
		a.EmbedTable, a.HeadTable = table("model.embed_tokens.weight"), table("lm_head.weight")
	}
	return a
}

// Each kind of adapter gives the logits of the model with the adapter merged into its weights.
func TestLoRAEqualsMerged(t *testing.T) {
	ids := []int32{7, 100, 3, 9}
	for name, open := range floatDevices(t) {
		for _, kind := range adapterKinds {
			for _, scale := range []float32{1, 12} {
				t.Run(fmt.Sprintf("%s/%s/embed scale %v", name, kind, scale), func(t *testing.T) {
					dev := open(t)
					merged, cfg := tiny(t)
					cfg.EmbedScale = scale
					plain := loadModel(t, dev, merged, cfg)
					adapter := loadAdapter(t, dev, adapterOf(rand.New(rand.NewPCG(5, 6)), cfg, merged, kind))
					if err := CheckAdapter(cfg, adapter); err != nil {
						t.Fatal(err)
					}
					want := newHarness(t, loadModel(t, dev, merged, cfg), dev, 16, 16, tensor.F32).forward(0, 4, ids...)
					base := newHarness(t, plain, dev, 16, 16, tensor.F32).forward(0, 4, ids...)

					b := &Batch{
						IDs: slices.Concat(ids, ids), Positions: []int32{0, 1, 2, 3, 0, 1, 2, 3},
						Indptr: []int32{0, 4, 8}, Lens: []int32{4, 4},
						PageTables: [][]int32{{1}, {0}},
						LoRA:       []lora.Segment{{Begin: 4, End: 8, Scale: 1, Weights: adapter}},
					}
					h := newHarness(t, plain, dev, 16, 32, tensor.F32)
					if err := plain.Forward(b, h.cache); err != nil {
						t.Fatal(err)
					}
					for i := range ids {
						logits, err := plain.Logits([]int32{int32(4 + i), int32(i)})
						if err != nil {
							t.Fatal(err)
						}
						numtest.Equal(t, "sequence without adapter", logits[cfg.Vocab:], base[i])
						numtest.MaxAbs(t, "adapter", logits[:cfg.Vocab], want[i], 2e-4)
						if numtest.RelRMS(base[i], want[i]) < 0.1 {
							t.Error("the adapter changes next to nothing: the comparison proves nothing")
						}
					}
				})
			}
		}
	}
}

func loadModel(t *testing.T, dev device.Device, src memory, cfg *Config) Model {
	t.Helper()
	m, err := Load(src, cfg, dev, Options{MaxBatchTokens: 128, MaxLogitRows: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// A combination of adapters equals the model with each merged in at its scale.
func TestCombinationEqualsMerged(t *testing.T) {
	ids := []int32{7, 100, 3, 9}
	for name, open := range floatDevices(t) {
		t.Run(name, func(t *testing.T) {
			dev := open(t)
			src, cfg := tiny(t)
			plain := loadModel(t, dev, src, cfg)
			merged := src
			rng := rand.New(rand.NewPCG(8, 8))
			var segments []lora.Segment
			for i, kind := range []string{"f32", "embedding", "bf16"} {
				scale := []float32{0.5, -1, 1}[i]
				one := maps.Clone(merged)
				segments = append(segments,
					lora.Segment{Begin: 0, End: 4, Scale: scale,
						Weights: loadAdapter(t, dev, adapterOf(rng, cfg, one, kind))})
				merged = addScaled(merged, one, scale)
			}
			want := newHarness(t, loadModel(t, dev, merged, cfg), dev, 16, 16, tensor.F32).forward(0, 4, ids...)
			b := &Batch{IDs: ids, Positions: []int32{0, 1, 2, 3}, Indptr: []int32{0, 4}, Lens: []int32{4},
				PageTables: [][]int32{{0}}, LoRA: segments}
			h := newHarness(t, plain, dev, 16, 16, tensor.F32)
			if err := plain.Forward(b, h.cache); err != nil {
				t.Fatal(err)
			}
			logits, err := plain.Logits([]int32{0, 1, 2, 3})
			if err != nil {
				t.Fatal(err)
			}
			for i := range ids {
				numtest.MaxAbs(t, "combination", logits[i*cfg.Vocab:(i+1)*cfg.Vocab], want[i], 5e-4)
			}
		})
	}
}

// addScaled returns before plus scale times what merging an adapter has changed.
func addScaled(before, merged memory, scale float32) memory {
	out := memory{}
	for k, v := range merged {
		values := slices.Clone(v.values)
		for i, x := range before[k].values {
			values[i] = x + scale*(values[i]-x)
		}
		out[k] = memoryTensor{v.shape, values}
	}
	return out
}

// A sequence's logits with its adapter are bitwise the same alone and in a batch, in chunks of any length, whatever
// adapters the other sequences use, and at any scales of the same adapter.
func TestAdaptersChangeOnlyTheirOwn(t *testing.T) {
	for name, open := range floatDevices(t) {
		t.Run(name, func(t *testing.T) {
			dev := open(t)
			src, cfg := tiny(t)
			m := loadModel(t, dev, src, cfg).(*decoder)
			rng := rand.New(rand.NewPCG(11, 12))
			uses := []lora.Use{{}} // the base
			for _, kind := range adapterKinds {
				w := loadAdapter(t, dev, adapterOf(rng, cfg, maps.Clone(src), kind))
				uses = append(uses, lora.Use{Weights: w, Scale: 1})
				if w.Combinable() == nil {
					uses = append(uses, lora.Use{Weights: w, Scale: 0.5})
				}
			}
			const length = 20
			var seqs [][]int32
			var want [][][]float32
			for _, use := range uses {
				ids := make([]int32, length)
				for i := range ids {
					ids[i] = rng.Int32N(int32(cfg.Vocab))
				}
				seqs = append(seqs, ids)
				want = append(want, aloneWith(t, m, dev, ids, use))
			}
			for range 4 {
				checkCombination(t, m, dev, rng, seqs, uses, want)
			}
		})
	}
}

// aloneWith returns the logits of all tokens of a sequence that is computed token by token.
func aloneWith(t *testing.T, m *decoder, dev device.Device, ids []int32, use lora.Use) (out [][]float32) {
	t.Helper()
	h := newHarness(t, m, dev, 16, len(ids), tensor.F32)
	for i, id := range ids {
		b := &Batch{IDs: []int32{id}, Positions: []int32{int32(i)}, Indptr: []int32{0, 1},
			Lens: []int32{int32(len(ids))}, PageTables: [][]int32{h.pages}}
		if use.Weights != nil {
			b.LoRA = []lora.Segment{{Begin: 0, End: 1, Scale: use.Scale, Weights: use.Weights}}
		}
		if err := m.Forward(b, h.cache); err != nil {
			t.Fatal(err)
		}
		logits, err := m.Logits([]int32{0})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, slices.Clone(logits))
	}
	return out
}

func checkCombination(t *testing.T, m *decoder, dev device.Device, rng *rand.Rand, seqs [][]int32,
	uses []lora.Use, want [][][]float32) {
	t.Helper()
	h := newHarness(t, m, dev, 16, 32*len(seqs), tensor.F32)
	done := make([]int, len(seqs))
	for left := true; left; {
		left = false
		b := &Batch{Indptr: []int32{0}}
		var rows []int32
		var of [][2]int
		for _, s := range rng.Perm(len(seqs)) {
			n := min(rng.IntN(16), len(seqs[s])-done[s])
			begin := len(b.IDs)
			for range n {
				b.IDs, b.Positions = append(b.IDs, seqs[s][done[s]]), append(b.Positions, int32(done[s]))
				if len(rows) < m.MaxLogitRows() && rng.IntN(2) == 0 {
					at := rng.IntN(len(rows) + 1) // in any order
					rows, of = slices.Insert(rows, at, int32(len(b.IDs)-1)), slices.Insert(of, at, [2]int{s, done[s]})
				}
				done[s]++
			}
			left = left || done[s] < len(seqs[s])
			b.Indptr, b.Lens, b.PageTables = append(b.Indptr, int32(len(b.IDs))), append(b.Lens, int32(len(seqs[s]))),
				append(b.PageTables, h.pages[2*s:2*s+2])
			if u := uses[s]; u.Weights != nil && n > 0 {
				b.LoRA = append(b.LoRA, lora.Segment{Begin: begin, End: len(b.IDs), Scale: u.Scale, Weights: u.Weights})
			}
		}
		if err := m.Forward(b, h.cache); err != nil {
			t.Fatal(err)
		}
		logits, err := m.Logits(rows)
		if err != nil {
			t.Fatal(err)
		}
		for i, at := range of {
			numtest.Equal(t, fmt.Sprintf("sequence %d, token %d", at[0], at[1]),
				logits[i*m.cfg.Vocab:(i+1)*m.cfg.Vocab], want[at[0]][at[1]])
		}
	}
}

// CheckAdapter names what does not fit.
func TestCheckAdapter(t *testing.T) {
	dev := floatDevices(t)["ref"](t)
	src, cfg := tiny(t)
	rng := rand.New(rand.NewPCG(1, 1))
	good := loadAdapter(t, dev, adapterOf(rng, cfg, maps.Clone(src), "embedding"))
	tables := loadAdapter(t, dev, adapterOf(rng, cfg, maps.Clone(src), "tables"))
	for name, spoil := range map[string]func(w *lora.Weights){
		"layers":            func(w *lora.Weights) { w.Layers = w.Layers[:1] },
		"in":                func(w *lora.Weights) { w.Layers[1][lora.DownProj].In++ },
		"out":               func(w *lora.Weights) { w.Layers[0][lora.QProj].Out++ },
		"embedding":         func(w *lora.Weights) { w.Embed.M.Out++ },
		"embedding's table": func(w *lora.Weights) { w.Embed.Table = nil },
		"embedding's rank":  func(w *lora.Weights) { w.Embed.M.Rank = cfg.FFN + 1 },
		"table":             func(w *lora.Weights) { w.HeadTable = good.Embed.Table },
		"head":              func(w *lora.Weights) { w.Head = w.Layers[0][lora.QProj] },
	} {
		t.Run(name, func(t *testing.T) {
			w := &lora.Weights{Layers: slices.Clone(good.Layers), Embed: good.Embed, EmbedTable: tables.EmbedTable,
				HeadTable: tables.HeadTable}
			if err := CheckAdapter(cfg, w); err != nil {
				t.Fatal(err)
			}
			spoil(w)
			if err := CheckAdapter(cfg, w); !errors.Is(err, device.ErrShape) {
				t.Errorf("%v, want ErrShape", err)
			}
		})
	}
}
