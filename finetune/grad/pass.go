package grad

import (
	"fmt"

	"weft/runtime/device"
	"weft/runtime/lora"
)

// Loss returns the sum of the cross-entropies of a micro-batch's trained tokens, without gradients and without dropout.
func (m *Model) Loss(b *Batch) (float64, error) {
	m.training = false
	return m.run(b, 0, false)
}

// Step returns the sum of the cross-entropies and adds scale times its gradient to the parameters'. With scale = 1 /
// (trained tokens of all micro-batches of an optimizer step) the gradient is that of the mean over tokens. seed is that
// of dropout.
func (m *Model) Step(b *Batch, scale float32, seed uint64) (float64, error) {
	m.training, m.seed = true, seed
	return m.run(b, scale, true)
}

// Next returns the logits [V] of the token after ids, as the trained model computes them without dropout. They are
// valid until the next call.
func (m *Model) Next(ids []int32) ([]float32, error) {
	m.training = false
	b := &Batch{IDs: ids, Labels: make([]int32, len(ids)), Indptr: []int32{0, int32(len(ids))}}
	if err := m.check(b); err != nil {
		return nil, err
	}
	if err := m.hidden(whole(ids)); err != nil {
		return nil, err
	}
	if err := m.dev.Sync(); err != nil {
		return nil, err
	}
	s, c := m.sizes, m.cfg
	rx, rh, logits := view(m.rowsX, 1, s.hidden), view(m.rowsH, 1, s.hidden), view(m.logits, 1, c.Vocab)
	copy(row(rx, 0), row(view(m.x, len(ids), s.hidden), len(ids)-1))
	if err := m.dev.RMSNorm(device.RMSNormArgs{X: rx, Out: rh, Weight: normOf(m.norm, m.frozen.Norm),
		Eps: c.RMSEps}); err != nil {
		return nil, err
	}
	m.head.firstRow = 0
	if err := m.forward(rh, m.headPart(logits)); err != nil {
		return nil, err
	}
	if c.FinalSoftcap > 0 {
		if err := m.dev.Softcap(device.SoftcapArgs{X: logits, Cap: c.FinalSoftcap}); err != nil {
			return nil, err
		}
	}
	if err := m.dev.Sync(); err != nil {
		return nil, err
	}
	return row(logits, 0), nil
}

func (m *Model) check(b *Batch) error {
	n := len(b.IDs)
	if n == 0 || n > m.opt.MaxTokens || len(b.Labels) != n || len(b.Indptr) < 2 || b.Indptr[0] != 0 ||
		int(b.Indptr[len(b.Indptr)-1]) != n {
		return fmt.Errorf("micro-batch: %w: %d tokens, %d labels and %d sample bounds; at most %d tokens",
			device.ErrShape, n, len(b.Labels), len(b.Indptr), m.opt.MaxTokens)
	}
	for d := range len(b.Indptr) - 1 {
		if k := b.Indptr[d+1] - b.Indptr[d]; k < 0 || int(k) > m.opt.MaxSample {
			return fmt.Errorf("micro-batch: %w: sample %d has %d tokens, at most %d", device.ErrShape, d, k,
				m.opt.MaxSample)
		}
	}
	for t := range b.IDs {
		if b.IDs[t] < 0 || int(b.IDs[t]) >= m.cfg.Vocab || int(b.Labels[t]) >= m.cfg.Vocab {
			return fmt.Errorf("micro-batch: %w: token %d is %d with label %d, the vocabulary has %d", device.ErrShape,
				t, b.IDs[t], b.Labels[t], m.cfg.Vocab)
		}
	}
	return nil
}

func (m *Model) run(b *Batch, scale float32, grads bool) (float64, error) {
	if err := m.check(b); err != nil {
		return 0, err
	}
	l := m.lay(b)
	if len(l.at) == 0 {
		return 0, nil
	}
	return m.compute(l, scale, grads)
}

func (m *Model) compute(b *layout, scale float32, grads bool) (float64, error) {
	if err := m.hidden(b); err != nil {
		return 0, err
	}
	loss, err := m.output(b, scale, grads)
	if err != nil || !grads {
		return loss, err
	}
	for l := len(m.blocks) - 1; l >= m.first; l-- {
		if m.opt.Checkpoint {
			if err := m.again(l, b); err != nil {
				return 0, fmt.Errorf("layer %d: %w", l, err)
			}
		}
		if err := m.backwardBlock(l, b); err != nil {
			return 0, fmt.Errorf("layer %d backward: %w", l, err)
		}
	}
	if err := m.embedBackward(b, view(m.dx, len(b.ids), m.sizes.hidden)); err != nil {
		return 0, err
	}
	return loss, m.dev.Sync()
}

// hidden computes all blocks and leaves the last one's output in x.
func (m *Model) hidden(b *layout) error {
	m.turn(b)
	x := view(m.x, len(b.ids), m.sizes.hidden)
	if err := m.embedTokens(b, x); err != nil {
		return err
	}
	for l := range m.blocks {
		if err := m.forwardBlock(l, b, x); err != nil {
			return fmt.Errorf("layer %d: %w", l, err)
		}
	}
	return nil
}

