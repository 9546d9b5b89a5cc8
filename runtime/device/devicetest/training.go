package devicetest

import (
	"math"
	"testing"

	"weft/internal/invariant"
	"weft/quant"
	"weft/runtime/device"
)

// testTraining checks the operations of device.Training against dense float64 formulas, where the device has them.
func testTraining(b *bench) {
	tr, ok := b.d.(device.Training)
	if !ok {
		return
	}
	for _, c := range []struct {
		name string
		test func(b *bench, d device.Training)
	}{
		{"MatMul", testMatMul}, {"LinearGrad", testLinearGrad}, {"LinearGradParts", testLinearGradParts},
		{"RMSNormGrad", testRMSNormGrad}, {"Rotate", testRotate},
		{"SelfAttention", testSelfAttention}, {"GLUGrad", testGLUGrad}, {"CrossEntropy", testCrossEntropy},
		{"EmbedGrad", testEmbedGrad},
		{"Goldens", testTrainingGoldens}, {"Shapes", testTrainingShapes}, {"Foreign", testTrainingForeign},
	} {
		b.sub(c.name, func(b *bench) { c.test(b, tr) })
	}
}

// transposed returns the transpose of x [rows, cols].
func transposed(x []float32, rows, cols int) []float32 {
	out := make([]float32, len(x))
	for r := range rows {
		for c := range cols {
			out[c*rows+r] = x[r*cols+c]
		}
	}
	return out
}

func testMatMul(b *bench, d device.Training) {
	shapes := [][3]int{ // [M, N, K]
		{0, 3, 4}, {3, 0, 4}, {3, 4, 0}, {1, 1, 1}, {1, 17, 5}, {17, 1, 33}, {12, 16, 128}, {13, 15, 129}, {8, 37, 97},
		{37, 8, 97}, {25, 33, 260}, {50, 64, 31}, {16, 300, 40}, {290, 310, 20},
	}
	for _, s := range shapes {
		m, n, k := s[0], s[1], s[2]
		x, y, base := b.normal(m*k), b.normal(k*n), b.normal(m*n)
		alpha := float32(2 * b.r.NormFloat64())
		for form := range 8 {
			a := device.MatMulArgs{TransA: form&1 != 0, TransB: form&2 != 0, Accumulate: form&4 != 0, Alpha: alpha}
			a.A, a.B, a.Out = b.view(x, m, k), b.view(y, k, n), b.out(m, n)
			if a.TransA {
				a.A = b.view(transposed(x, m, k), k, m)
			}
			if a.TransB {
				a.B = b.view(transposed(y, k, n), n, k)
			}
			if a.Accumulate {
				a.Out = b.view(base, m, n)
			}
			b.ran(d.MatMul(a))
			want, tol := make([]float64, m*n), make([]float64, m*n)
			for i := range want {
				var sum, abs float64
				for c := range k {
					p := float64(x[i/n*k+c]) * float64(y[c*n+i%n])
					sum, abs = sum+p, abs+math.Abs(p)
				}
				want[i] = float64(alpha) * sum
				tol[i] = float64(k+8) * b.o.Unit * abs * math.Abs(float64(alpha))
				if a.Accumulate {
					want[i] += float64(base[i])
					tol[i] += 4 * b.o.Unit * math.Abs(float64(base[i]))
				}
			}
			b.near(name("matmul ", s, " form ", form), b.values("matmul", a.Out), want, tol)
		}
		b.release()
	}
}

// gradOf is dy [rows, N] times m in float64, added to want and tol.
func (b *bench) gradOf(m *quant.Matrix, dy []float32, rows int, want, tol []float64, depth int) {
	w, groups := make([]float32, m.Cols), m.Groups()
	for n := range m.Rows {
		m.Row(n, w)
		for t := range rows {
			g := float64(dy[t*m.Rows+n])
			for c, v := range w {
				want[t*m.Cols+c] += g * float64(v)
				size := math.Abs(float64(v))
				if m.Mins != nil {
					size += 2 * math.Abs(float64(m.Mins[n*groups+c/m.GroupLen]))
				}
				tol[t*m.Cols+c] += float64(depth+8) * b.o.Unit * math.Abs(g) * size
			}
		}
	}
}

