package model

import (
	"fmt"

	"weft/runtime/device"
	"weft/runtime/lora"
)

// CheckAdapter refuses an adapter whose matrices do not fit the model: a batch with it would fail.
func CheckAdapter(c *Config, w *lora.Weights) error {
	if len(w.Layers) != c.Layers {
		return fmt.Errorf("adapter: %w: it has %d layers, the model %d", device.ErrShape, len(w.Layers), c.Layers)
	}
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	shapes := [lora.NumTargets][2]int{ // out, in
		lora.QProj: {q, c.Hidden}, lora.KProj: {kv, c.Hidden}, lora.VProj: {kv, c.Hidden}, lora.OProj: {c.Hidden, q},
		lora.GateProj: {c.FFN, c.Hidden}, lora.UpProj: {c.FFN, c.Hidden}, lora.DownProj: {c.Hidden, c.FFN},
	}
	for l := range w.Layers {
		for t, s := range shapes {
			if err := fits(fmt.Sprintf("layer %d, target module %d", l, t), &w.Layers[l][t], s[0], s[1]); err != nil {
				return err
			}
		}
	}
	if err := fits("the head", &w.Head, c.Vocab, c.Hidden); err != nil {
		return err
	}
	if m := &w.Embed.M; m.Rank > c.FFN {
		return fmt.Errorf("adapter: %w: the embedding's rank %d is above %d", device.ErrShape, m.Rank, c.FFN)
	} else if !m.Empty() &&
		(m.Out != c.Hidden || m.Rank > 0 &&
			(w.Embed.Table == nil || w.Embed.Table.Rows() != c.Vocab || w.Embed.Table.Cols() != m.Rank)) {
		return fmt.Errorf("adapter: %w: its embedding has %d columns or another vocabulary; want [%d, %d]",
			device.ErrShape, m.Out, c.Vocab, c.Hidden)
	}
	widths := lora.NormWidths(c.Hidden, c.HeadDim, c.SandwichNorm, c.QKNorm)
	for l := range w.Norms {
		for n, b := range w.Norms[l] {
			if b != nil && b.Bytes() < int64(4*max(widths[n], 1)) {
				return fmt.Errorf(
					"adapter: %w: norm %d of layer %d has %d bytes; want %d weights",
					device.ErrShape,
					n,
					l,
					b.Bytes(),
					widths[n],
				)
			}
		}
	}
	if b := w.FinalNorm; b != nil && b.Bytes() < int64(4*c.Hidden) {
		return fmt.Errorf(
			"adapter: %w: the last norm has %d bytes; want %d weights",
			device.ErrShape,
			b.Bytes(),
			c.Hidden,
		)
	}
	for _, t := range []device.Weight{w.EmbedTable, w.HeadTable} {
		if t != nil && (t.Rows() != c.Vocab || t.Cols() != c.Hidden) {
			return fmt.Errorf("adapter: %w: a replaced table is [%d, %d]; want [%d, %d]", device.ErrShape, t.Rows(),
				t.Cols(), c.Vocab, c.Hidden)
		}
	}
	return nil
}

func fits(what string, m *device.LoRAMatrices, out, in int) error {
	if !m.Empty() && (m.Out != out || m.Rank > 0 && m.In != in) {
		return fmt.Errorf("adapter: %w: %s is [%d, %d]; want [%d, %d]", device.ErrShape, what, m.Out, m.In, out, in)
	}
	return nil
}

// placed is a segment of the batch and the pass in which it is applied: the n-th of those over the same tokens in pass
// n.
type placed struct {
	lora.Segment
	pass int
}

