package ref

import (
	"math"
	"math/rand/v2"
	"testing"

	"weft/quant"
	"weft/runtime/device"
	"weft/runtime/tensor"
)

// The gradients against central differences of their forward formulas, all in float64: loss = ⟨out, R⟩ with random R,
// every element of every input.

func matrix(r *rand.Rand, rows, cols int) mat[float64] {
	m := mat[float64]{make([]float64, rows*cols), rows, cols, cols}
	for i := range m.data {
		m.data[i] = r.NormFloat64()
	}
	return m
}

func zeros(rows, cols int) mat[float64] {
	return mat[float64]{make([]float64, rows*cols), rows, cols, cols}
}

func weigh(out, r mat[float64]) (sum float64) {
	for i, v := range out.data {
		sum += v * r.data[i]
	}
	return sum
}

// differ compares the gradient of loss for x with differences: the largest error against the largest gradient.
func differ(t *testing.T, what string, x, gradient []float64, loss func() float64) {
	t.Helper()
	var off, top float64
	for i, v := range x {
		h := 1e-5 * math.Max(1, math.Abs(v))
		x[i] = v + h
		up := loss()
		x[i] = v - h
		down := loss()
		x[i] = v
		d := (up - down) / (2 * h)
		if e := math.Abs(d - gradient[i]); !(e <= off) {
			off = e
		}
		top = math.Max(top, math.Abs(d))
	}
	if !(off <= 2e-8*top) || top < 1e-3 {
		t.Errorf("%s: the gradient is off by %.3g of differences of at most %.3g", what, off, top)
	}
}

func TestMatMulDifferences(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	x, w, up := matrix(r, 5, 7), matrix(r, 3, 7), matrix(r, 5, 3) // y = x wᵀ
	y, dx, dw := zeros(5, 3), zeros(5, 7), zeros(3, 7)
	loss := func() float64 { matMul(x, w, y, false, true, 1, false); return weigh(y, up) }
	matMul(up, w, dx, false, false, 1, false)
	matMul(up, x, dw, true, false, 1, false)
	differ(t, "dx", x.data, dx.data, loss)
	differ(t, "dw", w.data, dw.data, loss)
}

func TestLinearDifferences(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	m := &quant.Matrix{Layout: quant.Int4, Rows: 6, Cols: 9, GroupLen: 4, Zero: 8, Data: make([]byte, 54),
		Scales: make([]float32, 18)}
	for i := range m.Data {
		m.Data[i] = byte(r.IntN(16))
	}
	for i := range m.Scales {
		m.Scales[i] = float32(r.NormFloat64())
	}
	x, up, dx := matrix(r, 4, 9), matrix(r, 4, 6), zeros(4, 9)
	linearGrad([]rowsOf{{m.Rows, m.Row}}, []mat[float64]{up}, dx, false)
	w := make([]float32, 9)
	differ(t, "dx", x.data, dx.data, func() (sum float64) {
		for n := range 6 {
			m.Row(n, w)
			for s := range 4 {
				var y float64
				for c, v := range w {
					y += x.row(s)[c] * float64(v)
				}
				sum += y * up.row(s)[n]
			}
		}
		return sum
	})
}

func TestRMSNormDifferences(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	const rows, parts, n, eps = 3, 2, 5, 1e-2
	x, up, w, dw, dx := matrix(r, rows, parts*n), matrix(r, rows, parts*n), matrix(r, 1, n), zeros(1, n),
		zeros(rows, parts*n)
	rmsNormGrad(x, up, dx, w.data, dw.data, eps, false)
	loss := func() (sum float64) {
		for at := 0; at < len(x.data); at += n {
			var square float64
			for _, v := range x.data[at:][:n] {
				square += v * v
			}
			for i, v := range x.data[at:][:n] {
				sum += up.data[at+i] * w.data[i] * v / math.Sqrt(square/n+eps)
			}
		}
		return sum
	}
	differ(t, "dx", x.data, dx.data, loss)
	differ(t, "dweight", w.data, dw.data, loss)
}