func testLinearGrad(b *bench, d device.Training) {
	for _, f := range forms {
		for _, s := range [][3]int{ // [T, N, In]
			{0, 17, 33}, {1, 1, 1}, {1, 31, 17}, {2, 32, 16}, {3, 33, 15}, {5, 97, 7}, {13, 50, 40}, {25, 300, 70},
			{6, 0, 32}, {40, 3, 64}, {4, 1536, 576},
		} {
			if (testing.Short() || invariant.Race) && s[1] > 500 {
				continue
			}
			rows, n, k := s[0], s[1], s[2]
			m := b.matrix(f, n, k)
			w := b.load(m)
			dy, base := b.normal(rows*n), b.normal(rows*k)
			run := func(begin, end int, accumulate bool) []float32 {
				g, dx := b.view(dy[begin*n:end*n], end-begin, n), b.out(end-begin, k)
				if accumulate {
					dx = b.view(base[begin*k:end*k], end-begin, k)
				}
				b.ran(d.LinearGrad(device.LinearGradArgs{Parts: []device.LinearGradPart{{W: w, DY: g}}, DX: dx,
					Accumulate: accumulate}))
				b.same("linear grad: dy", b.values("dy", g), dy[begin*n:end*n])
				return b.values("linear grad", dx)
			}
			want, tol := make([]float64, rows*k), make([]float64, rows*k)
			b.gradOf(m, dy, rows, want, tol, n)
			got := run(0, rows, false)
			b.near(name("linear grad ", f, " ", s), got, want, tol)
			for _, r := range b.splits(rows) {
				b.same(name("linear grad ", f, " ", s, " rows ", r, " apart"), run(r[0], r[1], false),
					got[r[0]*k:r[1]*k])
			}
			for i, v := range base {
				want[i] += float64(v)
				tol[i] += 4 * b.o.Unit * math.Abs(float64(v))
			}
			b.near(name("linear grad ", f, " ", s, " added"), run(0, rows, true), want, tol)
			b.release()
		}
	}
}

// testLinearGradParts: parts of several layouts add up, in their order.
func testLinearGradParts(b *bench, d device.Training) {
	for _, rows := range []int{1, 7, 40} {
		const k = 96
		want, tol := make([]float64, rows*k), make([]float64, rows*k)
		var a device.LinearGradArgs
		for i, f := range []form{{layout: quant.Int4, group: 32, mins: true, half: true}, {layout: quant.F32},
			{layout: quant.Int8, group: 32, half: true}, {layout: quant.BF16}} {
			n := []int{33, 16, 5, 50}[i]
			m, dy := b.matrix(f, n, k), b.normal(rows*n)
			a.Parts = append(a.Parts, device.LinearGradPart{W: b.load(m), DY: b.view(dy, rows, n)})
			b.gradOf(m, dy, rows, want, tol, 104)
		}
		trained, dy := b.normal(9*k), b.normal(rows*9)
		a.Parts = append(a.Parts, device.LinearGradPart{Matrix: b.view(trained, 9, k), DY: b.view(dy, rows, 9)})
		b.gradOf(&quant.Matrix{Layout: quant.F32, Rows: 9, Cols: k, Data: encode(trained)}, dy, rows, want, tol, 113)
		a.DX = b.out(rows, k)
		b.ran(d.LinearGrad(a))
		b.near(name("linear grad of parts, ", rows, " rows"), b.values("parts", a.DX), want, tol)
		b.release()
	}
}