// normOf returns the weight of a norm: trained, or the base's.
func normOf(p *Param, frozen device.Buffer) device.Buffer {
	if p != nil {
		return p.value
	}
	return frozen
}

func dnormOf(p *Param) device.Buffer {
	if p != nil {
		return p.grad
	}
	return nil
}

// forwardBlock computes a block on x, in place.
func (m *Model) forwardBlock(l int, b *layout, x device.View) error {
	n, s, blk := len(b.ids), m.sizes, &m.blocks[l]
	if err := m.dev.Sync(); err != nil {
		return err
	}
	in := view(blk.x, n, s.hidden)
	copyRows(in, x)
	if err := m.inner(l, b); err != nil {
		return err
	}
	// y is what the block adds; x = xm + y
	y := view(m.y, n, s.hidden)
	if err := m.dev.Sync(); err != nil {
		return err
	}
	copyRows(x, view(blk.keep.xm, n, s.hidden))
	return m.dev.Add(device.AddArgs{X: x, Y: y})
}

// again recomputes the values that a block keeps from its input.
func (m *Model) again(l int, b *layout) error { return m.inner(l, b) }

func (blk *block) part(t lora.Target, y device.Buffer, n int) product {
	lin := blk.linear[t]
	return product{linear: lin, y: view(y, n, lin.out), xa: blk.keep.xa[t], z: blk.keep.z[t]}
}

// inner computes from a block's input all values that it keeps, and in y its output before the last residual sum.
func (m *Model) inner(l int, b *layout) error {
	n, s, c, blk := len(b.ids), m.sizes, m.cfg, &m.blocks[l]
	k := blk.keep
	in, y := view(blk.x, n, s.hidden), view(m.y, n, s.hidden)
	h1, h2, xm := view(m.h1, n, s.hidden), view(m.h2, n, s.hidden), view(k.xm, n, s.hidden)
	if err := m.dev.RMSNorm(device.RMSNormArgs{X: in, Out: h1, Weight: normOf(blk.attnNorm, blk.AttnNorm),
		Eps: c.RMSEps}); err != nil {
		return err
	}
	if err := m.attention(l, b, h1); err != nil {
		return err
	}
	if err := m.forward(view(k.att, n, s.q), blk.part(lora.OProj, m.y, n)); err != nil {
		return err
	}
	if err := m.post(blk.postAttn, blk.PostAttn, k.y1, y); err != nil {
		return err
	}
	if err := m.dev.Sync(); err != nil {
		return err
	}
	copyRows(xm, in)
	if err := m.dev.RMSNorm(device.RMSNormArgs{X: xm, Add: y, Out: h2, Weight: normOf(blk.mlpNorm, blk.MLPNorm),
		Eps: c.RMSEps}); err != nil {
		return err
	}
	if err := m.forward(h2, blk.part(lora.GateProj, k.gate, n), blk.part(lora.UpProj, k.up, n)); err != nil {
		return err
	}
	act := view(m.act, n, s.ffn)
	if err := m.dev.GLU(device.GLUArgs{Gate: view(k.gate, n, s.ffn), Up: view(k.up, n, s.ffn), Out: act,
		Act: c.Act}); err != nil {
		return err
	}
	if err := m.forward(act, blk.part(lora.DownProj, m.y, n)); err != nil {
		return err
	}
	return m.post(blk.postMLP, blk.PostMLP, k.y2, y)
}

// attention computes q, k, v and the attention output.
func (m *Model) attention(l int, b *layout, h device.View) error {
	n, s, c, blk := len(b.ids), m.sizes, m.cfg, &m.blocks[l]
	k := blk.keep
	toQ, toK := k.q, k.k
	if blk.QNorm != nil {
		toQ, toK = k.q0, k.k0
	}
	if err := m.forward(h, blk.part(lora.QProj, toQ, n), blk.part(lora.KProj, toK, n),
		blk.part(lora.VProj, k.v, n)); err != nil {
		return err
	}
	q, key := view(k.q, n, s.q), view(k.k, n, s.kv)
	if blk.QNorm != nil {
		if err := m.dev.RMSNorm(device.RMSNormArgs{X: view(k.q0, n, s.q), Out: q, Weight: normOf(blk.qNorm, blk.QNorm),
			Parts: c.Heads, Eps: c.RMSEps}); err != nil {
			return err
		}
		if err := m.dev.RMSNorm(device.RMSNormArgs{X: view(k.k0, n, s.kv), Out: key,
			Weight: normOf(blk.kNorm, blk.KNorm), Parts: c.KVHeads, Eps: c.RMSEps}); err != nil {
			return err
		}
	}
	if err := m.rotate(l, q, key, false); err != nil {
		return err
	}
	return m.dev.SelfAttention(m.attentionArgs(l, b))
}

