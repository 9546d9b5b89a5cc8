package model

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/internal/numtest"
	"weft/runtime/device"
	"weft/runtime/tensor"
	"weft/runtime/weights"
)

// loadGolden loads a golden model, or skips one that is refused.
func loadGolden(t *testing.T, dir string, dev device.Device, opt Options) *decoder {
	t.Helper()
	if isMoE(t, dir) {
		t.Skip("a mixture of experts, which is unsupported")
	}
	m, err := Open(dir, dev, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m.(*decoder)
}

// goldenIDs returns the golden sequences of a folder.
func goldenIDs(t *testing.T, dir string) [][]int32 {
	t.Helper()
	g, goldenDir := readGolden(t, dir)
	src, err := weights.OpenSafetensors(filepath.Join(goldenDir, "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var out [][]int32
	for i := range g.Sequences {
		ids, _, err := src.Ints(fmt.Sprintf("seq%d.ids", i))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, ids)
	}
	return out
}

// longest returns the length of the longest sequence.
func longest(seqs [][]int32) int {
	n := 0
	for _, ids := range seqs {
		n = max(n, len(ids))
	}
	return n
}

// A token's logits are bitwise the same in one go, token by token, in chunks, among other sequences, and with other
// pages.
func TestBatchingChangesNothing(t *testing.T) {
	for _, dir := range modelFolders(t) {
		for name, open := range floatDevices(t) {
			for _, kv := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16} {
				if name == "ref" && (kv != tensor.F16 || testing.Short()) {
					continue // slow, and the same code
				}
				t.Run(filepath.Base(dir)+"/"+name+"/"+kv.String(), func(t *testing.T) {
					dev := open(t)
					seqs := goldenIDs(t, dir)
					m := loadGolden(t, dir, dev,
						Options{MaxBatchTokens: max(longest(seqs), maxCombined*len(seqs)),
							MaxLogitRows: maxCombined * len(seqs)})
					checkBatching(t, m, dev, seqs, kv)
				})
			}
		}
	}
}

func checkBatching(t *testing.T, m *decoder, dev device.Device, seqs [][]int32, kv tensor.DType) {
	want := make([][][]float32, len(seqs)) // [sequence][token]
	for s, ids := range seqs {
		want[s] = newHarness(t, m, dev, 16, len(ids), kv).forward(0, len(ids), ids...)
	}
	most := slices.IndexFunc(seqs, func(ids []int32) bool { return len(ids) == longest(seqs) })
	ids, wantLogits := seqs[most], want[most]
	for _, c := range []struct {
		name           string
		chunk, pageLen int
	}{{"token by token", 1, 16}, {"chunks of 7", 7, 32}, {"chunks of 16", 16, 16},
		{"whole, pages of 48", len(ids), 48}} {
		h := newHarness(t, m, dev, c.pageLen, len(ids), kv)
		at := 0
		for part := range slices.Chunk(ids, c.chunk) {
			for i, logits := range h.forward(at, len(ids), part...) {
				numtest.Equal(t, c.name, logits, wantLogits[at+i])
			}
			at += len(part)
		}
	}
	checkCombined(t, m, dev, seqs, want, kv)
}

// maxCombined bounds a sequence's tokens in one batch of checkCombined.
const maxCombined = 8

// checkCombined runs all sequences together, in random chunks, some of them empty, over one cache.
func checkCombined(t *testing.T, m *decoder, dev device.Device, seqs [][]int32, want [][][]float32, kv tensor.DType) {
	const pageLen = 16
	perSeq := (longest(seqs) + pageLen - 1) / pageLen
	c := m.KVConfig()
	c.PageLen, c.NumPages, c.DType = pageLen, perSeq*len(seqs), kv
	cache, err := dev.NewKVCache(c)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Free()
	rng := rand.New(rand.NewPCG(1, 2))
	pages := rng.Perm(c.NumPages)
	done := make([]int, len(seqs))
	left := func() (n int) {
		for s := range seqs {
			n += len(seqs[s]) - done[s]
		}
		return n
	}
	for left() > 0 {
		b := &Batch{Indptr: []int32{0}}
		var rows []int32
		var of [][2]int // sequence and position of each row
		for s, ids := range seqs {
			n := min(rng.IntN(maxCombined+1), len(ids)-done[s])
			for p := done[s]; p < done[s]+n; p++ {
				b.IDs, b.Positions = append(b.IDs, ids[p]), append(b.Positions, int32(p))
				if rng.IntN(2) == 0 {
					rows, of = append(rows, int32(len(b.IDs)-1)), append(of, [2]int{s, p})
				}
			}
			done[s] += n
			table := make([]int32, perSeq)
			for i := range table {
				table[i] = int32(pages[s*perSeq+i])
			}
			b.Indptr, b.Lens, b.PageTables = append(b.Indptr, int32(len(b.IDs))), append(b.Lens, int32(len(ids))),
				append(b.PageTables, table)
		}
		if err := m.Forward(b, cache); err != nil {
			t.Fatal(err)
		}
		logits, err := m.Logits(rows)
		if err != nil {
			t.Fatal(err)
		}
		for i, at := range of {
			numtest.Equal(t, "among others", logits[i*m.cfg.Vocab:(i+1)*m.cfg.Vocab], want[at[0]][at[1]])
		}
	}
}

// The weights stay resident in the file's data type.
func TestStoredLayoutStays(t *testing.T) {
	for _, dir := range modelFolders(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			dev := floatDevices(t)["ref"](t)
			m := loadGolden(t, dir, dev, Options{MaxBatchTokens: 1, MaxLogitRows: 1})
			text, err := os.ReadFile(filepath.Join(dir, "config.json"))
			if err != nil {
				t.Fatal(err)
			}
			layout := "f32"
			for dtype, name := range map[string]string{"bfloat16": "bf16", "float16": "f16"} {
				if strings.Contains(string(text), `"`+dtype+`"`) {
					layout = name
				}
			}
			c := m.cfg
			matrices := int64(c.Vocab * c.Hidden)
			if !c.Tied {
				matrices *= 2
			}
			matrices += int64(c.Layers * c.Hidden * (2*(c.Heads+c.KVHeads)*c.HeadDim + 3*c.FFN))
			size := map[string]int64{"f32": 4, "bf16": 2, "f16": 2}[layout]
			got := m.Bytes()
			if got[layout] < size*matrices || layout != "f32" && got["f32"] > size*matrices/10 {
				t.Errorf("resident %v, want %d bytes of %s and little else", got, size*matrices, layout)
			}
			var sum int64
			for _, n := range got {
				sum += n
			}
			if sum != dev.InUse(device.Weights) {
				t.Errorf("Bytes sums to %d, the device holds %d", sum, dev.InUse(device.Weights))
			}
		})
	}
}
