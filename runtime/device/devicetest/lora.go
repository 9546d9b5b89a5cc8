package devicetest

import (
	"encoding/binary"
	"math"

	"weft/quant"
	"weft/runtime/device"
	"weft/runtime/tensor"
)

// loraForm is what an adapter has for a layer. noA: X is the product with A.
type loraForm struct {
	rank            int
	a, b            tensor.DType
	gain, bias, noA bool
}

// adapter is one layer's matrices on the host, with the values that the device has, and on the device.
type adapter struct {
	a, b, gain, bias []float32
	m                device.LoRAMatrices
}

func (b *bench) adapter(f loraForm, in, n int) *adapter {
	b.Helper()
	a := &adapter{m: device.LoRAMatrices{In: in, Out: n, Rank: f.rank, Scale: float32(2 * b.r.NormFloat64())}}
	block := make([]byte, 4*b.r.IntN(9)) // everything is in one buffer, at odd offsets
	region := func(raw []byte, t tensor.DType) device.Region {
		s := device.Region{Offset: int64(len(block)), DType: t}
		block = append(append(block, raw...), make([]byte, 4*b.r.IntN(5)+(4-len(raw)%4)%4)...)
		return s
	}
	var regions []*device.Region
	if f.rank > 0 {
		var raw []byte
		a.a, raw = b.elements(f.rank*in, f.a)
		if !f.noA {
			a.m.A = region(raw, f.a)
			regions = append(regions, &a.m.A)
		}
		a.b, raw = b.elements(n*f.rank, f.b)
		packed := make([]byte, device.LoRABBytes(n, f.rank, f.b))
		for i := range packed {
			packed[i] = 0xff // NaN where PackLoRAB leaves anything out
		}
		device.PackLoRAB(packed, raw, n, f.rank, f.b.Size())
		a.m.B = region(packed, f.b)
		regions = append(regions, &a.m.B)
	}
	if f.gain {
		a.gain = b.normal(n)
		a.m.Gain = region(encode(a.gain), tensor.F32)
		regions = append(regions, &a.m.Gain)
	}
	if f.bias {
		a.bias = b.normal(n)
		a.m.Bias = region(encode(a.bias), tensor.F32)
		regions = append(regions, &a.m.Bias)
	}
	buf, err := b.d.Alloc(device.Adapters, int64(len(block)))
	b.must(err)
	b.own(buf)
	b.must(buf.Write(0, block))
	for _, s := range regions {
		s.Buf = buf
	}
	return a
}

// elements returns n random values of a type and their bytes.
func (b *bench) elements(n int, t tensor.DType) ([]float32, []byte) {
	x := b.normal(n)
	if t == tensor.F32 {
		return x, encode(x)
	}
	to, from := quant.F32ToF16, quant.F16ToF32
	if t == tensor.BF16 {
		to, from = quant.F32ToBF16, quant.BF16ToF32
	}
	var raw []byte
	for i := range x {
		h := to(x[i])
		raw = binary.LittleEndian.AppendUint16(raw, h)
		x[i] = from(h)
	}
	return x, raw
}

// loraSegment is [begin, end) with the adapter of that index.
type loraSegment struct{ begin, end, adapter int }

// loraForms are every type, gain, bias, and ranks from 1 to 256.
var loraForms = []loraForm{
	{rank: 1, a: tensor.F32, b: tensor.F32}, {rank: 8, a: tensor.F16, b: tensor.F16},
	{rank: 13, a: tensor.BF16, b: tensor.BF16, gain: true, bias: true},
	{rank: 64, a: tensor.F16, b: tensor.F32, bias: true}, {},
	{bias: true}, {rank: 256, a: tensor.BF16, b: tensor.F16, gain: true}, {gain: true},
	{rank: 16, a: tensor.F16, b: tensor.F16},
}

func testLoRA(b *bench) {
	for _, c := range []struct {
		name     string
		rows     int
		segments []loraSegment
	}{
		{"no segments", 5, nil},
		{"no rows", 0, []loraSegment{{0, 0, 1}}},
		{"one token", 1, []loraSegment{{0, 1, 2}}},
		{"one token, large rank", 1, []loraSegment{{0, 1, 6}}},
		{"identical", 12, []loraSegment{{0, 4, 1}, {4, 5, 1}, {5, 12, 1}}},
		{"distinct", 9,
			[]loraSegment{{0, 1, 0}, {1, 2, 1}, {2, 3, 2}, {3, 4, 3}, {4, 5, 4}, {5, 6, 5}, {6, 7, 6}, {7, 8, 7},
				{8, 9, 8}}},
		{"empty", 9, []loraSegment{{0, 0, 3}, {0, 4, 0}, {4, 4, 1}, {4, 9, 2}, {9, 9, 3}}},
		{"gaps", 20, []loraSegment{{1, 3, 2}, {4, 9, 3}, {11, 12, 0}, {15, 19, 4}}},
		{"skewed", 45, []loraSegment{{0, 1, 5}, {1, 2, 3}, {2, 37, 8}, {37, 45, 2}}},
		{"long", 70, []loraSegment{{0, 67, 2}, {67, 70, 1}}},
	} {
		for _, s := range [][2]int{{37, 45}, {1, 1}, {64, 16}, {33, 1}, {5, 97}, {576, 192}, {15, 0}} {
			b.loraCase(name("lora ", c.name, " ", s), c.rows, c.segments, s[0], s[1])
			b.release()
		}
	}
	b.loraLow()
}