func TestGLUDifferences(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	for _, act := range []device.Activation{device.SiLU, device.GELUTanh, device.GELUErf} {
		gate, up, dout, dgate, dup := matrix(r, 3, 11), matrix(r, 3, 11), matrix(r, 3, 11), zeros(3, 11), zeros(3, 11)
		gluGrad(gate, up, dout, dgate, dup, act)
		loss := func() (sum float64) {
			for i, g := range gate.data {
				sum += dout.data[i] * activate(act, g) * up.data[i]
			}
			return sum
		}
		differ(t, "dgate", gate.data, dgate.data, loss)
		differ(t, "dup", up.data, dup.data, loss)
	}
}

func TestRotateDifferences(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	d := New(Options{})
	const heads, dim, rot = 2, 6, 4
	view := func(x []float64) device.View {
		b, err := d.Alloc(device.Activations, int64(4*len(x)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Free)
		for i, v := range x {
			floats(b)[i] = float32(v)
		}
		return device.View{Buf: b, Rows: 1, Cols: len(x), Stride: len(x), DType: tensor.F32}
	}
	table := view(matrix(r, 1, rot).data).Buf
	run := func(x []float64, inverse bool) []float32 {
		v := view(x)
		if err := d.Rotate(device.RotateArgs{X: v, HeadDim: dim, Rot: rot, Table: table, TableRows: []int32{0},
			Inverse: inverse}); err != nil {
			t.Fatal(err)
		}
		return row(v, 0)
	}
	// a rotation is linear: ⟨R, rotate(e_i)⟩ is the gradient's element i
	up := matrix(r, 1, heads*dim).data
	got := run(up, true)
	for i := range got {
		e := make([]float64, heads*dim)
		e[i] = 1
		var want float64
		for j, v := range run(e, false) {
			want += up[j] * float64(v)
		}
		if !(math.Abs(float64(got[i])-want) <= 1e-6) {
			t.Errorf("element %d of the gradient is %v, want %v", i, got[i], want)
		}
	}
}

func TestSelfAttentionDifferences(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	for _, c := range []struct {
		softcap float64
		window  int
	}{{0, 0}, {2, 0}, {0, 3}, {2, 4}} {
		const rows, heads, kvHeads, dim = 11, 4, 2, 5
		s := selfAttention[float64]{
			q: matrix(r, rows, heads*dim), k: matrix(r, rows, kvHeads*dim), v: matrix(r, rows, kvHeads*dim),
			out: zeros(rows, heads*dim), lse: zeros(rows, heads),
			headDim: dim, window: c.window, heads: heads, group: heads / kvHeads, scale: 0.6, softcap: c.softcap,
			indptr: []int32{0, 4, 4, 11},
		}
		up, dq, dk, dv := matrix(r, rows, heads*dim), zeros(rows, heads*dim), zeros(rows, kvHeads*dim),
			zeros(rows, kvHeads*dim)
		s.forward()
		s.backward(up, dq, dk, dv)
		loss := func() float64 { s.forward(); return weigh(s.out, up) }
		differ(t, "dq", s.q.data, dq.data, loss)
		differ(t, "dk", s.k.data, dk.data, loss)
		differ(t, "dv", s.v.data, dv.data, loss)
	}
}

func TestCrossEntropyDifferences(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for _, softcap := range []float64{0, 3} {
		z, labels := matrix(r, 4, 9), []int32{3, -1, 0, 8}
		through := func() (mat[float64], mat[float64]) {
			x := mat[float64]{append([]float64(nil), z.data...), 4, 9, 9}
			for i, v := range x.data {
				if softcap > 0 {
					x.data[i] = softcap * math.Tanh(v/softcap)
				}
			}
			loss := zeros(4, 1)
			crossEntropy(x, loss, labels, 0.3, softcap)
			return x, loss
		}
		dz, _ := through()
		differ(t, "dz", z.data, dz.data, func() (sum float64) {
			_, loss := through()
			for _, l := range loss.data {
				sum += 0.3 * l
			}
			return sum
		})
	}
}

func TestEmbedDifferences(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	ids, table, up, d := []int32{2, 0, 2, 3}, matrix(r, 5, 3), matrix(r, 4, 3), zeros(5, 3)
	embedGrad(ids, up, d, 1.5)
	differ(t, "dtable", table.data, d.data, func() (sum float64) {
		for i, id := range ids {
			for c, v := range table.row(int(id)) {
				sum += 1.5 * v * up.row(i)[c]
			}
		}
		return sum
	})
}
