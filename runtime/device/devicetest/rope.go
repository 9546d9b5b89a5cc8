package devicetest

import (
	"math"

	"weft/quant"
	"weft/runtime/device"
	"weft/runtime/tensor"
)

// rounded returns x rounded to the type d of a cache.
func rounded(d tensor.DType, x float32) float32 {
	switch d {
	case tensor.F16:
		return quant.F16ToF32(quant.F32ToF16(x))
	case tensor.BF16:
		return quant.BF16ToF32(quant.F32ToBF16(x))
	}
	return x
}

func (b *bench) cache(c device.KVConfig) device.KVCache {
	b.Helper()
	kv, err := b.d.NewKVCache(c)
	b.must(err)
	b.own(kv)
	if kv.Config() != c || kv.Bytes() < int64(c.NumPages)*c.PageBytes() {
		b.Fatalf("cache of %+v reports %+v and %d bytes", c, kv.Config(), kv.Bytes())
	}
	return kv
}

// put writes keys and values as they are.
func (b *bench) put(kv device.KVCache, layer int, k, v []float32, slots []int32) {
	b.Helper()
	c := kv.Config()
	w := c.KVHeads * c.HeadDim
	b.ran(b.d.RoPE(device.RoPEArgs{K: b.view(k, len(slots), w), V: b.view(v, len(slots), w), HeadDim: c.HeadDim,
		Cache: kv, Layer: layer, Slots: slots}))
}

// spoil fills every slot of every layer with NaN, so that a read of a position that is not visible is detected.
func (b *bench) spoil(kv device.KVCache) {
	b.Helper()
	c := kv.Config()
	x := make([]float32, c.NumPages*c.PageLen*c.KVHeads*c.HeadDim)
	for i := range x {
		x[i] = float32(math.NaN())
	}
	slots := make([]int32, c.NumPages*c.PageLen)
	for i := range slots {
		slots[i] = int32(i)
	}
	for l := range c.Layers {
		b.put(kv, l, x, x, slots)
	}
}

// value reads the values at slots back through attention over one visible position, whose probability is exactly 1.
func (b *bench) value(kv device.KVCache, layer int, slots []int32) []float32 {
	b.Helper()
	c := kv.Config()
	w := c.KVHeads * c.HeadDim
	zero := make([]float32, w)
	var out []float32
	for _, s := range slots {
		last := s % int32(c.PageLen)
		table := []int32{s / int32(c.PageLen)}
		o := b.out(1, w)
		b.ran(b.d.Attention(device.AttentionArgs{
			Q: b.view(zero, 1, w), Out: o, HeadDim: c.HeadDim, Cache: kv, Layer: layer, Indptr: []int32{0, 1},
			Positions: []int32{last}, PageTables: [][]int32{table}, Scale: 1, Window: 1,
		}))
		out = append(out, b.values("value", o)...)
	}
	return out
}