func (b *bench) loraCase(what string, rows int, list []loraSegment, in, n int) {
	b.Helper()
	var adapters []*adapter
	for _, f := range loraForms {
		adapters = append(adapters, b.adapter(f, in, n))
	}
	const scale = 0.5
	x, base := b.normal(rows*in), b.normal(rows*n)
	run := func(begin, end, parts int) (first []float32) {
		xv := b.view(x[begin*in:end*in], end-begin, in)
		args := device.LoRAArgs{X: xv}
		for range parts {
			p := device.LoRAPart{Out: b.view(base[begin*n:end*n], end-begin, n)}
			for _, s := range list {
				if lo, hi := max(s.begin, begin), min(s.end, end); lo <= hi {
					p.Segments = append(p.Segments,
						device.LoRASegment{Begin: lo - begin, End: hi - begin,
							Scale: scaleOf(adapters[s.adapter], scale), M: &adapters[s.adapter].m})
				}
			}
			args.Parts = append(args.Parts, p)
		}
		b.ran(b.d.LoRA(args))
		b.same(what+": x", b.values("x", xv), x[begin*in:end*in])
		for i, p := range args.Parts {
			got := b.values(what, p.Out)
			if i == 0 {
				first = got
			}
			b.same(name(what, " part ", i), got, first)
		}
		return first
	}
	got := run(0, rows, 1)
	want, tol := b.lora(list, adapters, x, base, in, n, scale)
	b.near(what, got, want, tol)
	for i := range got { // rows of the base model, and of empty adapters, keep their bits
		if tol[i] == 0 && math.Float32bits(got[i]) != math.Float32bits(base[i]) {
			b.Fatalf("%s: row %d has no adapter and was changed", what, i/n)
		}
	}
	for _, r := range b.splits(rows) {
		b.same(name(what, " rows ", r, " apart"), run(r[0], r[1], 1+b.r.IntN(3)), got[r[0]*n:r[1]*n])
	}
}

// scaleOf is the segment's scale: it is 1 with a gain.
func scaleOf(a *adapter, scale float32) float32 {
	if a.gain != nil {
		return 1
	}
	return scale
}

// loraLow: X holds the products with A, as an embedding's does, wider than the rank.
func (b *bench) loraLow() {
	const rows, width, n = 9, 20, 50
	list := []loraSegment{{0, 2, 0}, {2, 7, 1}, {8, 9, 2}}
	var adapters []*adapter
	for _, f := range []loraForm{{rank: 13, noA: true, b: tensor.F16}, {rank: 20, noA: true, b: tensor.F32, bias: true},
		{rank: 1, noA: true, b: tensor.BF16, gain: true}} {
		adapters = append(adapters, b.adapter(f, width, n))
	}
	x, base := b.normal(rows*width), b.normal(rows*n)
	out := b.view(base, rows, n)
	p := device.LoRAPart{Out: out}
	for i, s := range list {
		a := adapters[i]
		p.Segments = append(p.Segments, device.LoRASegment{Begin: s.begin, End: s.end, Scale: 1, M: &a.m})
		clear(a.a) // the identity
		for r := range a.m.Rank {
			a.a[r*width+r] = 1
		}
	}
	b.ran(b.d.LoRA(device.LoRAArgs{X: b.view(x, rows, width), Parts: []device.LoRAPart{p}}))
	want, tol := b.lora(list, adapters, x, base, width, n, 1)
	b.near("lora without A", b.values("lora", out), want, tol)
	b.release()
}

func (b *bench) lora(segments []loraSegment, adapters []*adapter, x, base []float32, in, n int, times float32) (want,
	tol []float64) {
	want, tol = make([]float64, len(base)), make([]float64, len(base))
	for i, v := range base {
		want[i] = float64(v)
	}
	for _, s := range segments {
		ad := adapters[s.adapter]
		if ad.m.Empty() {
			continue
		}
		rank, shift := ad.m.Rank, float64(scaleOf(ad, times))
		scale := float64(ad.m.Scale) * shift
		for t := s.begin; t < s.end; t++ {
			low, abs := make([]float64, rank), make([]float64, rank)
			for r := range low {
				for i := range in {
					p := float64(x[t*in+i]) * float64(ad.a[r*in+i])
					low[r] += p
					abs[r] += math.Abs(p)
				}
			}
			for o := range n {
				sum, size := want[t*n+o], 4*math.Abs(float64(base[t*n+o]))
				for r := range low {
					sum += scale * low[r] * float64(ad.b[o*rank+r])
					size += float64(in+rank+8) * math.Abs(scale) * abs[r] * math.Abs(float64(ad.b[o*rank+r]))
				}
				if ad.gain != nil {
					sum, size = sum*float64(ad.gain[o]), size*math.Abs(float64(ad.gain[o]))
				}
				if ad.bias != nil {
					sum, size = sum+shift*float64(ad.bias[o]), size+4*math.Abs(float64(ad.bias[o]))
				}
				want[t*n+o], tol[t*n+o] = sum, b.o.Unit*size
			}
		}
	}
	return want, tol
}
