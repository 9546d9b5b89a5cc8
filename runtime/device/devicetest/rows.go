package devicetest

import (
	"math"

	"weft/runtime/device"
)

// elementary is the error in units of 2^-24 that exp, tanh, erf, log, square roots and a few multiplications around
// them may add up to.
const elementary = 16 * 0x1p-24

var rowShapes = [][2]int{{0, 16}, {1, 1}, {3, 15}, {5, 16}, {2, 17}, {7, 35}, {1, 1537}, {33, 64}}

func testRMSNorm(b *bench) {
	for _, s := range [][3]int{{0, 1, 8}, {1, 1, 1}, {3, 1, 15}, {5, 1, 16}, {2, 1, 17}, {9, 1, 576}, {4, 9, 64},
		{5, 3, 20}, {7, 2, 33}, {2, 4, 1}} {
		rows, parts, width := s[0], s[1], s[2]
		cols := parts * width
		x, add, weight := b.normal(rows*cols), b.normal(rows*cols), b.normal(width)
		wb := b.buffer(device.Weights, weight)
		const eps = 1e-5
		if rows > 2 {
			clear(x[cols : 2*cols]) // mean 0: only eps keeps it finite
			clear(add[cols : 2*cols])
		}
		if parts == 1 {
			parts = b.r.IntN(2) // 0 means 1
		}
		norm := func(x []float32) (want, tol []float64) {
			for at := 0; at < len(x); at += width {
				var sum float64
				for _, v := range x[at:][:width] {
					sum += float64(v) * float64(v)
				}
				scale := 1 / math.Sqrt(sum/float64(width)+float64(float32(eps)))
				for c, v := range x[at:][:width] {
					y := float64(v) * scale * float64(weight[c])
					want, tol = append(want, y), append(tol, math.Abs(y)*(float64(width+8)*b.o.Unit+elementary/2))
				}
			}
			return want, tol
		}
		args := func(v, out device.View) device.RMSNormArgs {
			return device.RMSNormArgs{X: v, Out: out, Weight: wb, Parts: parts, Eps: eps}
		}

		xv, out := b.view(x, rows, cols), b.out(rows, cols)
		b.ran(b.d.RMSNorm(args(xv, out)))
		plain := b.values("rmsnorm", out)
		want, tol := norm(x)
		b.near(name("rmsnorm ", s), plain, want, tol)
		b.same("rmsnorm: x", b.values("x", xv), x)

		xv = b.view(x, rows, cols)
		b.ran(b.d.RMSNorm(args(xv, xv)))
		b.same(name("rmsnorm ", s, " in place"), b.values("x", xv), plain)

		sum := make([]float32, len(x))
		for i := range x {
			sum[i] = x[i] + add[i]
		}
		xv, av, out := b.view(x, rows, cols), b.view(add, rows, cols), b.out(rows, cols)
		a := args(xv, out)
		a.Add = av
		b.ran(b.d.RMSNorm(a))
		b.same(name("rmsnorm ", s, ": the kept sum"), b.values("x", xv), sum)
		b.same("rmsnorm: add", b.values("add", av), add)
		added := b.values("rmsnorm with add", out)
		want, tol = norm(sum)
		b.near(name("rmsnorm ", s, " with add"), added, want, tol)

		xv, av = b.view(x, rows, cols), b.view(add, rows, cols)
		a = args(xv, av)
		a.Add = av
		b.ran(b.d.RMSNorm(a))
		b.same(name("rmsnorm ", s, " into add"), b.values("add", av), added)

		if rows > 0 {
			index := make([]int32, 3)
			var expect []float32
			for i := range index {
				index[i] = int32(b.r.IntN(rows))
				expect = append(expect, plain[int(index[i])*cols:][:cols]...)
			}
			xv, out := b.view(x, rows, cols), b.out(len(index), cols)
			a := args(xv, out)
			a.Rows = index
			b.ran(b.d.RMSNorm(a))
			b.same(name("rmsnorm ", s, " rows ", index), b.values("rows", out), expect)
			none := b.out(0, cols)
			a.Rows, a.Out = []int32{}, none
			b.ran(b.d.RMSNorm(a))
		}
		for _, r := range b.splits(rows) {
			out := b.out(r[1]-r[0], cols)
			b.ran(b.d.RMSNorm(args(b.view(x[r[0]*cols:r[1]*cols], r[1]-r[0], cols), out)))
			b.same(name("rmsnorm ", s, " rows ", r, " apart"), b.values("rmsnorm", out), plain[r[0]*cols:r[1]*cols])
		}
		b.release()
	}
}

