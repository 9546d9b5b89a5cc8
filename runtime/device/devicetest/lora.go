package devicetest

import (
	"math"

	"weft/runtime/device"
)

// adapter is one set of factors on the host and the device.
type adapter struct {
	a, b []float32
	m    device.LoRAMatrices
}

func (b *bench) adapter(rank, in, n int) *adapter {
	b.Helper()
	if rank == 0 {
		return &adapter{}
	}
	a := &adapter{a: b.normal(rank * in), b: b.normal(n * rank)}
	a.m = device.LoRAMatrices{A: b.buffer(device.Adapters, a.a), B: b.buffer(device.Adapters, a.b), Rank: rank, Scale: float32(2 * b.r.NormFloat64())}
	return a
}

// loraSegment is [begin, end) with the adapter of that index.
type loraSegment struct{ begin, end, adapter int }

func testLoRA(b *bench) {
	ranks := []int{1, 8, 13, 64, 0}
	for _, c := range []struct {
		name     string
		rows     int
		segments []loraSegment
	}{
		{"no segments", 5, nil},
		{"no rows", 0, []loraSegment{{0, 0, 1}}},
		{"one token", 1, []loraSegment{{0, 1, 2}}},
		{"identical", 12, []loraSegment{{0, 4, 1}, {4, 5, 1}, {5, 12, 1}}},
		{"distinct", 5, []loraSegment{{0, 1, 0}, {1, 2, 1}, {2, 3, 2}, {3, 4, 3}, {4, 5, 4}}},
		{"empty", 9, []loraSegment{{0, 0, 3}, {0, 4, 0}, {4, 4, 1}, {4, 9, 2}, {9, 9, 3}}},
		{"gaps", 20, []loraSegment{{1, 3, 2}, {4, 9, 3}, {11, 12, 0}, {15, 19, 4}}},
		{"skewed", 45, []loraSegment{{0, 1, 0}, {1, 2, 3}, {2, 37, 1}, {37, 45, 2}}},
	} {
		for _, s := range [][2]int{{37, 45}, {1, 1}, {64, 16}, {33, 1}, {5, 97}, {576, 192}} {
			in, n := s[0], s[1]
			var adapters []*adapter
			for _, r := range ranks {
				adapters = append(adapters, b.adapter(r, in, n))
			}
			x, base := b.normal(c.rows*in), b.normal(c.rows*n)
			run := func(begin, end int) []float32 {
				var segments []device.LoRASegment
				for _, s := range c.segments {
					if lo, hi := max(s.begin, begin), min(s.end, end); lo <= hi {
						segments = append(segments, device.LoRASegment{Begin: lo - begin, End: hi - begin, M: adapters[s.adapter].m})
					}
				}
				xv, out := b.view(x[begin*in:end*in], end-begin, in), b.view(base[begin*n:end*n], end-begin, n)
				b.ran(b.d.LoRA(device.LoRAArgs{X: xv, Out: out, Segments: segments}))
				b.same("lora: x", b.values("x", xv), x[begin*in:end*in])
				return b.values("lora", out)
			}
			got := run(0, c.rows)
			want, tol := b.lora(c.segments, adapters, x, base, in, n)
			b.near(name("lora ", c.name, " ", s), got, want, tol)
			for i := range got { // rows of the base model, and rank 0, keep their bits
				if tol[i] == 0 && math.Float32bits(got[i]) != math.Float32bits(base[i]) {
					b.Fatalf("lora %s %v: row %d has no adapter and was changed", c.name, s, i/n)
				}
			}
			for _, r := range b.splits(c.rows) {
				b.same(name("lora ", c.name, " ", s, " rows ", r, " apart"), run(r[0], r[1]), got[r[0]*n:r[1]*n])
			}
			b.release()
		}
	}
}

func (b *bench) lora(segments []loraSegment, adapters []*adapter, x, base []float32, in, n int) (want, tol []float64) {
	want, tol = make([]float64, len(base)), make([]float64, len(base))
	for i, v := range base {
		want[i] = float64(v)
	}
	for _, s := range segments {
		ad := adapters[s.adapter]
		rank, scale := ad.m.Rank, float64(ad.m.Scale)
		for t := s.begin; t < s.end && rank > 0; t++ {
			low, abs := make([]float64, rank), make([]float64, rank)
			for r := range low {
				for i := range in {
					p := float64(x[t*in+i]) * float64(ad.a[r*in+i])
					low[r] += p
					abs[r] += math.Abs(p)
				}
			}
			for o := range n {
				var sum, size float64
				for r := range low {
					sum += low[r] * float64(ad.b[o*rank+r])
					size += abs[r] * math.Abs(float64(ad.b[o*rank+r]))
				}
				want[t*n+o] += scale * sum
				tol[t*n+o] = b.o.Unit * (float64(in+rank+8)*math.Abs(scale)*size + 4*math.Abs(float64(base[t*n+o])))
			}
		}
	}
	return want, tol
}
