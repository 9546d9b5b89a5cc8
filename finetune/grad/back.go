package grad

import (
	"weft/runtime/device"
	"weft/runtime/lora"
)

func (blk *block) grad(m *Model, t lora.Target, dy device.View) gradient {
	return gradient{product: blk.part(t, nil, dy.Rows), dy: dy}
}

// backwardBlock turns dx, the gradient of a block's output, into that of its input and adds its parameters' gradients.
func (m *Model) backwardBlock(l int, b *layout) error {
	n, s, c, blk := len(b.ids), m.sizes, m.cfg, &m.blocks[l]
	k, dx := blk.keep, view(m.dx, n, s.hidden)
	last := l == m.first && !m.embedTrained() // the gradient of the input is not needed

	// x' = xm + post(down(act(gate, up)))
	dy, err := m.postBackward(blk.postMLP, blk.PostMLP, k.y2, dx, blk.linear[lora.DownProj])
	if err != nil {
		return err
	}
	act, gate, up := view(m.act, n, s.ffn), view(k.gate, n, s.ffn), view(k.up, n, s.ffn)
	if err := m.dev.GLU(device.GLUArgs{Gate: gate, Up: up, Out: act, Act: c.Act}); err != nil {
		return err
	}
	dact := view(m.dh, n, s.ffn)
	if err := m.backward(act, dact, false, blk.grad(m, lora.DownProj, dy)); err != nil {
		return err
	}
	dgate, dup := view(m.dgate, n, s.ffn), view(m.dup, n, s.ffn)
	if err := m.dev.GLUGrad(device.GLUGradArgs{Gate: gate, Up: up, DOut: dact, DGate: dgate, DUp: dup,
		Act: c.Act}); err != nil {
		return err
	}
	dh, h2, xm := view(m.dh, n, s.hidden), view(m.h2, n, s.hidden), view(k.xm, n, s.hidden)
	if err := m.dev.RMSNorm(device.RMSNormArgs{X: xm, Out: h2, Weight: normOf(blk.mlpNorm, blk.MLPNorm),
		Eps: c.RMSEps}); err != nil {
		return err
	}
	if err := m.backward(h2, dh, false, blk.grad(m, lora.GateProj, dgate), blk.grad(m, lora.UpProj, dup)); err != nil {
		return err
	}
	if err := m.dev.RMSNormGrad(device.RMSNormGradArgs{
		X: xm, DY: dh, DX: dx, Weight: normOf(blk.mlpNorm, blk.MLPNorm), DWeight: dnormOf(blk.mlpNorm), Eps: c.RMSEps,
		Accumulate: true,
	}); err != nil {
		return err
	}

	// xm = x + post(o(attention(q, k, v)))
	if dy, err = m.postBackward(blk.postAttn, blk.PostAttn, k.y1, dx, blk.linear[lora.OProj]); err != nil {
		return err
	}
	datt := view(m.datt, n, s.q)
	if err := m.backward(view(k.att, n, s.q), datt, false, blk.grad(m, lora.OProj, dy)); err != nil {
		return err
	}
	dq, dk, dv := view(m.dq, n, s.q), view(m.dk, n, s.kv), view(m.dv, n, s.kv)
	if err := m.dev.SelfAttentionGrad(device.SelfAttentionGradArgs{SelfAttentionArgs: m.attentionArgs(l, b), DOut: datt,
		DQ: dq, DK: dk, DV: dv}); err != nil {
		return err
	}
	if err := m.rotate(l, dq, dk, true); err != nil {
		return err
	}
	if err := m.qkNormBack(blk, dq, dk); err != nil {
		return err
	}
	if last {
		dh = device.View{}
	}
	h1 := view(m.h1, n, s.hidden)
	if err := m.dev.RMSNorm(device.RMSNormArgs{X: view(blk.x, n, s.hidden), Out: h1,
		Weight: normOf(blk.attnNorm, blk.AttnNorm), Eps: c.RMSEps}); err != nil {
		return err
	}
	if err := m.backward(h1, dh, false,
		blk.grad(m, lora.QProj, dq), blk.grad(m, lora.KProj, dk), blk.grad(m, lora.VProj, dv)); err != nil {
		return err
	}
	if last {
		return nil
	}
	return m.dev.RMSNormGrad(device.RMSNormGradArgs{
		X: view(blk.x, n, s.hidden), DY: dh, DX: dx, Weight: normOf(blk.attnNorm, blk.AttnNorm),
		DWeight: dnormOf(blk.attnNorm), Eps: c.RMSEps, Accumulate: true,
	})
}

// postBackward is the backward pass of the norm after a projection, if there is one; dx itself is unchanged.
func (m *Model) postBackward(p *Param, frozen, keep device.Buffer, dx device.View, to *linear) (device.View, error) {
	dy := view(m.y, dx.Rows, dx.Cols)
	if frozen == nil {
		if !to.dora() && !m.opt.FP16 {
			return dx, nil
		}
		// DoRA and FP16 overwrite the gradient passed to them.
		if err := m.dev.Sync(); err != nil {
			return dy, err
		}
		copyRows(dy, dx)
		return dy, nil
	}
	return dy,
		m.dev.RMSNormGrad(device.RMSNormGradArgs{X: view(keep, dx.Rows, dx.Cols), DY: dx, DX: dy,
			Weight: normOf(p, frozen), DWeight: dnormOf(p), Eps: m.cfg.RMSEps})
}

func (m *Model) qkNormBack(blk *block, dq, dk device.View) error {
	if blk.QNorm == nil {
		return nil
	}
	k, c := blk.keep, m.cfg
	if err := m.dev.RMSNormGrad(device.RMSNormGradArgs{
		X: view(k.q0, dq.Rows, dq.Cols), DY: dq, DX: dq, Weight: normOf(blk.qNorm, blk.QNorm),
		DWeight: dnormOf(blk.qNorm), Parts: c.Heads, Eps: c.RMSEps,
	}); err != nil {
		return err
	}
	return m.dev.RMSNormGrad(device.RMSNormGradArgs{
		X: view(k.k0, dk.Rows, dk.Cols), DY: dk, DX: dk, Weight: normOf(blk.kNorm, blk.KNorm),
		DWeight: dnormOf(blk.kNorm), Parts: c.KVHeads, Eps: c.RMSEps,
	})
}