// checkAdapters refuses invalid segments and records the others.
func (d *decoder) checkAdapters(segments []lora.Segment, tokens int) error {
	d.lora, d.passes, d.whole, d.ownNorms = d.lora[:0], 0, false, false
	bad := func(i int, format string, args ...any) error {
		return fmt.Errorf("forward: %w: adapter segment %d: %s", device.ErrShape, i, fmt.Sprintf(format, args...))
	}
	begin, end := 0, 0
	for i, s := range segments {
		pass := 0
		if i > 0 && s.Begin == begin && s.End == end {
			pass = d.lora[i-1].pass + 1
		} else if s.Begin < end || s.End < s.Begin || s.End > tokens {
			return bad(i, "it covers [%d, %d) of %d tokens; want the run [%d, %d) of the one before, or a later one",
				s.Begin, s.End, tokens, begin, end)
		}
		if s.Weights == nil || len(s.Weights.Layers) != d.cfg.Layers {
			return bad(i, "no adapter, or not one of %d layers", d.cfg.Layers)
		}
		combined := pass > 0 || i+1 < len(segments) && segments[i+1].Begin == s.Begin && segments[i+1].End == s.End
		if combined || s.Scale != 1 {
			if err := s.Weights.Combinable(); err != nil {
				return bad(i, "%v", err)
			}
		}
		begin, end = s.Begin, s.End
		d.lora, d.passes = append(d.lora, placed{s, pass}), max(d.passes, pass+1)
		w := s.Weights
		d.ownNorms = d.ownNorms || w.Norms != nil || w.FinalNorm != nil
		d.whole = d.whole || w.EmbedTable != nil || w.HeadTable != nil || !w.Embed.M.Empty() || !w.Head.Empty()
	}
	return nil
}

// adapt adds the LoRA changes of the batch's adapters to the parts of a linear layer over x.
func (d *decoder) adapt(l int, x device.View, parts []part) error {
	for pass := range d.passes {
		n := 0
		for _, p := range parts {
			c := &d.changes[n]
			c.Out, c.Segments = p.out, c.Segments[:0]
			for i := range d.lora {
				if s := &d.lora[i]; s.pass == pass && !s.Weights.Layers[l][p.target].Empty() {
					c.Segments = append(c.Segments,
						device.LoRASegment{Begin: s.Begin, End: s.End, Scale: s.Scale,
							M: &s.Weights.Layers[l][p.target]})
				}
			}
			if len(c.Segments) > 0 {
				n++
			}
		}
		if n == 0 {
			continue
		}
		if err := d.dev.LoRA(device.LoRAArgs{X: x, Parts: d.changes[:n]}); err != nil {
			return err
		}
	}
	return nil
}

// norm computes an RMSNorm of all tokens of the batch, those of an adapter that replaces it with the adapter's weight.
func (d *decoder) norm(a device.RMSNormArgs, own func(*lora.Weights) device.Buffer) error {
	if !d.ownNorms {
		return d.dev.RMSNorm(a)
	}
	base, begin := a, 0
	part := func(end int, weight device.Buffer) error {
		if begin == end {
			return nil
		}
		p := base
		p.X, p.Out, p.Weight = rowsOf(base.X, begin, end), rowsOf(base.Out, begin, end), weight
		if base.Add.Buf != nil {
			p.Add = rowsOf(base.Add, begin, end)
		}
		begin = end
		return d.dev.RMSNorm(p)
	}
	for i := range d.lora {
		s := &d.lora[i]
		b := own(s.Weights)
		if s.pass > 0 || b == nil {
			continue
		}
		if err := part(s.Begin, base.Weight); err != nil {
			return err
		}
		if err := part(s.End, b); err != nil {
			return err
		}
	}
	return part(base.X.Rows, base.Weight)
}

// blockNorm is norm for a norm of block l.
func (d *decoder) blockNorm(l int, n lora.Norm, a device.RMSNormArgs) error {
	a.Eps = d.cfg.RMSEps
	return d.norm(a, func(w *lora.Weights) device.Buffer {
		if w.Norms == nil {
			return nil
		}
		return w.Norms[l][n]
	})
}

// lastNorm normalizes rows of the batch for the head, each with its own adapter's norm.
func (d *decoder) lastNorm(rows []int32, last device.View) error {
	a := device.RMSNormArgs{X: view(d.x, d.tokens, d.cfg.Hidden), Weight: d.finalNorm, Eps: d.cfg.RMSEps}
	for begin := 0; begin < len(rows); {
		end, weight := len(rows), d.finalNorm
		if d.ownNorms {
			var s *placed
			if s, end = d.nextRun(rows, begin, 0); s != nil && s.Weights.FinalNorm != nil {
				weight = s.Weights.FinalNorm
			}
		}
		a.Rows, a.Out, a.Weight = rows[begin:end], rowsOf(last, begin, end), weight
		if err := d.dev.RMSNorm(a); err != nil {
			return err
		}
		begin = end
	}
	return nil
}

// rowsOf returns the rows [begin, end) of v.
func rowsOf(v device.View, begin, end int) device.View {
	v.Offset += int64(begin) * int64(v.Stride)
	v.Rows = end - begin
	return v
}

