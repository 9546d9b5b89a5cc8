package grad

import (
	"math"

	"weft/runtime/device"
)

// addDoRA turns y = Wx into Wx + (g − 1) ⊙ W x̃ + g ⊙ s·BA x̃ + b, with x̃ = dropout(x) in in: as PEFT computes it,
// where dropout applies only to the terms that training changes. Without dropout that is g ⊙ (W + s·BA)x + b.
func (m *Model) addDoRA(in device.View, p product) error {
	a, z := p.lora, view(p.z, p.y.Rows, p.out)
	dropped := m.drop(p.linear) > 0
	if dropped {
		if err := m.dev.Linear(device.LinearArgs{X: in, Parts: []device.LinearPart{{W: p.w, Out: z}},
			Precision: m.opt.Precision}); err != nil {
			return err
		}
	}
	if err := m.dev.Sync(); err != nil {
		return err
	}
	parallel(p.y.Rows, func(begin, end int) {
		for i := begin; i < end; i++ {
			y, u := row(p.y, i), row(z, i)
			if !dropped {
				copy(u, y)
			}
			for j := range y {
				y[j] -= u[j]
			}
		}
	})
	xa := view(p.xa, p.y.Rows, a.A.Rows)
	if err := m.dev.MatMul(device.MatMulArgs{A: xa, B: a.B.view(), TransB: true, Out: z, Alpha: a.Scale,
		Accumulate: true}); err != nil {
		return err
	}
	if err := m.dev.Sync(); err != nil {
		return err
	}
	var bias []float32
	if b := p.biasBuffer(); b != nil {
		bias = floats(b)
	}
	parallel(p.y.Rows, func(begin, end int) {
		for i := begin; i < end; i++ {
			y, u := row(p.y, i), row(z, i)
			for j := range y {
				y[j] += a.gain[j] * u[j]
				if bias != nil {
					y[j] += bias[j]
				}
			}
		}
	})
	return nil
}

// magnitudeGrad adds dm = Σ dy ⊙ z / ‖W + s·BA‖ and returns g ⊙ dy: in dy, or in z if the layer's own product still
// needs dy.
func (m *Model) magnitudeGrad(g *gradient) device.View {
	a, z := g.lora, view(g.z, g.dy.Rows, g.out)
	to := g.dy
	if m.drop(g.linear) > 0 {
		to = z
	}
	sum := make([]float64, g.out)
	for i := range g.dy.Rows {
		dy, u, out := row(g.dy, i), row(z, i), row(to, i)
		for j, d := range dy {
			sum[j] += float64(d) * float64(u[j])
			out[j] = a.gain[j] * d
		}
	}
	dm := a.Magnitude.Grads()
	for j := range dm {
		dm[j] += float32(sum[j] / float64(a.norm[j]))
	}
	return to
}

// droppedDoRA writes Wᵀ(g ⊙ dy − dy) to t: the gradient of (g − 1) ⊙ W x̃.
func (m *Model) droppedDoRA(g gradient, t device.View) error {
	if err := m.dev.Sync(); err != nil {
		return err
	}
	z := view(g.z, g.dy.Rows, g.out)
	rows(z, func(i int, u []float32) {
		for j, d := range row(g.dy, i) {
			u[j] -= d
		}
	})
	return m.dev.LinearGrad(device.LinearGradArgs{Parts: []device.LinearGradPart{{W: g.w, DY: z}}, DX: t,
		Precision: m.opt.Precision})
}

// Renew recomputes the values that depend on the parameters only: rounded copies of masters, DoRA's gains. Call it
// after every change of parameters.
func (m *Model) Renew() error {
	m.renewCopies()
	for _, l := range m.linears {
		if l.dora() {
			if err := m.renewGain(l); err != nil {
				return err
			}
		}
	}
	return nil
}

// renewGain computes ‖W + s·BA‖ by rows: ‖W‖² + 2s·B(A Wᵀ) + s²·B(AAᵀ)Bᵀ, in float64.
func (m *Model) renewGain(l *linear) error {
	a, r := l.lora, l.lora.A.Rows
	if a.w2 == nil {
		if err := m.fixedNorms(l); err != nil {
			return err
		}
	}
	// A Wᵀ is the layer itself with A's rows as tokens.
	out := view(m.aw, r, l.out)
	for done := 0; done < r; done += m.rowsAtOnce {
		n := min(m.rowsAtOnce, r-done)
		x := a.A.view()
		x.Offset, x.Rows = int64(done)*int64(l.in), n
		y := out
		y.Offset, y.Rows = int64(done)*int64(l.out), n
		if err := m.dev.Linear(device.LinearArgs{X: x, Parts: []device.LinearPart{{W: l.w, Out: y}},
			Precision: device.Float32}); err != nil {
			return err
		}
	}
	if err := m.dev.Sync(); err != nil {
		return err
	}
	A, B, mag, s := a.A.Values(), a.B.Values(), a.Magnitude.Values(), float64(a.Scale)
	aa := make([]float64, r*r)
	for i := range r {
		for j := range i + 1 {
			sum := 0.0
			for k := range l.in {
				sum += float64(A[i*l.in+k]) * float64(A[j*l.in+k])
			}
			aa[i*r+j], aa[j*r+i] = sum, sum
		}
	}
	wa := floats(m.aw)
	for n := range l.out {
		b := B[n*r:][:r]
		sum := a.w2[n]
		for i := range b {
			inner := 0.0
			for j := range b {
				inner += aa[i*r+j] * float64(b[j])
			}
			sum += float64(b[i]) * s * (2*float64(wa[i*l.out+n]) + s*inner)
		}
		a.norm[n] = float32(math.Sqrt(max(sum, 0)))
		a.gain[n] = mag[n] / a.norm[n]
	}
	return nil
}

// fixedNorms computes ‖W‖² by rows from the rows as dequantized by the device.
func (m *Model) fixedNorms(l *linear) error {
	a := l.lora
	a.w2, a.norm, a.gain = make([]float64, l.out), make([]float32, l.out), make([]float32, l.out)
	const at = 64
	buf, err := m.dev.Alloc(device.Activations, 4*at*int64(l.in))
	if err != nil {
		return err
	}
	defer buf.Free()
	for first := 0; first < l.out; first += at {
		ids := make([]int32, min(at, l.out-first))
		for i := range ids {
			ids[i] = int32(first + i)
		}
		v := view(buf, len(ids), l.in)
		if err := m.dev.Embed(device.EmbedArgs{IDs: ids, Table: l.w, Scale: 1, Out: v}); err != nil {
			return err
		}
		if err := m.dev.Sync(); err != nil {
			return err
		}
		rows(v, func(i int, w []float32) {
			for _, x := range w {
				a.w2[first+i] += float64(x) * float64(x)
			}
		})
	}
	return nil
}

// InitMagnitudes sets every magnitude to ‖W + s·BA‖, so that training starts from the base's rows.
func (m *Model) InitMagnitudes() error {
	for _, l := range m.linears {
		if !l.dora() {
			continue
		}
		if err := m.renewGain(l); err != nil {
			return err
		}
		copy(l.lora.Magnitude.Values(), l.lora.norm)
	}
	return m.Renew()
}