func testRMSNormGrad(b *bench, d device.Training) {
	const eps = 1e-5
	for _, s := range [][3]int{{0, 1, 8}, {1, 1, 1}, {3, 1, 15}, {5, 1, 16}, {2, 1, 17}, {9, 1, 576}, {4, 9, 64},
		{5, 3, 20}, {70, 2, 33}, {2, 4, 1}} {
		rows, parts, width := s[0], s[1], s[2]
		cols := parts * width
		x, dy, base, weight, dweight := b.normal(rows*cols), b.normal(rows*cols), b.normal(rows*cols), b.normal(width),
			b.normal(width)
		if rows > 2 {
			clear(x[cols : 2*cols])
		}
		wb := b.buffer(device.Weights, weight)
		want, tol := make([]float64, len(x)), make([]float64, len(x))
		wantW, tolW := make([]float64, width), make([]float64, width)
		for i, v := range dweight {
			wantW[i], tolW[i] = float64(v), float64(rows*parts+4)*b.o.Unit*math.Abs(float64(v))
		}
		for at := 0; at < len(x); at += width {
			var square, inner, size float64
			for i := range width {
				p := float64(dy[at+i]) * float64(weight[i]) * float64(x[at+i])
				square, inner, size = square+float64(x[at+i])*float64(x[at+i]), inner+p, size+math.Abs(p)
			}
			r := 1 / math.Sqrt(square/float64(width)+float64(float32(eps)))
			for i := range width {
				g, v := float64(dy[at+i]), float64(x[at+i])
				want[at+i] = r*g*float64(weight[i]) - v*r*r*r/float64(width)*inner
				tol[at+i] = (float64(width+8)*b.o.Unit*4 + elementary) * (r*math.Abs(g*float64(weight[i])) +
					math.Abs(v)*r*r*r/float64(width)*size)
				wantW[i] += g * v * r
				tolW[i] += (float64(width+rows*parts+8)*b.o.Unit*2 + elementary) * math.Abs(g*v*r)
			}
		}
		for form := range 8 { // into dy or a separate view, added or not, with the gradient of the weight or not
			a := device.RMSNormGradArgs{X: b.view(x, rows, cols), DY: b.view(dy, rows, cols),
				DX: b.view(base, rows, cols), Weight: wb, Parts: parts, Eps: eps, Accumulate: form&1 != 0}
			if parts == 1 {
				a.Parts = b.r.IntN(2)
			}
			from := base
			if form&2 != 0 {
				a.DX, from = a.DY, dy
			}
			if form&4 != 0 {
				a.DWeight = b.buffer(device.Weights, dweight)
			}
			b.ran(d.RMSNormGrad(a))
			sum, loose := want, tol
			if a.Accumulate {
				sum, loose = append([]float64(nil), want...), append([]float64(nil), tol...)
				for i, v := range from {
					sum[i] += float64(v)
					loose[i] += 4 * b.o.Unit * math.Abs(float64(v))
				}
			}
			b.near(name("rmsnorm grad ", s, " form ", form), b.values("dx", a.DX), sum, loose)
			b.same("x", b.values("x", a.X), x)
			if form&2 == 0 {
				b.same("dy", b.values("dy", a.DY), dy)
			}
			if a.DWeight != nil {
				b.near(name("rmsnorm grad of the weight ", s, " form ", form), b.read(a.DWeight), wantW, tolW)
			}
		}
		b.release()
	}
}

// testRotate: rotates as RoPE does, and back.
func testRotate(b *bench, d device.Training) {
	for _, s := range [][4]int{{0, 1, 8, 8}, {1, 1, 2, 2}, {5, 3, 64, 64}, {7, 2, 24, 10}, {3, 2, 80, 40},
		{4, 2, 16, 0}} {
		rows, heads, dim, rot := s[0], s[1], s[2], s[3]
		x, table := b.normal(rows*heads*dim), b.normal(9*max(rot, 1))
		index := make([]int32, rows)
		for i := range index {
			index[i] = int32(b.r.IntN(10)) - 1
		}
		for _, inverse := range []bool{false, true} {
			want, tol := make([]float64, len(x)), make([]float64, len(x))
			for i := range x {
				want[i] = float64(x[i])
			}
			for t, r := range index {
				for at := t * heads * dim; r >= 0 && at < (t+1)*heads*dim; at += dim {
					for i := range rot / 2 {
						u, v := float64(x[at+i]), float64(x[at+rot/2+i])
						c, s := float64(table[int(r)*rot+i]), float64(table[int(r)*rot+rot/2+i])
						if inverse {
							s = -s
						}
						want[at+i], want[at+rot/2+i] = u*c-v*s, v*c+u*s
						tol[at+i], tol[at+rot/2+i] = 4*b.o.Unit*(math.Abs(u*c)+math.Abs(v*s)),
							4*b.o.Unit*(math.Abs(v*c)+math.Abs(u*s))
					}
				}
			}
			v := b.view(x, rows, heads*dim)
			a := device.RotateArgs{X: v, HeadDim: dim, Rot: rot, Table: b.buffer(device.Weights, table),
				TableRows: index, Inverse: inverse}
			b.ran(d.Rotate(a))
			b.near(name("rotate ", s, " inverse ", inverse), b.values("x", v), want, tol)
		}
		b.release()
	}
}

