package ref

import (
	"math"

	"weft/runtime/device"
)

// Training operations. The mathematics is generic over the type that values are kept in, so that its tests can compare
// it with differences in float64; a device's views are float32. Sums are in float64 throughout.

type real interface{ float32 | float64 }

// mat is a matrix [rows, cols] whose rows are stride apart.
type mat[F real] struct {
	data               []F
	rows, cols, stride int
}

func (m mat[F]) row(r int) []F { return m.data[r*m.stride:][:m.cols] }

func matOf(v device.View) mat[float32] {
	if v.Rows == 0 || v.Cols == 0 {
		return mat[float32]{rows: v.Rows, cols: v.Cols}
	}
	return mat[float32]{floats(v.Buf)[v.Offset:], v.Rows, v.Cols, v.Stride}
}

// MatMul implements device.Training.
func (d *Device) MatMul(a device.MatMulArgs) error {
	if err := d.ready("matmul", a.A.Buf, a.B.Buf, a.Out.Buf); err != nil {
		return err
	}
	if err := device.CheckMatMul(a); err != nil {
		return err
	}
	matMul(matOf(a.A), matOf(a.B), matOf(a.Out), a.TransA, a.TransB, float64(a.Alpha), a.Accumulate)
	return nil
}

func matMul[F real](a, b, out mat[F], transA, transB bool, alpha float64, accumulate bool) {
	at := func(m mat[F], trans bool, r, c int) float64 {
		if trans {
			r, c = c, r
		}
		return float64(m.data[r*m.stride+c])
	}
	depth := a.cols
	if transA {
		depth = a.rows
	}
	for i := range out.rows {
		for j := range out.cols {
			var sum float64
			for k := range depth {
				sum += at(a, transA, i, k) * at(b, transB, k, j)
			}
			sum *= alpha
			if accumulate {
				sum += float64(out.row(i)[j])
			}
			out.row(i)[j] = F(sum)
		}
	}
}

// LinearGrad implements device.Training.
func (d *Device) LinearGrad(a device.LinearGradArgs) error {
	const op = "linear grad"
	if err := d.ready(op, a.DX.Buf); err != nil {
		return err
	}
	for _, p := range a.Parts {
		if err := d.ready(op, p.DY.Buf, p.Matrix.Buf); err != nil {
			return err
		}
	}
	if err := device.CheckLinearGrad(a); err != nil {
		return err
	}
	ws, dys := make([]rowsOf, len(a.Parts)), make([]mat[float32], len(a.Parts))
	for i, p := range a.Parts {
		if dys[i] = matOf(p.DY); p.W == nil {
			m := matOf(p.Matrix)
			ws[i] = rowsOf{m.rows, func(n int, to []float32) { copy(to, m.row(n)) }}
			continue
		}
		w, err := d.matrix(op, p.W)
		if err != nil {
			return err
		}
		ws[i] = rowsOf{w.m.Rows, w.m.Row}
	}
	linearGrad(ws, dys, matOf(a.DX), a.Accumulate)
	return nil
}

// rowsOf is a matrix of which one row after another is read.
type rowsOf struct {
	rows int
	row  func(n int, to []float32)
}

// linearGrad: y = x Wᵀ, so dX[t] = Σ_n dY[t][n] W[n].
func linearGrad[F real](ws []rowsOf, dys []mat[F], dx mat[F], accumulate bool) {
	sums := make([]float64, dx.rows*dx.cols)
	w := make([]float32, dx.cols)
	for i, m := range ws {
		for n := range m.rows {
			m.row(n, w)
			for t := range dx.rows {
				g := float64(dys[i].row(t)[n])
				for c, v := range w {
					sums[t*dx.cols+c] += g * float64(v)
				}
			}
		}
	}
	for t := range dx.rows {
		out := dx.row(t)
		for c, v := range sums[t*dx.cols:][:dx.cols] {
			if accumulate {
				v += float64(out[c])
			}
			out[c] = F(v)
		}
	}
}

// RMSNormGrad implements device.Training.
func (d *Device) RMSNormGrad(a device.RMSNormGradArgs) error {
	if err := d.ready("rmsnorm grad", a.X.Buf, a.DY.Buf, a.DX.Buf, a.Weight, a.DWeight); err != nil {
		return err
	}
	if err := device.CheckRMSNormGrad(a); err != nil {
		return err
	}
	var dw []float32
	if a.DWeight != nil {
		dw = floats(a.DWeight)
	}
	rmsNormGrad(matOf(a.X), matOf(a.DY), matOf(a.DX), floats(a.Weight), dw, float64(a.Eps), a.Accumulate)
	return nil
}

// rmsNormGrad: y = r w x with r = (mean(x²) + eps)^-½, so dr/dx = −r³ x/D and
//
//	dX = r (w dY − x r²/D Σ(w dY x))    dW += Σ over rows and parts of dY x r
func rmsNormGrad[F real](x, dy, dx mat[F], w, dw []F, eps float64, accumulate bool) {
	n := len(w)
	sums := make([]float64, n) // of dw
	for t := range x.rows {
		for p := 0; p < x.cols; p += n {
			xs, gs, out := x.row(t)[p:p+n], dy.row(t)[p:p+n], dx.row(t)[p:p+n]
			var square, inner float64
			for i, v := range xs {
				square += float64(v) * float64(v)
				inner += float64(v) * float64(gs[i]) * float64(w[i])
			}
			r := 1 / math.Sqrt(square/float64(n)+eps)
			for i, v := range xs {
				g := float64(gs[i])
				sums[i] += g * float64(v) * r
				d := r * (g*float64(w[i]) - float64(v)*r*r/float64(n)*inner)
				if accumulate {
					d += float64(out[i])
				}
				out[i] = F(d)
			}
		}
	}
	for i := range dw {
		dw[i] = F(float64(dw[i]) + sums[i])
	}
}

