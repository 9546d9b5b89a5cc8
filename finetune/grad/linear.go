package grad

import (
	"weft/runtime/device"
	"weft/runtime/lora"
	"weft/runtime/tensor"
)

// LoRA is a pair of trained matrices A and B on one linear layer: y = Wx + b + Scale · B(A · dropout(x)) (Hu et al.
// 2021, arXiv:2106.09685).
type LoRA struct {
	A, B    *Param // A [R, In], B [Out, R]
	Scale   float32
	Dropout float32
	// Magnitude, if set, makes it DoRA (Liu et al. 2024, arXiv:2402.09353): [Out, 1], y = g ⊙ (Wx + Scale·BAx) + b with
	// g = m/‖W + Scale·BA‖ by rows; the norm is a constant for the gradient (section 4.3).
	Magnitude *Param

	w2   []float64 // [Out]: ‖W‖² by rows, fixed
	gain []float32 // [Out]
	norm []float32 // [Out]
}

// linear is one projection of a block: frozen in the served layout, or trained itself.
type linear struct {
	index   int // number in the model, for dropout's random values; the parts of a fused layer have the same
	in, out int
	w       device.Weight // nil where full is trained
	full    *Param        // [Out, In] or nil
	bias    device.Buffer // nil, or the served one, or of trained
	dbias   *Param        // trained bias [Out, 1] or nil
	lora    *LoRA         // nil: frozen

	firstRow int // first row of a chunk, for dropout's random values
}

func (l *linear) trained() bool { return l.full != nil || l.dbias != nil || l.lora != nil }

func (l *linear) biasBuffer() device.Buffer {
	if l.dbias != nil {
		return l.dbias.value
	}
	return l.bias
}

func view(b device.Buffer, rows, cols int) device.View {
	return device.View{Buf: b, Rows: rows, Cols: cols, Stride: cols, DType: tensor.F32}
}

// product is the computation of a linear layer: x [T, In] to y [T, Out], and the values that the backward pass needs.
type product struct {
	*linear
	y  device.View
	xa device.Buffer // [T, R]: A dropout(x)
	z  device.Buffer // [T, Out] of DoRA: (W + Scale·BA) dropout(x); on the backward pass, gain ⊙ dy
}

// yield runs the recorded operations and calls Config.Yield, if set.
func (m *Model) yield() error {
	if m.opt.Yield == nil {
		return nil
	}
	if err := m.dev.Sync(); err != nil {
		return err
	}
	m.opt.Yield()
	return nil
}

// forward computes parts with the same input x.
func (m *Model) forward(x device.View, parts ...product) error {
	if err := m.yield(); err != nil {
		return err
	}
	if err := m.halve(x); err != nil {
		return err
	}
	var frozen []device.LinearPart
	for _, p := range parts {
		if p.full == nil {
			bias := p.biasBuffer()
			if p.dora() {
				bias = nil // the gain does not multiply it
			}
			frozen = append(frozen, device.LinearPart{W: p.w, Bias: bias, Out: p.y})
			continue
		}
		if err := m.dev.MatMul(device.MatMulArgs{A: x, B: p.full.view(), TransB: true, Out: p.y, Alpha: 1,
			Precision: m.opt.Precision}); err != nil {
			return err
		}
		if err := m.addBias(p); err != nil {
			return err
		}
	}
	if len(frozen) > 0 {
		if err := m.dev.Linear(device.LinearArgs{X: x, Parts: frozen, Precision: m.opt.Precision}); err != nil {
			return err
		}
	}
	for _, p := range parts {
		if p.lora == nil {
			continue
		}
		if err := m.addLoRA(x, p); err != nil {
			return err
		}
	}
	return nil
}

func (l *linear) dora() bool { return l.lora != nil && l.lora.Magnitude != nil }

// addBias adds the bias of a layer whose product was computed without.
func (m *Model) addBias(p product) error {
	b := p.biasBuffer()
	if b == nil {
		return nil
	}
	if err := m.dev.Sync(); err != nil {
		return err
	}
	rows(p.y, func(_ int, y []float32) { add(y, floats(b)) })
	return nil
}

func (m *Model) addLoRA(x device.View, p product) error {
	a, r := p.lora, p.lora.A.Rows
	in, err := m.dropped(x, p.linear)
	if err != nil {
		return err
	}
	xa := view(p.xa, x.Rows, r)
	if err := m.dev.MatMul(device.MatMulArgs{A: in, B: a.A.view(), TransB: true, Out: xa, Alpha: 1}); err != nil {
		return err
	}
	if a.Magnitude != nil {
		return m.addDoRA(in, p)
	}
	return m.dev.MatMul(device.MatMulArgs{A: xa, B: a.B.view(), TransB: true, Out: p.y, Alpha: a.Scale,
		Accumulate: true})
}

