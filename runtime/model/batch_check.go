package model

import (
	"fmt"

	"weft/runtime/device"
)

// check refuses an invalid batch, or one beyond the cache or the limits, before anything is recorded.
func (d *decoder) check(b *Batch, cache device.KVCache) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("forward: %w: %s", device.ErrShape, fmt.Sprintf(format, args...))
	}
	if cache == nil {
		return bad("no kv cache")
	}
	c, k, n := d.cfg, cache.Config(), len(b.IDs)
	if k.Layers != c.Layers || k.KVHeads != c.KVHeads || k.HeadDim != c.HeadDim || k.PageLen < 1 {
		return bad("the kv cache has %d layers of %d heads of %d, the model %d of %d of %d", k.Layers, k.KVHeads,
			k.HeadDim, c.Layers, c.KVHeads, c.HeadDim)
	}
	if n > d.opt.MaxBatchTokens {
		return bad("%d tokens, the model was loaded for %d", n, d.opt.MaxBatchTokens)
	}
	if len(b.Positions) != n || len(b.Indptr) != len(b.Lens)+1 || len(b.PageTables) != len(b.Lens) ||
		b.Indptr[0] != 0 || int(b.Indptr[len(b.Lens)]) != n {
		return bad("%d tokens with %d positions, %d lengths, %d page tables and the bounds %v", n, len(b.Positions),
			len(b.Lens), len(b.PageTables), b.Indptr)
	}
	for i, id := range b.IDs {
		if id < 0 || int(id) >= c.Vocab {
			return bad("id %d of token %d, the vocabulary has %d", id, i, c.Vocab)
		}
	}
	for s := range b.Lens {
		begin, end := b.Indptr[s], b.Indptr[s+1]
		if begin > end || int(end) > n {
			return bad("sequence %d has tokens [%d, %d) of %d", s, begin, end, n)
		}
		if begin == end {
			continue
		}
		first, last := b.Positions[begin], b.Positions[end-1]
		for t := begin; t < end; t++ {
			if b.Positions[t] != first+t-begin {
				return bad("token %d of sequence %d has position %d; positions are consecutive from %d on", t, s,
					b.Positions[t], first)
			}
		}
		if first < 0 || int(last) >= d.opt.MaxContext || b.Lens[s] <= last {
			return bad("sequence %d has positions %d to %d and %d known tokens in a context of %d", s, first, last,
				b.Lens[s], d.opt.MaxContext)
		}
		if pages := int(last)/k.PageLen + 1; len(b.PageTables[s]) < pages {
			return bad("sequence %d reaches position %d and needs %d pages of %d, its page table has %d", s, last,
				pages, k.PageLen, len(b.PageTables[s]))
		}
		for p := int(first) / k.PageLen; p <= int(last)/k.PageLen; p++ {
			if page := b.PageTables[s][p]; page < 0 || int(page) >= k.NumPages {
				return bad("page %d of sequence %d is %d, the cache has %d", p, s, page, k.NumPages)
			}
		}
	}
	return d.checkAdapters(b.LoRA, n)
}

// place works out the cache slot and the RoPE row of each token of a checked batch.
func (d *decoder) place(b *Batch, pageLen int) error {
	d.slots = d.slots[:0]
	for i := range d.rows {
		d.rows[i] = d.rows[i][:0]
	}
	for s := range b.Lens {
		begin, end := b.Indptr[s], b.Indptr[s+1]
		if begin == end {
			continue
		}
		for _, p := range b.Positions[begin:end] {
			d.slots = append(d.slots, b.PageTables[s][int(p)/pageLen]*int32(pageLen)+p%int32(pageLen))
		}
		for i := range d.ropes {
			variant := 0
			if r := &d.cfg.Ropes[i]; r.Long != nil && int(b.Lens[s]) > r.Original {
				variant = 1
			}
			if err := d.ropes[i].grow(variant, int(b.Positions[end-1]), d.opt.MaxContext); err != nil {
				return err
			}
			for _, p := range b.Positions[begin:end] {
				d.rows[i] = append(d.rows[i], int32(variant*d.opt.MaxContext)+p)
			}
		}
	}
	return nil
}