func testRoPE(b *bench) {
	for _, c := range []struct{ heads, kvHeads, dim, rot, rows int }{
		{9, 3, 64, 64, 7}, {1, 1, 2, 2, 1}, {4, 2, 20, 12, 5}, {2, 1, 96, 72, 17}, {3, 3, 80, 20, 4}, {4, 1, 33, 32, 6},
		{2, 2, 8, 0, 3}, {2, 1, 64, 64, 0},
	} {
		for _, dtype := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16} {
			what := name("rope ", c, " ", dtype)
			kv := b.cache(device.KVConfig{Layers: 2, KVHeads: c.kvHeads, HeadDim: c.dim, PageLen: 16, NumPages: 3,
				DType: dtype})
			b.spoil(kv)
			q, k, v := b.normal(c.rows*c.heads*c.dim), b.normal(c.rows*c.kvHeads*c.dim),
				b.normal(c.rows*c.kvHeads*c.dim)
			const tableLen = 6
			var table []float32
			for range tableLen {
				angles := make([]float64, c.rot/2)
				for i := range angles {
					angles[i] = b.r.Float64() * 100
					table = append(table, float32(math.Cos(angles[i])))
				}
				for _, a := range angles {
					table = append(table, float32(math.Sin(a)))
				}
			}
			var rows, slots []int32
			for i, s := range b.r.Perm(3 * 16)[:c.rows] {
				slots = append(slots, int32(s))
				rows = append(rows, int32(b.r.IntN(tableLen+1))-1)
				if i == 0 {
					rows[0] = -1
				}
			}
			tb := b.buffer(device.Weights, table)
			run := func(begin, end int) (gotQ, gotK []float32) {
				n, qw, kw := end-begin, c.heads*c.dim, c.kvHeads*c.dim
				qv, kview, vv := b.view(q[begin*qw:end*qw], n, qw), b.view(k[begin*kw:end*kw], n, kw),
					b.view(v[begin*kw:end*kw], n, kw)
				b.ran(b.d.RoPE(device.RoPEArgs{
					Q: qv, K: kview, V: vv, HeadDim: c.dim, Rot: c.rot, Table: tb, TableRows: rows[begin:end],
					Cache: kv, Layer: 1, Slots: slots[begin:end],
				}))
				b.same(what+": v", b.values("v", vv), v[begin*kw:end*kw])
				return b.values("q", qv), b.values("k", kview)
			}
			gotQ, gotK := run(0, c.rows)
			for _, x := range []struct {
				name    string
				in, got []float32
				heads   int
			}{{"q", q, gotQ, c.heads}, {"k", k, gotK, c.kvHeads}} {
				want, tol := rotated(x.in, x.heads, c.dim, c.rot, table, rows)
				b.near(what+": "+x.name, x.got, want, tol)
				for i := range x.in {
					if tol[i] == 0 && x.got[i] != x.in[i] {
						b.Fatalf("%s: %s[%d] is not rotated and was changed", what, x.name, i)
					}
				}
			}
			var kept []float32
			for _, x := range v {
				kept = append(kept, rounded(dtype, x))
			}
			b.same(what+": values in the cache", b.value(kv, 1, slots), kept)
			for _, x := range b.value(kv, 0, slots) {
				if x == x {
					b.Fatalf("%s: layer 0 was written", what)
				}
			}
			for _, s := range b.splits(c.rows) {
				q, k := run(s[0], s[1])
				b.same(name(what, ": q rows ", s, " apart"), q, gotQ[s[0]*c.heads*c.dim:s[1]*c.heads*c.dim])
				b.same(name(what, ": k rows ", s, " apart"), k, gotK[s[0]*c.kvHeads*c.dim:s[1]*c.kvHeads*c.dim])
			}
			b.release()
		}
	}
}

// rotated is rotate-half in float64; elements that are not rotated have tolerance 0.
func rotated(x []float32, heads, dim, rot int, table []float32, rows []int32) (want, tol []float64) {
	want, tol = make([]float64, len(x)), make([]float64, len(x))
	for i := range x {
		t, c := i/(heads*dim), i%dim
		want[i] = float64(x[i])
		if rows[t] < 0 || c >= rot {
			continue
		}
		half := rot / 2
		angles := table[int(rows[t])*rot:][:rot]
		cos, sin := float64(angles[c%half]), float64(angles[half+c%half])
		other, sign := i+half, -1.0
		if c >= half {
			other, sign = i-half, 1
		}
		want[i] = float64(x[i])*cos + sign*float64(x[other])*sin
		tol[i] = 3 * 0x1p-24 * (math.Abs(float64(x[i])*cos) + math.Abs(float64(x[other])*sin))
	}
	return want, tol
}

func testCopyPages(b *bench) {
	for _, dtype := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16} {
		c := device.KVConfig{Layers: 3, KVHeads: 2, HeadDim: 20, PageLen: 32, NumPages: 5, DType: dtype}
		kv := b.cache(c)
		w := c.KVHeads * c.HeadDim
		n := c.NumPages * c.PageLen
		slots := make([]int32, n)
		for i := range slots {
			slots[i] = int32(i)
		}
		var want [][]float32
		for l := range c.Layers {
			v := b.normal(n * w)
			b.put(kv, l, v, v, slots)
			for i := range v {
				v[i] = rounded(dtype, v[i])
			}
			want = append(want, v)
		}
		b.must(b.d.CopyPages(kv, []int32{4, 0, 2}, []int32{1, 4, 2})) // in order: page 0 gets page 1's content too
		b.must(b.d.CopyPages(kv, nil, nil))
		b.must(b.d.Sync())
		page := c.PageLen * w
		probe := []int32{0, 5, 31, 32, 63, 64, 96, 128, 150, 159}
		for l := range c.Layers {
			copy(want[l][4*page:], want[l][page:2*page])
			copy(want[l][:page], want[l][page:2*page])
			var expect []float32
			for _, s := range probe {
				expect = append(expect, want[l][int(s)*w:][:w]...)
			}
			b.same(name("copied pages, layer ", l), b.value(kv, l, probe), expect)
		}
		b.release()
	}
}