func testGLUGrad(b *bench, d device.Training) {
	for _, act := range []struct {
		name     string
		act      device.Activation
		f, slope func(x float64) float64
	}{
		{"silu", device.SiLU, func(x float64) float64 { return x / (1 + math.Exp(-x)) }, func(x float64) float64 {
			e := math.Exp(-math.Abs(x))
			s := 1 / (1 + e)
			return ifElse(x < 0, 1-s, s) + x*e/(1+e)/(1+e)
		}},
		{
			"gelu tanh", device.GELUTanh,
			func(x float64) float64 { return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))) },
			func(x float64) float64 {
				u, v := math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x), math.Sqrt(2/math.Pi)*(1+3*0.044715*x*x)
				if math.Abs(u) > 300 {
					return ifElse(u > 0, 1, 0)
				}
				return 0.5*(1+math.Tanh(u)) + 0.5*x*v/math.Cosh(u)/math.Cosh(u)
			},
		},
		{
			"gelu erf", device.GELUErf, func(x float64) float64 { return 0.5 * x * math.Erfc(-x/math.Sqrt2) },
			func(x float64) float64 { return 0.5*math.Erfc(-x/math.Sqrt2) + x*math.Exp(-x*x/2)/math.Sqrt(2*math.Pi) },
		},
	} {
		for _, s := range rowShapes {
			rows, cols := s[0], s[1]
			gate, up, dout := b.normal(rows*cols), b.normal(rows*cols), b.normal(rows*cols)
			var wantG, tolG, wantU, tolU []float64
			for i := range gate {
				gate[i] *= 3
				if extremes := []float32{0, -30, 30, -100, 100, 1e4, -1e4}; i < 2*len(extremes) && i%2 == 1 {
					gate[i] = extremes[i/2]
				}
				g, u, o := float64(gate[i]), float64(up[i]), float64(dout[i])
				wantU, tolU = append(wantU, o*act.f(g)), append(tolU, elementary*math.Abs(o*g))
				wantG, tolG = append(wantG, o*u*act.slope(g)), append(tolG, 4*elementary*math.Abs(o*u))
			}
			for _, into := range [][2]string{{"", ""}, {"gate", "up"}, {"up", "dout"}, {"dout", "gate"}, {"", "dout"}} {
				views := map[string]device.View{"gate": b.view(gate, rows, cols), "up": b.view(up, rows, cols),
					"dout": b.view(dout, rows, cols)}
				a := device.GLUGradArgs{Gate: views["gate"], Up: views["up"], DOut: views["dout"], Act: act.act,
					DGate: b.out(rows, cols), DUp: b.out(rows, cols)}
				if v, ok := views[into[0]]; ok {
					a.DGate = v
				}
				if v, ok := views[into[1]]; ok {
					a.DUp = v
				}
				b.ran(d.GLUGrad(a))
				b.near(name(act.name, " dgate ", s, " into ", into), b.values("dgate", a.DGate), wantG, tolG)
				b.near(name(act.name, " dup ", s, " into ", into), b.values("dup", a.DUp), wantU, tolU)
			}
			b.release()
		}
	}
}

func ifElse(c bool, yes, no float64) float64 {
	if c {
		return yes
	}
	return no
}