func testGLU(b *bench) {
	for _, act := range []struct {
		name string
		act  device.Activation
		f    func(x float64) float64
	}{
		{"silu", device.SiLU, func(x float64) float64 { return x / (1 + math.Exp(-x)) }},
		{"gelu tanh", device.GELUTanh,
			func(x float64) float64 { return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))) }},
		{"gelu erf", device.GELUErf, func(x float64) float64 { return 0.5 * x * math.Erfc(-x/math.Sqrt2) }},
	} {
		for _, s := range rowShapes {
			rows, cols := s[0], s[1]
			gate, up := b.normal(rows*cols), b.normal(rows*cols)
			want, tol := make([]float64, len(gate)), make([]float64, len(gate))
			for i := range gate {
				gate[i] *= 3
				if extremes := []float32{0, -30, 30, -100, 100, 1e4, -1e4}; i < 2*len(extremes) && i%2 == 1 {
					gate[i] = extremes[i/2]
				}
				want[i] = act.f(float64(gate[i])) * float64(up[i])
				tol[i] = elementary * math.Abs(float64(gate[i])*float64(up[i]))
			}
			for _, into := range []string{"out", "gate", "up"} {
				g, u := b.view(gate, rows, cols), b.view(up, rows, cols)
				out := b.out(rows, cols)
				out = map[string]device.View{"out": out, "gate": g, "up": u}[into]
				b.ran(b.d.GLU(device.GLUArgs{Gate: g, Up: u, Out: out, Act: act.act}))
				b.near(name(act.name, " ", s, " into ", into), b.values(into, out), want, tol)
				if into != "gate" {
					b.same("gate", b.values("gate", g), gate)
				}
				if into != "up" {
					b.same("up", b.values("up", u), up)
				}
			}
			b.release()
		}
	}
}

func testAdd(b *bench) {
	for _, s := range rowShapes {
		x, y := b.normal(s[0]*s[1]), b.normal(s[0]*s[1])
		xv, yv := b.view(x, s[0], s[1]), b.view(y, s[0], s[1])
		b.ran(b.d.Add(device.AddArgs{X: xv, Y: yv}))
		want := make([]float32, len(x))
		for i := range x {
			want[i] = x[i] + y[i]
		}
		b.same(name("add ", s), b.values("x", xv), want)
		b.same("y", b.values("y", yv), y)
		b.ran(b.d.Add(device.AddArgs{X: yv, Y: yv}))
		for i := range y {
			want[i] = 2 * y[i]
		}
		b.same(name("add to itself ", s), b.values("y", yv), want)
		b.release()
	}
}

func testSoftcap(b *bench) {
	for _, s := range rowShapes {
		for _, limit := range []float32{30, 2} {
			x := b.normal(s[0] * s[1])
			want, tol := make([]float64, len(x)), make([]float64, len(x))
			for i := range x {
				x[i] *= []float32{1, 20, 1e4}[i%3]
				want[i] = float64(limit) * math.Tanh(float64(x[i])/float64(limit))
				tol[i] = elementary * math.Min(float64(limit), math.Abs(float64(x[i]))*4)
			}
			v := b.view(x, s[0], s[1])
			b.ran(b.d.Softcap(device.SoftcapArgs{X: v, Cap: limit}))
			b.near(name("softcap ", limit, " ", s), b.values("x", v), want, tol)
		}
		b.release()
	}
}

func testLogSoftmax(b *bench) {
	for _, s := range append(rowShapes, [2]int{2, 49152}) {
		rows, cols := s[0], s[1]
		x := b.normal(rows * cols)
		for i := range x {
			x[i] = 5*x[i] + 60 // far from zero: the largest must be subtracted before exp
		}
		if rows > 2 {
			x[cols] += 500 // one token has nearly all of the probability
			x[2*cols] = float32(math.Inf(-1))
		}
		out := b.out(rows, cols)
		xv := b.view(x, rows, cols)
		b.ran(b.d.LogSoftmax(device.LogSoftmaxArgs{X: xv, Out: out}))
		got := b.values("logsoftmax", out)
		b.same("x", b.values("x", xv), x)
		for r := range rows {
			row := x[r*cols:][:cols]
			largest := math.Inf(-1)
			for _, v := range row {
				largest = math.Max(largest, float64(v))
			}
			var sum float64
			for _, v := range row {
				sum += math.Exp(float64(v) - largest)
			}
			var want, tol []float64
			kept := got[r*cols:][:cols]
			for c, v := range row {
				if math.IsInf(float64(v), -1) {
					if !math.IsInf(float64(kept[c]), -1) && cols > 1 {
						b.Fatalf("logsoftmax of -Inf is %v", kept[c])
					}
					kept[c] = 0
					want, tol = append(want, 0), append(tol, 0)
					continue
				}
				y := float64(v) - largest - math.Log(sum)
				want = append(want, y)
				tol = append(tol,
					float64(cols)*b.o.Unit+elementary*(1+math.Log(float64(cols)))+
						0x1p-23*(math.Abs(largest)+math.Abs(y)))
			}
			if cols > 1 || !math.IsInf(float64(row[0]), -1) {
				b.near(name("logsoftmax ", s, " row ", r), kept, want, tol)
			}
		}
		xv = b.view(x, rows, cols)
		b.ran(b.d.LogSoftmax(device.LogSoftmaxArgs{X: xv, Out: xv}))
		again := b.values("in place", xv)
		out = b.out(rows, cols)
		b.ran(b.d.LogSoftmax(device.LogSoftmaxArgs{X: b.view(x, rows, cols), Out: out}))
		b.same(name("logsoftmax ", s, " in place"), again, b.values("logsoftmax", out))
		b.release()
	}
}