// backward adds the gradients of the parts' parameters, and writes that of x to dx, or adds it there; the zero dx: it
// is not needed. dy of a DoRA part is overwritten if there is no dropout, and under FP16 every dy.
func (m *Model) backward(x, dx device.View, accumulate bool, parts ...gradient) error {
	if err := m.yield(); err != nil {
		return err
	}
	if err := m.halve(x); err != nil {
		return err
	}
	var sum []device.LinearGradPart
	for i := range parts {
		g := &parts[i]
		if err := m.halve(g.dy); err != nil {
			return err
		}
		g.dyb = m.dyb[i]
		if err := m.paramGrads(x, g); err != nil {
			return err
		}
		if g.full != nil {
			sum = append(sum, device.LinearGradPart{Matrix: g.full.view(), DY: g.dy})
		} else {
			sum = append(sum, device.LinearGradPart{W: g.w, DY: g.dy})
		}
		if g.lora != nil && m.drop(g.linear) == 0 {
			sum = append(sum, device.LinearGradPart{Matrix: g.lora.A.view(), DY: view(g.dyb, g.dy.Rows, g.lora.A.Rows)})
		}
	}
	if dx.Buf == nil {
		return nil
	}
	if err := m.dev.LinearGrad(device.LinearGradArgs{Parts: sum, DX: dx, Accumulate: accumulate,
		Precision: m.opt.Precision}); err != nil {
		return err
	}
	for _, g := range parts {
		if m.drop(g.linear) > 0 {
			if err := m.droppedInput(g, dx); err != nil {
				return err
			}
		}
	}
	return nil
}

// gradient is the computation of a product's backward pass.
type gradient struct {
	product
	dy  device.View   // [T, Out]
	dyb device.Buffer // [T, R]: s·dY B
}

// paramGrads adds dA = s·(dY B)ᵀ X, dB = s·dYᵀ (X Aᵀ), dW = dYᵀ X, db = Σ dY.
func (m *Model) paramGrads(x device.View, g *gradient) error {
	if g.dbias != nil || g.dora() {
		if err := m.dev.Sync(); err != nil {
			return err
		}
	}
	if g.dbias != nil {
		db := g.dbias.Grads()
		rows(g.dy, func(_ int, dy []float32) { add(db, dy) })
	}
	if g.full != nil {
		return m.dev.MatMul(device.MatMulArgs{A: g.dy, TransA: true, B: x, Out: g.full.dview(), Alpha: 1,
			Accumulate: true, Precision: m.opt.Precision})
	}
	a := g.lora
	if a == nil {
		return nil
	}
	dy := g.dy
	if g.dora() {
		dy = m.magnitudeGrad(g)
	}
	xa := view(g.xa, x.Rows, a.A.Rows)
	dyb := view(g.dyb, x.Rows, a.A.Rows)
	if err := m.dev.MatMul(device.MatMulArgs{A: dy, TransA: true, B: xa, Out: a.B.dview(), Alpha: a.Scale,
		Accumulate: true}); err != nil {
		return err
	}
	if err := m.dev.MatMul(device.MatMulArgs{A: dy, B: a.B.view(), Out: dyb, Alpha: a.Scale}); err != nil {
		return err
	}
	in, err := m.dropped(x, g.linear)
	if err != nil {
		return err
	}
	return m.dev.MatMul(device.MatMulArgs{A: dyb, TransA: true, B: in, Out: a.A.dview(), Alpha: 1, Accumulate: true})
}

// droppedInput adds s·(dY B) A to dx, through the mask of dropout.
func (m *Model) droppedInput(g gradient, dx device.View) error {
	a := g.lora
	dyb := view(g.dyb, dx.Rows, a.A.Rows)
	t := view(m.dropBuf, dx.Rows, g.in)
	if g.dora() {
		if err := m.droppedDoRA(g, t); err != nil {
			return err
		}
	}
	if err := m.dev.MatMul(device.MatMulArgs{A: dyb, B: a.A.view(), Out: t, Alpha: 1,
		Accumulate: g.dora()}); err != nil {
		return err
	}
	if err := m.dev.Sync(); err != nil {
		return err
	}
	m.mask(g.linear, t, t)
	rows(t, func(i int, from []float32) { add(row(dx, i), from) })
	return nil
}

// targetsOf are the projections of a block in the order of lora.Target.
func targetsOf(c sizes) [lora.NumTargets][2]int {
	return [lora.NumTargets][2]int{{c.q, c.hidden}, {c.kv, c.hidden}, {c.kv, c.hidden}, {c.hidden, c.q},
		{c.ffn, c.hidden}, {c.ffn, c.hidden}, {c.hidden, c.ffn}}
}