// Rotate implements device.Training.
func (d *Device) Rotate(a device.RotateArgs) error {
	if err := d.ready("rotate", a.X.Buf, a.Table); err != nil {
		return err
	}
	if err := device.CheckRotate(a); err != nil {
		return err
	}
	half := a.Rot / 2
	for t := range a.X.Rows {
		if half == 0 || a.TableRows[t] < 0 {
			continue
		}
		table := floats(a.Table)[int(a.TableRows[t])*2*half:][:2*half]
		cos, sin := table[:half], table[half:]
		if a.Inverse { // the transpose of a rotation turns back
			sin = make([]float32, half)
			for i, s := range table[half:] {
				sin[i] = -s
			}
		}
		rotate(row(a.X, t), a.HeadDim, cos, sin)
	}
	return nil
}

// GLUGrad implements device.Training.
func (d *Device) GLUGrad(a device.GLUGradArgs) error {
	if err := d.ready("glu grad", a.Gate.Buf, a.Up.Buf, a.DOut.Buf, a.DGate.Buf, a.DUp.Buf); err != nil {
		return err
	}
	if err := device.CheckGLUGrad(a); err != nil {
		return err
	}
	gluGrad(matOf(a.Gate), matOf(a.Up), matOf(a.DOut), matOf(a.DGate), matOf(a.DUp), a.Act)
	return nil
}

// gluGrad: out = act(gate) up, so dUp = dOut act(gate) and dGate = dOut up act'(gate).
func gluGrad[F real](gate, up, dout, dgate, dup mat[F], act device.Activation) {
	for t := range gate.rows {
		for i := range gate.cols {
			g, u, o := float64(gate.row(t)[i]), float64(up.row(t)[i]), float64(dout.row(t)[i])
			dgate.row(t)[i] = F(o * u * slope(act, g))
			dup.row(t)[i] = F(o * activate(act, g))
		}
	}
}

// slope is the derivative of activate.
func slope(act device.Activation, x float64) float64 {
	switch act {
	case device.GELUTanh:
		c := math.Sqrt(2 / math.Pi)
		h := math.Tanh(c * (x + 0.044715*x*x*x))
		return 0.5*(1+h) + 0.5*x*(1-h*h)*c*(1+3*0.044715*x*x)
	case device.GELUErf:
		return 0.5*math.Erfc(-x/math.Sqrt2) + x*math.Exp(-x*x/2)/math.Sqrt(2*math.Pi)
	default:
		s := 1 / (1 + math.Exp(-x))
		return s * (1 + x*(1-s))
	}
}

// CrossEntropy implements device.Training.
func (d *Device) CrossEntropy(a device.CrossEntropyArgs) error {
	if err := d.ready("cross entropy", a.Logits.Buf, a.Loss.Buf); err != nil {
		return err
	}
	if err := device.CheckCrossEntropy(a); err != nil {
		return err
	}
	crossEntropy(matOf(a.Logits), matOf(a.Loss), a.Labels, float64(a.Scale), float64(a.Softcap))
	return nil
}

// crossEntropy: loss = log Σ exp(x) − x[label], dx = softmax(x) − onehot; for x = c tanh(z/c), dz = dx (1 − (x/c)²).
func crossEntropy[F real](logits, loss mat[F], labels []int32, scale, softcap float64) {
	for t, label := range labels {
		x := logits.row(t)
		if label < 0 {
			clear(x)
			loss.row(t)[0] = 0
			continue
		}
		largest := math.Inf(-1)
		for _, v := range x {
			largest = math.Max(largest, float64(v))
		}
		var sum float64
		for _, v := range x {
			sum += math.Exp(float64(v) - largest)
		}
		loss.row(t)[0] = F(math.Log(sum) + largest - float64(x[label]))
		for i, v := range x {
			p := math.Exp(float64(v)-largest) / sum
			if i == int(label) {
				p--
			}
			p *= scale
			if softcap > 0 {
				p *= 1 - float64(v)/softcap*float64(v)/softcap
			}
			x[i] = F(p)
		}
	}
}

// EmbedGrad implements device.Training.
func (d *Device) EmbedGrad(a device.EmbedGradArgs) error {
	if err := d.ready("embed grad", a.DY.Buf, a.DTable.Buf); err != nil {
		return err
	}
	if err := device.CheckEmbedGrad(a); err != nil {
		return err
	}
	embedGrad(a.IDs, matOf(a.DY), matOf(a.DTable), float64(a.Scale))
	return nil
}

func embedGrad[F real](ids []int32, dy, table mat[F], scale float64) {
	for t, id := range ids {
		to := table.row(int(id))
		for i, g := range dy.row(t) {
			to[i] = F(float64(to[i]) + scale*float64(g))
		}
	}
}
