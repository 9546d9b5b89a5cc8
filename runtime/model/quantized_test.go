package model

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"weft/internal/goldens"
	"weft/internal/numtest"
	"weft/quant"
	"weft/runtime/tensor"
	"weft/runtime/weights"
)

// reference is the content of a quantized model's golden: a batch of sequences and the last logits of each, in float64
// on the dequantized weights.
type reference struct {
	seqs   [][]int32
	logits [][]float32
	file   *weights.Safetensors
}

func readReference(t *testing.T, elem ...string) reference {
	t.Helper()
	f, err := weights.OpenSafetensors(goldens.Path(t, append([]string{"train"}, elem...)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	ints := func(name string) []int32 {
		v, _, err := f.Ints(name)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	ids, offsets := ints("ids"), ints("seq_offsets")
	logits, shape, err := f.Floats("logits_last")
	if err != nil || len(offsets) != shape[0]+1 {
		t.Fatalf("%d sequences, logits %v: %v", len(offsets)-1, shape, err)
	}
	r := reference{file: f}
	for s := range shape[0] {
		r.seqs = append(r.seqs, ids[offsets[s]:offsets[s+1]])
		r.logits = append(r.logits, logits[s*shape[1]:(s+1)*shape[1]])
	}
	return r
}

// checkWeights compares the weights that a golden holds dequantized, bit for bit, or after rounding where it holds them
// in F16.
func checkWeights(t *testing.T, r reference, src weights.Source) (checked int) {
	t.Helper()
	for _, name := range r.file.Names() {
		const prefix = "dequantized."
		if len(name) < len(prefix) || name[:len(prefix)] != prefix {
			continue
		}
		want, _, err := r.file.Floats(name)
		if err != nil {
			t.Fatal(err)
		}
		m, err := src.Matrix(name[len(prefix):])
		if err != nil {
			t.Fatal(err)
		}
		got := make([]float32, m.Rows*m.Cols)
		for row := range m.Rows {
			m.Row(row, got[row*m.Cols:])
		}
		if info, _ := r.file.Info(name); info.Format == "F16" {
			for i, v := range got {
				got[i] = quant.F16ToF32(quant.F32ToF16(v))
			}
		}
		numtest.Equal(t, name, got, want)
		checked++
	}
	return checked
}

// Checkpoints that others quantized open as they are: weights bit for bit, logits within the goldens' tolerance (1e-5
// of the largest). AWQ's reference rounds each weight to binary16, which weft does not (a difference of 1e-3): it is
// compared with weights so rounded.
func TestQuantizedCheckpoints(t *testing.T) { goldens.Each(t, testQuantizedCheckpoints) }

func testQuantizedCheckpoints(t *testing.T) {
	for _, c := range []struct {
		dir, reference []string
		layout         quant.Layout
		dequantized    int
		tol            float64
	}{
		{[]string{"C_qlora", "checkpoints", "nf4_dq"},
			[]string{"C_qlora", "checkpoints", "nf4_dq.reference.safetensors"}, quant.Lookup4, 1, 1e-5},
		{[]string{"C_qlora", "checkpoints", "nf4"}, []string{"C_qlora", "checkpoints", "nf4.reference.safetensors"},
			quant.Lookup4, 1, 1e-5},
		{[]string{"C_qlora", "checkpoints", "fp4"}, []string{"C_qlora", "checkpoints", "fp4.reference.safetensors"},
			quant.Lookup4, 0, 1e-5},
		{[]string{"E_export", "awq_checkpoint"}, []string{"E_export", "awq_checkpoint", "reference.safetensors"},
			quant.Int4, 1, 1e-5},
	} {
		dir, r := goldens.Path(t, append([]string{"train"}, c.dir...)...), readReference(t, c.reference...)
		src, err := weights.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		if m, err := src.Matrix("model.layers.1.mlp.down_proj.weight"); err != nil || m.Layout != c.layout {
			t.Fatalf("%s: %v", dir, err)
		}
		if n := checkWeights(t, r, src); n < c.dequantized {
			t.Errorf("%s: %d weights compared, want %d", dir, n, c.dequantized)
		}
		text, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := ParseConfig(text)
		if err != nil {
			t.Fatal(err)
		}
		for name, dev := range floatDevices(t) {
			t.Run(filepath.Base(dir)+"/"+name, func(t *testing.T) {
				d := dev(t)
				m, err := Load(rounded{src}, cfg, d, Options{MaxBatchTokens: longest(r.seqs), MaxLogitRows: 64})
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				for s, ids := range r.seqs {
					h := newHarness(t, m, d, 16, len(ids), tensor.F32)
					got := h.forward(0, len(ids), ids...)
					numtest.MaxAbs(t, fmt.Sprintf("sequence %d", s), got[len(got)-1], r.logits[s],
						c.tol*float64(slices.Max(r.logits[s])))
				}
			})
		}
	}
}

// rounded is a source whose Int4 weights are rounded to binary16.
type rounded struct{ weights.Source }

func (r rounded) Matrix(name string) (*quant.Matrix, error) {
	m, err := r.Source.Matrix(name)
	if err != nil || m.Layout != quant.Int4 {
		return m, err
	}
	out, row := &quant.Matrix{Layout: quant.F16, Rows: m.Rows, Cols: m.Cols}, make([]float32, m.Cols)
	for i := range m.Rows {
		m.Row(i, row)
		for _, v := range row {
			out.Data = binary.LittleEndian.AppendUint16(out.Data, quant.F32ToF16(v))
		}
	}
	return out, nil
}

// QLoRA's base: stories260K with every projection in NF4 with double quantization. Its rows are no multiple of the
// block.
func TestFourBitEqualsGolden(t *testing.T) { goldens.Each(t, testFourBitEqualsGolden) }

func testFourBitEqualsGolden(t *testing.T) {
	dir, r := goldens.Shared(t, "data", "weights", "stories260K", "hf"),
		readReference(t, "C_qlora", "stories260K_logits.safetensors")
	plain, err := weights.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	src := &weights.FourBit{Source: plain, Kind: quant.NF4, BlockLen: 64, Double: true}
	want, err := weights.OpenSafetensors(goldens.Path(t, "train", "C_qlora",
		"stories260K_nf4dq_weights.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	for _, name := range want.Names() {
		m, err := src.Matrix(name)
		if err != nil {
			t.Fatal(err)
		}
		w, _, err := want.Floats(name)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]float32, len(w))
		for row := range m.Rows {
			m.Row(row, got[row*m.Cols:])
		}
		numtest.MaxAbs(t, name, got, w, 1e-6*float64(slices.Max(w))) // the mean of the absmaxes may be an ulp off
		if m.Layout != quant.Lookup4 {
			t.Errorf("%s is %v", name, m.Layout)
		}
	}
	wrap := func(s weights.Source) weights.Source {
		return &weights.FourBit{Source: s, Kind: quant.NF4, BlockLen: 64, Double: true}
	}
	for name, dev := range floatDevices(t) {
		t.Run(name, func(t *testing.T) {
			d := dev(t)
			m, err := Open(dir, d, Options{MaxBatchTokens: longest(r.seqs), MaxLogitRows: 64, Wrap: wrap})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			for s, ids := range r.seqs {
				h := newHarness(t, m, d, 16, len(ids), tensor.F32)
				got := h.forward(0, len(ids), ids...)
				numtest.MaxAbs(t, fmt.Sprintf("sequence %d", s), got[len(got)-1], r.logits[s],
					1e-5*float64(slices.Max(r.logits[s])))
			}
		})
	}
}
