//go:build cgo

package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"weft/internal/numtest"
	"weft/runtime/device"
	"weft/runtime/tensor"
)

// attend writes the keys and values of one sequence with RoPE (Rot 0), chunk rows at a time, and returns the attention
// of all rows. The cache's unused slots hold NaN.
type attend struct {
	heads, kvHeads, dim, pageLen, window, chunk int
	rows                                        int // 0: 67
	softcap                                     float32
	dtype                                       tensor.DType
}

func (a attend) run(t testing.TB, d *cpuDevice, q, k, v []float32) []float32 {
	t.Helper()
	rows := len(q) / (a.heads * a.dim)
	pages := (rows + a.pageLen - 1) / a.pageLen
	kv, err := d.NewKVCache(device.KVConfig{Layers: 2, KVHeads: a.kvHeads, HeadDim: a.dim, PageLen: a.pageLen,
		NumPages: pages + 1, DType: a.dtype})
	if err != nil {
		t.Fatal(err)
	}
	defer kv.Free()
	whole := buffer{owned{mem: kv.(*cache).mem}}
	for i := range whole.Host() {
		whole.Host()[i] = 0xff
	}
	table := make([]int32, pages)
	for i := range table {
		table[i] = int32(pages - i) // page 0 stays unused
	}
	qb, kb, vb, out := upload(t, d, q), upload(t, d, k), upload(t, d, v), upload(t, d, make([]float32, len(q)))
	part := func(b device.Buffer, begin, end, cols int) device.View {
		x := view(b, end-begin, cols)
		x.Offset = int64(begin * cols)
		return x
	}
	for begin := 0; begin < rows; begin += a.chunk {
		end := min(rows, begin+a.chunk)
		var slots, positions []int32
		for p := begin; p < end; p++ {
			slots = append(slots, table[p/a.pageLen]*int32(a.pageLen)+int32(p%a.pageLen))
			positions = append(positions, int32(p))
		}
		if err := d.RoPE(device.RoPEArgs{K: part(kb, begin, end, a.kvHeads*a.dim),
			V: part(vb, begin, end, a.kvHeads*a.dim), HeadDim: a.dim, Cache: kv, Layer: 1, Slots: slots}); err != nil {
			t.Fatal(err)
		}
		if err := d.Attention(device.AttentionArgs{
			Q: part(qb, begin, end, a.heads*a.dim), Out: part(out, begin, end, a.heads*a.dim), HeadDim: a.dim,
			Cache: kv, Layer: 1,
			Indptr: []int32{0, 0, int32(end - begin)}, Positions: positions, PageTables: [][]int32{nil, table},
			Scale: 0.2, Softcap: a.softcap, Window: a.window,
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	return append([]float32(nil), host(out)...)
}

// reference is attention in float64.
func (a attend) reference(q, k, v []float32) []float64 {
	rows := len(q) / (a.heads * a.dim)
	out := make([]float64, len(q))
	for i := range rows {
		for h := range a.heads {
			kvHead := h / (a.heads / a.kvHeads)
			var p []float64
			first := 0
			if a.window > 0 {
				first = max(0, i-a.window+1)
			}
			var sum float64
			for j := first; j <= i; j++ {
				var s float64
				for c := range a.dim {
					s += float64(q[(i*a.heads+h)*a.dim+c]) * float64(k[(j*a.kvHeads+kvHead)*a.dim+c])
				}
				s *= float64(float32(0.2))
				if a.softcap > 0 {
					s = float64(a.softcap) * math.Tanh(s/float64(a.softcap))
				}
				p = append(p, math.Exp(s))
				sum += p[len(p)-1]
			}
			for c := range a.dim {
				var o float64
				for j, w := range p {
					o += w * float64(v[((first+j)*a.kvHeads+kvHead)*a.dim+c])
				}
				out[(i*a.heads+h)*a.dim+c] = o / sum
			}
		}
	}
	return out
}

// Against float64, and the same bits for every page length, chunk, number of threads and instruction set.
func TestAttention(t *testing.T) {
	for i, a := range []attend{
		{heads: 3, kvHeads: 1, dim: 16, dtype: tensor.F32, rows: 700}, // three key blocks
		{heads: 2, kvHeads: 2, dim: 20, dtype: tensor.F16, rows: 600, window: 300},
		{heads: 2, kvHeads: 1, dim: 8, dtype: tensor.F32, rows: 530, window: 5, softcap: 3},
		{heads: 9, kvHeads: 3, dim: 64, dtype: tensor.F32},
		{heads: 4, kvHeads: 1, dim: 20, dtype: tensor.F32, window: 7, softcap: 3},
		{heads: 5, kvHeads: 5, dim: 33, dtype: tensor.F16, softcap: 50},
		{heads: 20, kvHeads: 1, dim: 16, dtype: tensor.BF16, window: 20},
		{heads: 8, kvHeads: 2, dim: 128, dtype: tensor.F16},
	} {
		t.Run(fmt.Sprintf("%+v", a), func(t *testing.T) {
			r := rand.New(rand.NewPCG(4, uint64(i)))
			rows := max(a.rows, 67)
			q, k, v := random(r, rows*a.heads*a.dim), random(r, rows*a.kvHeads*a.dim), random(r, rows*a.kvHeads*a.dim)
			tolerance := map[tensor.DType]float64{tensor.F32: 1e-5, tensor.F16: 1e-2, tensor.BF16: 8e-2}[a.dtype]
			var first []float32
			for _, isa := range ISAs() {
				for j, c := range [][3]int{{16, 67, 1}, {32, 1, 2}, {48, 17, 3}} {
					a.pageLen, a.chunk = c[0], c[1]
					if c[1] == 67 {
						a.chunk = rows
					}
					d := open(t, Options{ISA: isa, Threads: c[2]})
					got := a.run(t, d, q, k, v)
					if j == 0 {
						want := a.reference(q, k, v)
						for e := range want {
							if !(math.Abs(float64(got[e])-want[e]) < tolerance) {
								t.Fatalf("%s: element %d is %v, want %v", isa, e, got[e], want[e])
							}
						}
					}
					if first == nil {
						first = got
					}
					numtest.Equal(t, fmt.Sprintf("%s %v", isa, c), got, first)
				}
			}
		})
	}
}