func testCrossEntropy(b *bench, d device.Training) {
	for _, s := range [][2]int{{0, 5}, {1, 1}, {3, 15}, {5, 16}, {4, 33}, {7, 1030}, {2, 49152}} {
		for _, softcap := range []float32{0, 30} {
			rows, cols := s[0], s[1]
			x, labels := b.normal(rows*cols), make([]int32, rows)
			for i := range x {
				x[i] = 5*x[i] + 60
				if softcap > 0 {
					x[i] = softcap * float32(math.Tanh(float64(x[i]-60)/float64(softcap)))
				}
			}
			if rows > 2 && softcap == 0 {
				x[cols] += 500 // one token has nearly all of the probability
			}
			for i := range labels {
				labels[i] = int32(b.r.IntN(cols))
			}
			if rows > 3 {
				labels[1], labels[3] = 0, -100
			}
			scale := float32(0.37)
			var want, tol, wantLoss, tolLoss []float64
			for t, label := range labels {
				row, largest, sum := x[t*cols:][:cols], math.Inf(-1), 0.0
				for _, v := range row {
					largest = math.Max(largest, float64(v))
				}
				for _, v := range row {
					sum += math.Exp(float64(v) - largest)
				}
				for i, v := range row {
					p := math.Exp(float64(v)-largest) / sum
					e := p * (float64(cols)*b.o.Unit + 2*elementary + 0x1p-22*(largest-float64(v)))
					if i == int(label) {
						p--
						e += 0x1p-22
					}
					if softcap > 0 {
						h := float64(v) / float64(softcap)
						p, e = p*(1-h*h), e+math.Abs(p)*elementary
					}
					if label < 0 {
						p, e = 0, 0
					}
					want, tol = append(want, p*float64(scale)), append(tol, e*float64(scale))
				}
				if label < 0 {
					wantLoss, tolLoss = append(wantLoss, 0), append(tolLoss, 0)
					continue
				}
				l := math.Log(sum) + largest - float64(row[label])
				wantLoss = append(wantLoss, l)
				tolLoss = append(tolLoss,
					float64(cols)*b.o.Unit+elementary*(1+math.Log(float64(cols)))+
						0x1p-23*(math.Abs(largest)+math.Abs(l)))
			}
			logits, loss := b.view(x, rows, cols), b.out(rows, 1)
			b.ran(d.CrossEntropy(device.CrossEntropyArgs{Logits: logits, Labels: labels, Loss: loss, Scale: scale,
				Softcap: softcap}))
			b.near(name("cross entropy ", s, " softcap ", softcap), b.values("loss", loss), wantLoss, tolLoss)
			b.near(name("gradient of cross entropy ", s, " softcap ", softcap), b.values("logits", logits), want, tol)
		}
		b.release()
	}
}

func testEmbedGrad(b *bench, d device.Training) {
	for _, s := range [][3]int{{0, 5, 8}, {1, 1, 1}, {9, 4, 17}, {20, 3, 33}, {40, 50, 130}} {
		rows, vocab, cols := s[0], s[1], s[2]
		dy, base := b.normal(rows*cols), b.normal(vocab*cols)
		want, tol := make([]float64, len(base)), make([]float64, len(base))
		for i, v := range base {
			want[i], tol[i] = float64(v), float64(rows)*b.o.Unit*math.Abs(float64(v))
		}
		ids := make([]int32, rows)
		for t := range ids {
			ids[t] = int32(b.r.IntN(vocab))
			for c := range cols {
				g := 1.5 * float64(dy[t*cols+c])
				want[int(ids[t])*cols+c] += g
				// rows are added in float32, on every device
				tol[int(ids[t])*cols+c] += float64(rows+2) * 0x1p-24 * math.Abs(g)
			}
		}
		if rows > 0 {
			for i := range tol {
				tol[i] += float64(rows) * 0x1p-24 * math.Abs(float64(base[i]))
			}
		}
		table := b.view(base, vocab, cols)
		b.ran(d.EmbedGrad(device.EmbedGradArgs{IDs: ids, DY: b.view(dy, rows, cols), DTable: table, Scale: 1.5}))
		b.near(name("embed grad ", s), b.values("dtable", table), want, tol)
		b.release()
	}
}
