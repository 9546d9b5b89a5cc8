package grad

import (
	"slices"

	"weft/runtime/device"
)

// lowRank is LoRA on the embedding: x = e·(W[id] + Scale · B A[:, id]) with e the embedding's own scale, A [R, V], B
// [H, R]. As in PEFT it has no dropout.
type lowRank struct {
	*LoRA
	low, dlow device.Buffer // [T, R]: e·A[:, id], and its gradient
}

func (m *Model) embedTrained() bool { return m.embed != nil || m.table != nil }

// embedTokens writes the embeddings of a batch to x.
func (m *Model) embedTokens(b *layout, x device.View) error {
	if m.embed == nil {
		if err := m.dev.Embed(device.EmbedArgs{IDs: b.ids, Table: m.frozen.Embed, Scale: m.cfg.EmbedScale,
			Out: x}); err != nil {
			return err
		}
	}
	if !m.embedTrained() {
		return nil
	}
	if err := m.dev.Sync(); err != nil {
		return err
	}
	if m.embed != nil {
		table := m.embed.Values()
		for t, id := range b.ids {
			to := row(x, t)
			for i, v := range table[int(id)*m.sizes.hidden:][:len(to)] {
				to[i] = v * m.cfg.EmbedScale
			}
		}
	}
	a := m.table
	if a == nil {
		return nil
	}
	low, values := view(a.low, x.Rows, a.A.Rows), a.A.Values()
	for t, id := range b.ids {
		for k, to := 0, row(low, t); k < len(to); k++ {
			to[k] = values[k*a.A.Cols+int(id)] * m.cfg.EmbedScale
		}
	}
	return m.dev.MatMul(device.MatMulArgs{A: low, B: a.B.view(), TransB: true, Out: x, Alpha: a.Scale,
		Accumulate: true})
}

// embedBackward adds the gradients of the trained parts of the embedding; dx is that of its output.
func (m *Model) embedBackward(b *layout, dx device.View) error {
	if m.embed != nil {
		if err := m.tableGrad(b, dx); err != nil {
			return err
		}
	}
	a := m.table
	if a == nil {
		return nil
	}
	low, dlow := view(a.low, dx.Rows, a.A.Rows), view(a.dlow, dx.Rows, a.A.Rows)
	if err := m.dev.MatMul(device.MatMulArgs{A: dx, TransA: true, B: low, Out: a.B.dview(), Alpha: a.Scale,
		Accumulate: true}); err != nil {
		return err
	}
	if err := m.dev.MatMul(device.MatMulArgs{A: dx, B: a.B.view(), Out: dlow, Alpha: a.Scale}); err != nil {
		return err
	}
	if err := m.dev.Sync(); err != nil {
		return err
	}
	grads := a.A.Grads()
	for t, id := range b.ids { // in the order of the tokens
		if m.padding(id) {
			continue
		}
		for k, g := range row(dlow, t) {
			grads[k*a.A.Cols+int(id)] += g * m.cfg.EmbedScale
		}
	}
	return nil
}

// padding reports whether a token's row of the embedding gets no gradient from the input side, as with torch's
// padding_idx; a tied head still gives it one.
func (m *Model) padding(id int32) bool { return m.cfg.Pad != nil && int(id) == *m.cfg.Pad }

// tableGrad adds the gradient of a whole embedding.
func (m *Model) tableGrad(b *layout, dx device.View) error {
	args := device.EmbedGradArgs{IDs: b.ids, DY: dx, DTable: m.embed.dview(), Scale: m.cfg.EmbedScale}
	at := slices.IndexFunc(b.ids, m.padding)
	if at < 0 {
		return m.dev.EmbedGrad(args)
	}
	if err := m.dev.Sync(); err != nil {
		return err
	}
	padding := row(args.DTable, int(b.ids[at]))
	was := slices.Clone(padding)
	if err := m.dev.EmbedGrad(args); err != nil {
		return err
	}
	if err := m.dev.Sync(); err != nil {
		return err
	}
	copy(padding, was)
	return nil
}