// embedAdapters replaces the embeddings x of tokens whose adapters have their own table, and adds the adapters' LoRA on
// the embedding.
func (d *decoder) embedAdapters(b *Batch, x device.View) error {
	if !d.whole {
		return nil
	}
	for i := range d.lora {
		if s := &d.lora[i]; s.Weights.EmbedTable != nil {
			if err := d.dev.Embed(device.EmbedArgs{IDs: b.IDs[s.Begin:s.End], Table: s.Weights.EmbedTable,
				Scale: d.cfg.EmbedScale, Out: rowsOf(x, s.Begin, s.End)}); err != nil {
				return err
			}
		}
	}
	low := view(d.gate, x.Rows, d.cfg.FFN) // free until the first feed-forward
	for pass := range d.passes {
		c := &d.changes[0]
		c.Out, c.Segments = x, c.Segments[:0]
		for i := range d.lora {
			s := &d.lora[i]
			e := &s.Weights.Embed
			if s.pass != pass || e.M.Empty() {
				continue
			}
			if e.Table != nil {
				out := rowsOf(low, s.Begin, s.End)
				out.Cols = e.M.Rank
				if err := d.dev.Embed(device.EmbedArgs{IDs: b.IDs[s.Begin:s.End], Table: e.Table,
					Scale: d.cfg.EmbedScale, Out: out}); err != nil {
					return err
				}
			}
			c.Segments = append(c.Segments, device.LoRASegment{Begin: s.Begin, End: s.End, Scale: s.Scale, M: &e.M})
		}
		if len(c.Segments) > 0 {
			if err := d.dev.LoRA(device.LoRAArgs{X: low, Parts: d.changes[:1]}); err != nil {
				return err
			}
		}
	}
	return nil
}

// segmentOf returns the segment of a token in a pass, or nil.
func (d *decoder) segmentOf(token int32, pass int) *placed {
	for i := range d.lora {
		if s := &d.lora[i]; s.pass == pass && int(token) >= s.Begin && int(token) < s.End {
			return s
		}
	}
	return nil
}

// nextRun returns the segment in pass of the tokens rows[begin:end), as long as they have the same one; nil for the
// base.
func (d *decoder) nextRun(rows []int32, begin, pass int) (s *placed, end int) {
	s = d.segmentOf(rows[begin], pass)
	for end = begin + 1; end < len(rows) && d.segmentOf(rows[end], pass) == s; end++ {
	}
	return s, end
}

// logitsOf computes the head for rows of the last batch, whose normalized states are last, with their adapters' changes
// to the head.
func (d *decoder) logitsOf(rows []int32, last, logits device.View) error {
	if !d.whole {
		return d.project(d.head, last, logits)
	}
	if err := d.heads(rows, last, logits); err != nil {
		return err
	}
	for pass := range d.passes {
		c := &d.changes[0]
		c.Out, c.Segments = logits, c.Segments[:0]
		for begin := 0; begin < len(rows); {
			s, end := d.nextRun(rows, begin, pass)
			if s != nil && !s.Weights.Head.Empty() {
				c.Segments = append(c.Segments,
					device.LoRASegment{Begin: begin, End: end, Scale: s.Scale, M: &s.Weights.Head})
			}
			begin = end
		}
		if len(c.Segments) > 0 {
			if err := d.dev.LoRA(device.LoRAArgs{X: last, Parts: d.changes[:1]}); err != nil {
				return err
			}
		}
	}
	return nil
}

// heads multiplies each row with its adapter's own head, or with the model's, which is skipped if no row needs it.
func (d *decoder) heads(rows []int32, last, logits device.View) error {
	own := 0
	for _, r := range rows {
		if s := d.segmentOf(r, 0); s != nil && s.Weights.HeadTable != nil {
			own++
		}
	}
	if own < len(rows) {
		if err := d.project(d.head, last, logits); err != nil {
			return err
		}
	}
	for begin := 0; own > 0 && begin < len(rows); {
		s, end := d.nextRun(rows, begin, 0)
		if s != nil && s.Weights.HeadTable != nil {
			if err := d.project(s.Weights.HeadTable, rowsOf(last, begin, end), rowsOf(logits, begin, end)); err != nil {
				return err
			}
		}
		begin = end
	}
	return nil
}

func (d *decoder) project(w device.Weight, x, out device.View) error {
	d.parts = append(d.parts[:0], device.LinearPart{W: w, Out: out})
	return d.dev.Linear(device.LinearArgs{X: x, Parts: d.parts})
}