func (m *Model) attentionArgs(l int, b *layout) device.SelfAttentionArgs {
	n, s, c, k := len(b.ids), m.sizes, m.cfg, m.blocks[l].keep
	return device.SelfAttentionArgs{
		Q: view(k.q, n, s.q), K: view(k.k, n, s.kv), V: view(k.v, n, s.kv), Out: view(k.att, n, s.q),
		LSE: view(k.lse, n, c.Heads), HeadDim: c.HeadDim,
		Indptr: b.indptr, Prefix: b.prefix, Scale: c.AttnScale, Softcap: c.AttnSoftcap, Window: c.Windows[l],
	}
}

func (m *Model) rotate(l int, q, k device.View, inverse bool) error {
	kind := m.cfg.RopeOf[l]
	for _, v := range []device.View{q, k} {
		if err := m.dev.Rotate(device.RotateArgs{
			X: v, HeadDim: m.cfg.HeadDim, Rot: m.cfg.Ropes[kind].Rot, Table: m.ropes.Table(kind),
			TableRows: m.ropeRows[kind], Inverse: inverse,
		}); err != nil {
			return err
		}
	}
	return nil
}

// post normalizes y if the architecture has a norm there, and keeps the input of the norm.
func (m *Model) post(p *Param, frozen device.Buffer, keep device.Buffer, y device.View) error {
	if frozen == nil {
		return nil
	}
	if err := m.dev.Sync(); err != nil {
		return err
	}
	before := view(keep, y.Rows, y.Cols)
	copyRows(before, y)
	return m.dev.RMSNorm(device.RMSNormArgs{X: before, Out: y, Weight: normOf(p, frozen), Eps: m.cfg.RMSEps})
}

// output computes the loss from x and, where grads is set, the gradient of x in dx. Rows without a label are skipped.
func (m *Model) output(b *layout, scale float32, grads bool) (float64, error) {
	if err := m.dev.Sync(); err != nil {
		return 0, err
	}
	n, s := len(b.ids), m.sizes
	x, dx := view(m.x, n, s.hidden), view(m.dx, n, s.hidden)
	if grads {
		zero(dx)
	}
	at, labels, total := b.at, b.labels, 0.0
	m.head.firstRow = 0
	for len(at) > 0 {
		k := min(m.rowsAtOnce, len(at))
		loss, err := m.chunk(x, dx, at[:k], labels[:k], scale, grads)
		if err != nil {
			return 0, err
		}
		total += loss
		at, labels = at[k:], labels[k:]
		m.head.firstRow += k
	}
	return total, nil
}

// chunk is the head for some rows: norm, logits, cross-entropy and their backward pass.
func (m *Model) chunk(x, dx device.View, at, labels []int32, scale float32, grads bool) (float64, error) {
	n, s, c := len(at), m.sizes, m.cfg
	rx, rh, logits, loss := view(m.rowsX, n, s.hidden), view(m.rowsH, n, s.hidden), view(m.logits, n, c.Vocab),
		view(m.loss, n, 1)
	for i, t := range at {
		copy(row(rx, i), row(x, int(t)))
	}
	norm := normOf(m.norm, m.frozen.Norm)
	if err := m.dev.RMSNorm(device.RMSNormArgs{X: rx, Out: rh, Weight: norm, Eps: c.RMSEps}); err != nil {
		return 0, err
	}
	if err := m.forward(rh, m.headPart(logits)); err != nil {
		return 0, err
	}
	if c.FinalSoftcap > 0 {
		if err := m.dev.Softcap(device.SoftcapArgs{X: logits, Cap: c.FinalSoftcap}); err != nil {
			return 0, err
		}
	}
	if err := m.dev.CrossEntropy(device.CrossEntropyArgs{Logits: logits, Labels: labels, Loss: loss, Scale: scale,
		Softcap: c.FinalSoftcap}); err != nil {
		return 0, err
	}
	if grads {
		drh, drx := view(m.dRowsH, n, s.hidden), view(m.dRowsX, n, s.hidden)
		if err := m.backward(rh, drh, false, gradient{product: m.headPart(device.View{}), dy: logits}); err != nil {
			return 0, err
		}
		if err := m.dev.RMSNormGrad(device.RMSNormGradArgs{X: rx, DY: drh, DX: drx, Weight: norm,
			DWeight: dnormOf(m.norm), Eps: c.RMSEps}); err != nil {
			return 0, err
		}
	}
	if err := m.dev.Sync(); err != nil {
		return 0, err
	}
	total := 0.0
	for i, t := range at {
		total += float64(row(loss, i)[0])
		if grads {
			copy(row(dx, int(t)), row(view(m.dRowsX, n, s.hidden), i))
		}
	}
	return total, nil
}

// headPart is the computation of the head for rows of a chunk.
func (m *Model) headPart(logits device.View) product {
	return product{linear: &m.head, y: logits, xa: m.headXA, z: m.headZ}
}
