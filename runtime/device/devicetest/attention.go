package devicetest

import (
	"math"

	"weft/runtime/device"
	"weft/runtime/tensor"
)

// attentionCase is a set of sequences with all their queries; past of them are in the cache before the first step.
type attentionCase struct {
	heads, kvHeads, dim int
	dtype               tensor.DType
	window              int
	softcap             float32
	lens                []int
}

var attentionCases = []attentionCase{
	{heads: 9, kvHeads: 3, dim: 64, dtype: tensor.F32, lens: []int{0, 1, 37, 0, 18}},
	{heads: 9, kvHeads: 3, dim: 64, dtype: tensor.F16, lens: []int{16, 5, 33}},
	{heads: 9, kvHeads: 3, dim: 64, dtype: tensor.BF16, lens: []int{17, 0, 40}},
	{heads: 1, kvHeads: 1, dim: 8, dtype: tensor.F32, lens: []int{150, 2}},
	{heads: 4, kvHeads: 2, dim: 8, dtype: tensor.F16, window: 5, lens: []int{70, 31}},
	{heads: 3, kvHeads: 1, dim: 80, dtype: tensor.F16, softcap: 2, lens: []int{15, 20}},
	{heads: 4, kvHeads: 1, dim: 96, dtype: tensor.BF16, window: 16, lens: []int{35}},
	{heads: 5, kvHeads: 1, dim: 8, dtype: tensor.BF16, window: 1, lens: []int{20, 3}},
	{heads: 6, kvHeads: 1, dim: 20, dtype: tensor.F32, window: 40, softcap: 50, lens: []int{90, 0, 0}},
	{heads: 7, kvHeads: 1, dim: 33, dtype: tensor.F16, lens: []int{19, 19}},
	{heads: 8, kvHeads: 1, dim: 128, dtype: tensor.F32, lens: []int{21}},
	{heads: 16, kvHeads: 8, dim: 128, dtype: tensor.F16, lens: []int{17}},
	{heads: 9, kvHeads: 1, dim: 16, dtype: tensor.F16, lens: []int{34, 1, 7}},
	{heads: 4, kvHeads: 2, dim: 256, dtype: tensor.F16, window: 10, softcap: 50, lens: []int{18, 4}},
	{heads: 2, kvHeads: 2, dim: 1, dtype: tensor.F32, lens: []int{18}},
	{heads: 2, kvHeads: 1, dim: 64, dtype: tensor.F32, lens: nil},
}

const attentionScale = float32(0.3)

func testAttention(b *bench) {
	for _, c := range attentionCases {
		b.sub(name(c.heads, "over", c.kvHeads, "x", c.dim, "-", c.dtype, "-window", c.window, "-cap", c.softcap),
			func(b *bench) { b.attentionCase(c) })
	}
}

// sequenceKV is one sequence's projections, [len, heads*dim] and [len, kvHeads*dim].
type sequenceKV struct{ q, k, v []float32 }

func (b *bench) attentionCase(c attentionCase) {
	var seqs []sequenceKV
	for _, n := range c.lens {
		seqs = append(seqs,
			sequenceKV{b.normal(n * c.heads * c.dim), b.normal(n * c.kvHeads * c.dim), b.normal(n * c.kvHeads * c.dim)})
	}
	first := b.attend(c, seqs, 16, 1<<30)
	for i, s := range seqs {
		want, tol := b.dense(c, s)
		b.near(name("sequence ", i), first[i], want, tol)
	}
	for _, w := range []struct{ pageLen, chunk int }{{16, 1}, {16, 7}, {32, 1 << 30}, {64, 13}, {48, 16}} {
		for i, got := range b.attend(c, seqs, w.pageLen, w.chunk) {
			b.same(name("sequence ", i, " with pages of ", w.pageLen, " in chunks of ", w.chunk), got, first[i])
		}
	}
	for i := range seqs {
		b.same(name("sequence ", i, " without the others"), b.attend(c, seqs[i:i+1], 16, 1<<30)[0], first[i])
	}
}

