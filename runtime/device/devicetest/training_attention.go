package devicetest

import (
	"math"
	"testing"

	"weft/internal/invariant"
	"weft/runtime/device"
)

// packed is one case of attention within samples, with the float64 results.
type packed struct {
	heads, kvHeads, dim, window int
	softcap, scale              float32
	samples                     []int
	prefix                      []int32 // by sample
}

func (c packed) indptr() (at []int32, rows int) {
	at = []int32{0}
	for _, n := range c.samples {
		rows += n
		at = append(at, int32(rows))
	}
	return at, rows
}

func testSelfAttention(b *bench, d device.Training) {
	for _, c := range []packed{
		{heads: 1, kvHeads: 1, dim: 16, scale: 0.25, samples: nil},
		{heads: 1, kvHeads: 1, dim: 16, scale: 0.25, samples: []int{1}},
		{heads: 3, kvHeads: 3, dim: 5, scale: 0.4, samples: []int{0, 7, 0, 1}},
		{heads: 4, kvHeads: 2, dim: 16, scale: 0.25, samples: []int{23, 41, 12}},
		{heads: 4, kvHeads: 2, dim: 24, scale: 0.2, softcap: 5, samples: []int{16, 17, 15}},
		{heads: 9, kvHeads: 3, dim: 64, scale: 0.125, samples: []int{64, 3, 65}},
		{heads: 2, kvHeads: 1, dim: 33, scale: 0.1, window: 8, samples: []int{50, 9}},
		{heads: 2, kvHeads: 1, dim: 32, scale: 0.1, window: 70, softcap: 3, samples: []int{230}},
		{heads: 1, kvHeads: 1, dim: 256, scale: 0.0625, samples: []int{66}},
		{heads: 1, kvHeads: 1, dim: 16, scale: 0.25, window: 1, samples: []int{20}},
		{heads: 4, kvHeads: 2, dim: 16, scale: 0.25, samples: []int{7, 23, 9, 20, 1}, prefix: []int32{-1, 0, -1, 0, 0}},
		{heads: 9, kvHeads: 3, dim: 64, scale: 0.125, samples: []int{3, 40, 17, 35, 2}, prefix: []int32{-1, -1, 1, 1,
			0}},
		{heads: 2, kvHeads: 1, dim: 5, scale: 0.3, window: 8, softcap: 5, samples: []int{13, 6, 40, 0},
			prefix: []int32{-1, 0, 0, 0}},
		{heads: 2, kvHeads: 2, dim: 24, scale: 0.3, window: 37, samples: []int{70, 6, 0, 33},
			prefix: []int32{-1, 0, -1, 0}},
	} {
		if (testing.Short() || invariant.Race) && len(c.samples) == 1 && c.samples[0] > 100 {
			continue
		}
		b.selfAttention(d, c)
		b.release()
	}
}

func (b *bench) selfAttention(d device.Training, c packed) {
	indptr, rows := c.indptr()
	what := name("self attention ", c)
	wide, narrow := c.heads*c.dim, c.kvHeads*c.dim
	q, k, v, g := b.normal(rows*wide), b.normal(rows*narrow), b.normal(rows*narrow), b.normal(rows*wide)
	run := func(begin, end int, at, prefix []int32) (out [5][]float32) {
		n := end - begin
		cut := func(x []float32, cols int) device.View { return b.view(x[begin*cols:end*cols], n, cols) }
		a := device.SelfAttentionArgs{Q: cut(q, wide), K: cut(k, narrow), V: cut(v, narrow), Out: b.out(n, wide),
			LSE: b.out(n, c.heads), HeadDim: c.dim, Indptr: at, Prefix: prefix,
			Scale: c.scale, Softcap: c.softcap, Window: c.window}
		b.ran(d.SelfAttention(a))
		r := device.SelfAttentionGradArgs{SelfAttentionArgs: a, DOut: cut(g, wide), DQ: b.out(n, wide),
			DK: b.out(n, narrow), DV: b.out(n, narrow)}
		b.ran(d.SelfAttentionGrad(r))
		for i, v := range []device.View{a.Out, a.LSE, r.DQ, r.DK, r.DV} {
			out[i] = b.values(what, v)
		}
		return out
	}
	got := run(0, rows, indptr, c.prefix)
	want, tol := c.dense(b, q, k, v, g, indptr)
	for i, part := range []string{"out", "lse", "dq", "dk", "dv"} {
		b.near(what+" "+part, got[i], want[i], tol[i])
	}
	if c.prefix != nil {
		return
	}
	for at := range c.samples { // a sample by itself
		begin, end := int(indptr[at]), int(indptr[at+1])
		alone := run(begin, end, []int32{0, int32(end - begin)}, nil)
		for i, cols := range []int{wide, c.heads, wide, narrow, narrow} {
			b.same(name(what, ": sample ", at, " alone"), alone[i], got[i][begin*cols:end*cols])
		}
	}
}