// attend runs the sequences together, at most chunk tokens of each a step, over shuffled pages of a cache whose other
// slots are NaN.
func (b *bench) attend(c attentionCase, seqs []sequenceKV, pageLen, chunk int) [][]float32 {
	b.Helper()
	qw, kw := c.heads*c.dim, c.kvHeads*c.dim
	lens, longest, pages := make([]int, len(seqs)), 0, 2
	for i, s := range seqs {
		lens[i] = len(s.q) / qw
		longest = max(longest, lens[i])
		pages += (lens[i] + pageLen - 1) / pageLen
	}
	const layer = 1
	kv := b.cache(device.KVConfig{Layers: 2, KVHeads: c.kvHeads, HeadDim: c.dim, PageLen: pageLen, NumPages: pages,
		DType: c.dtype})
	b.spoil(kv)
	free := b.r.Perm(pages)
	tables := make([][]int32, len(seqs))
	for i, n := range lens {
		for range (n + pageLen - 1) / pageLen {
			tables[i] = append(tables[i], int32(free[0]))
			free = free[1:]
		}
	}
	results := make([][]float32, len(seqs))
	for begin := 0; begin == 0 || begin < longest; begin += min(chunk, longest+1) {
		var q, k, v []float32
		var positions, slots []int32
		indptr := []int32{0}
		for i, s := range seqs {
			lo, hi := min(begin, lens[i]), min(begin+chunk, lens[i])
			q, k, v = append(q, s.q[lo*qw:hi*qw]...), append(k, s.k[lo*kw:hi*kw]...), append(v, s.v[lo*kw:hi*kw]...)
			for p := lo; p < hi; p++ {
				positions = append(positions, int32(p))
				slots = append(slots, tables[i][p/pageLen]*int32(pageLen)+int32(p%pageLen))
			}
			indptr = append(indptr, int32(len(positions)))
		}
		b.put(kv, layer, k, v, slots)
		qv, out := b.view(q, len(positions), qw), b.out(len(positions), qw)
		b.ran(b.d.Attention(device.AttentionArgs{
			Q: qv, Out: out, HeadDim: c.dim, Cache: kv, Layer: layer, Indptr: indptr, Positions: positions,
			PageTables: tables,
			Scale:      attentionScale, Softcap: c.softcap, Window: c.window,
		}))
		b.same("attention: q", b.values("q", qv), q)
		got := b.values("attention", out)
		for i := range seqs {
			results[i] = append(results[i], got[int(indptr[i])*qw:int(indptr[i+1])*qw]...)
		}
	}
	b.release()
	return results
}

// dense is attention without pages in float64 over keys and values rounded to the cache's type. The tolerance: an error
// d of the scores multiplies each weight by exp(2d) at most, sums of n terms add n*u each.
func (b *bench) dense(c attentionCase, s sequenceKV) (want, tol []float64) {
	qw, kw := c.heads*c.dim, c.kvHeads*c.dim
	n := len(s.q) / qw
	k, v := make([]float64, len(s.k)), make([]float64, len(s.v))
	for i := range k {
		k[i], v[i] = float64(rounded(c.dtype, s.k[i])), float64(rounded(c.dtype, s.v[i]))
	}
	for i := range n {
		for h := range c.heads {
			q := s.q[i*qw+h*c.dim:][:c.dim]
			at := h / (c.heads / c.kvHeads) * c.dim
			var scores []float64
			var keys []int
			largest, off := math.Inf(-1), 0.0
			for j := 0; j <= i; j++ {
				if c.window > 0 && i-j >= c.window {
					continue
				}
				var sum, abs float64
				for e := range q {
					p := float64(q[e]) * k[j*kw+at+e]
					sum += p
					abs += math.Abs(p)
				}
				score := sum * float64(attentionScale)
				off = math.Max(off, float64(c.dim+2)*b.o.Unit*abs*float64(attentionScale))
				if c.softcap > 0 {
					limit := float64(c.softcap)
					off += elementary * math.Min(limit, 4*math.Abs(score))
					score = limit * math.Tanh(score/limit)
				}
				scores, keys, largest = append(scores, score), append(keys, j), math.Max(largest, score)
			}
			var total float64
			for j := range scores {
				off = math.Max(off, 0)
				scores[j] -= largest
				total += math.Exp(scores[j])
			}
			// float32 subtraction of the largest and exp of what is left
			factor := math.Expm1(2*off) + 2*(elementary+float64(len(keys)+8)*b.o.Unit) + 0x1p-23*(math.Abs(largest)+1)
			for e := range c.dim {
				var sum, abs float64
				for j, key := range keys {
					p := math.Exp(scores[j]) / total
					sum += p * v[key*kw+at+e]
					abs += p * math.Abs(v[key*kw+at+e]) * (1 - scores[j]*0x1p-2)
				}
				want, tol = append(want, sum), append(tol, factor*abs)
			}
		}
	}
	return want, tol
}