// dense computes out, lse, dq, dk and dv, and the rounding tolerance of each.
func (c packed) dense(b *bench, q, k, v, g []float32, indptr []int32) (want, tol [5][]float64) {
	wide, narrow, group := c.heads*c.dim, c.kvHeads*c.dim, c.heads/c.kvHeads
	rows := int(indptr[len(indptr)-1])
	for i, n := range []int{wide, c.heads, wide, narrow, narrow} {
		want[i], tol[i] = make([]float64, rows*n), make([]float64, rows*n)
	}
	add := func(what, at int, x, err float64) {
		want[what][at] += x
		tol[what][at] += err
	}
	for doc := range c.samples {
		var seen []int // rows, in their order
		if c.prefix != nil && c.prefix[doc] >= 0 {
			for t := indptr[c.prefix[doc]]; t < indptr[c.prefix[doc]+1]; t++ {
				seen = append(seen, int(t))
			}
		}
		for t := int(indptr[doc]); t < int(indptr[doc+1]); t++ {
			if seen = append(seen, t); c.window > 0 && len(seen) > c.window {
				seen = seen[len(seen)-c.window:]
			}
			for h := range c.heads {
				qs, gs := q[t*wide+h*c.dim:][:c.dim], g[t*wide+h*c.dim:][:c.dim]
				n := len(seen)
				p, slope, off := make([]float64, n), make([]float64, n), 0.0 // off: of the scores
				largest := math.Inf(-1)
				for j := range p {
					sum, abs := products(qs, k[seen[j]*narrow+h/group*c.dim:])
					s, e := sum*float64(c.scale), math.Abs(float64(c.scale))*abs*float64(c.dim+8)*b.o.Unit
					slope[j] = float64(c.scale)
					if c.softcap > 0 {
						h := math.Tanh(s / float64(c.softcap))
						s, slope[j] = float64(c.softcap)*h, slope[j]*(1-h*h)
						e += elementary * float64(c.softcap)
					}
					p[j] = s
					largest, off = math.Max(largest, s), math.Max(off, e+math.Abs(s)*0x1p-24)
				}
				var total float64
				for j, s := range p {
					p[j] = math.Exp(s - largest)
					total += p[j]
				}
				lse := largest + math.Log(total)
				// of the weighted sums
				rel := 4*off + 4*elementary + float64(n+c.dim+8)*b.o.Unit*4 + math.Abs(lse)*0x1p-23
				add(1, t*c.heads+h, lse, rel)
				var delta, size float64
				for i := range c.dim {
					var sum, abs float64
					for j := range p {
						x := p[j] / total * float64(v[seen[j]*narrow+h/group*c.dim+i])
						sum, abs = sum+x, abs+math.Abs(x)
					}
					add(0, t*wide+h*c.dim+i, sum, rel*abs)
					delta, size = delta+float64(gs[i])*sum, size+math.Abs(float64(gs[i]))*abs
				}
				for j := range p {
					w := p[j] / total
					from := seen[j]*narrow + h/group*c.dim
					dp, abs := products(gs, v[from:])
					ds, e := w*(dp-delta)*slope[j], w*(abs+size)*math.Abs(float64(c.scale))*rel
					for i := range c.dim {
						add(2, t*wide+h*c.dim+i, ds*float64(k[from+i]), e*math.Abs(float64(k[from+i])))
						add(3, from+i, ds*float64(qs[i]),
							e*math.Abs(float64(qs[i]))+float64(rows*group)*b.o.Unit*math.Abs(ds*float64(qs[i])))
						add(4, from+i, w*float64(gs[i]), (rel+float64(rows*group)*b.o.Unit)*w*math.Abs(float64(gs[i])))
					}
				}
			}
		}
	}
	return want, tol
}

// products sums x[i] y[i] and |x[i] y[i]| over len(x).
func products(x, y []float32) (sum, abs float64) {
	for i := range x {
		p := float64(x[i]) * float64(y[i])
		sum, abs = sum+p, abs+math.Abs(p)
	}
	return sum, abs
}
