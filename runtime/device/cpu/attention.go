//go:build cgo

package cpu

/*
#include "kernels/kernels.h"
*/
import "C"

import (
	"fmt"
	"unsafe"

	"weft/runtime/device"
)

func (d *cpuDevice) RoPE(a device.RoPEArgs) error {
	const op = "rope"
	if err := d.begin(op, device.CheckRoPE(a)); err != nil {
		return err
	}
	kv, err := d.ownCache(op, a.Cache)
	if err != nil {
		return err
	}
	v, err := d.operands(op, a.Q, a.K, a.V)
	if err != nil {
		return err
	}
	table, err := d.data(op, "the table", a.Table)
	if err != nil || len(a.Slots) == 0 {
		return err
	}
	if err := small(op, len(a.Slots), a.Q.Cols); err != nil {
		return err
	}
	r, err := record[C.rope_op](d)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if r.slots, err = d.arena.ints(a.Slots); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if r.table_rows, err = d.arena.ints(a.TableRows); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	r.kv = kv.layer(a.Layer)
	r.q, r.k, r.v, r.table = v[0].at, v[1].at, v[2].at, table
	r.q_stride, r.k_stride, r.v_stride = v[0].stride, v[1].stride, v[2].stride
	r.rows, r.rot = C.int32_t(len(a.Slots)), C.int32_t(a.Rot)
	if v[0].at != nil {
		r.q_heads = C.int32_t(a.Q.Cols / a.HeadDim)
	}
	d.push(unsafe.Pointer(r), C.OP_ROPE)
	return nil
}

// tiling says how the work of an attention is divided: query heads of a KV head and rows of a sequence into items of at
// most QUERIES_MAX queries, and, where an item would have many keys, its key blocks (KEY_BLOCK absolute positions each)
// too.
type tiling struct{ heads, rows, keyBlocks int }

// tilingOf divides the work finely enough for the threads to balance it: about eight items per thread by keys, at least
// one key block each.
func tilingOf(a *device.AttentionArgs, kvHeads, group, threads int) tiling {
	t := tiling{heads: min(group, C.QUERIES_MAX)}
	t.rows = max(1, C.QUERIES_MAX/t.heads)
	longest, sum, items := 0, 0, 0
	for s := range len(a.Indptr) - 1 {
		for row := int(a.Indptr[s]); row < int(a.Indptr[s+1]); row += t.rows {
			last := min(row+t.rows, int(a.Indptr[s+1])) - 1
			n := keyBlocksOf(a.Positions[row], a.Positions[last], a.Window)
			longest, sum, items = max(longest, n), sum+n, items+kvHeads*((group+t.heads-1)/t.heads)
		}
	}
	sum *= kvHeads * ((group + t.heads - 1) / t.heads)
	t.keyBlocks = max(1, sum/(8*threads))
	if longest <= t.keyBlocks {
		t.keyBlocks = longest
	}
	for longest == 1 && t.heads > 1 && items < 2*threads {
		t.heads = (t.heads + 1) / 2
		items *= 2
	}
	return t
}

// keyBlocksOf returns how many key blocks contain keys that are visible to rows at the positions from first to last.
func keyBlocksOf(first, last int32, window int) int {
	begin, _ := keyBlockRange(first, last, window)
	return int(last)/C.KEY_BLOCK - begin + 1
}

func keyBlockRange(first, last int32, window int) (begin, end int) {
	if window > 0 {
		begin = max(0, int(first)-window+1) / C.KEY_BLOCK
	}
	return begin, int(last)/C.KEY_BLOCK + 1
}

func (d *cpuDevice) Attention(a device.AttentionArgs) error {
	const op = "attention"
	if err := d.begin(op, device.CheckAttention(a)); err != nil {
		return err
	}
	kv, err := d.ownCache(op, a.Cache)
	if err != nil {
		return err
	}
	q, err := d.floats(op, "q", a.Q)
	if err != nil {
		return err
	}
	out, err := d.floats(op, "out", a.Out)
	if err != nil || len(a.Positions) == 0 {
		return err
	}
	if err := small(op, len(a.Positions), a.Q.Cols, a.Window); err != nil {
		return err
	}
	r, err := record[C.attention_op](d)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	group := a.Q.Cols / a.HeadDim / kv.config.KVHeads
	w := attentionWork{t: tilingOf(&a, kv.config.KVHeads, group, d.threads), group: group, kv: kv.config}
	if err := d.attentionWork(&a, &w); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	part := int64(a.HeadDim+15)&^15 + 16
	if err := d.needScratch(4 * C.QUERIES_MAX * (C.KEY_BLOCK + 2*part)); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if err := d.needShared(4 * part * w.parts); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	r.parts = (**C.float)(unsafe.Pointer(d.shared))
	r.kv = kv.layer(a.Layer)
	r.q, r.out, r.q_stride, r.out_stride = q, out, C.int64_t(a.Q.Stride), C.int64_t(a.Out.Stride)
	r.item, r.items, r.window = unsafe.SliceData(w.items), C.int32_t(len(w.items)), C.int32_t(a.Window)
	r.merge, r.merges = unsafe.SliceData(w.merges), C.int32_t(len(w.merges))
	r.scale, r.softcap = C.float(a.Scale), C.float(a.Softcap)
	d.push(unsafe.Pointer(r), C.OP_ATTENTION)
	return nil
}

// attentionWork is the items of an attention and, for queries whose keys are divided among several items, the merges of
// their parts.
type attentionWork struct {
	t             tiling
	group         int
	kv            device.KVConfig
	items, merges []C.attention_item
	parts         int64
}

// attentionWork fills w; the items of a sequence's last rows, which see most keys, come first.
func (d *cpuDevice) attentionWork(a *device.AttentionArgs, w *attentionWork) (err error) {
	items, merges := 0, 0
	w.each(a, func(_, _, _, _, begin, end int) {
		n := (end - begin + w.t.keyBlocks - 1) / w.t.keyBlocks
		items += n
		if n > 1 {
			merges++
		}
	})
	if w.items, err = zeroed[C.attention_item](&d.arena, items); err != nil {
		return err
	}
	if merges > 0 {
		if w.merges, err = zeroed[C.attention_item](&d.arena, merges); err != nil {
			return err
		}
	}
	w.items, w.merges = w.items[:0], w.merges[:0]
	var pages *C.int32_t
	of := -1 // the sequence of pages
	w.each(a, func(s, row, rows, head, begin, end int) {
		if s != of && err == nil {
			of = s
			pages, err = d.arena.ints(a.PageTables[s][:int(a.Positions[a.Indptr[s+1]-1])/w.kv.PageLen+1])
		}
		kvHead := head / w.group
		heads := min(w.t.heads, (kvHead+1)*w.group-head)
		it := C.attention_item{
			pages: pages, row: C.int32_t(row), rows: C.int32_t(rows), position: C.int32_t(a.Positions[row]),
			kv_head: C.int32_t(kvHead), head: C.int32_t(head), heads: C.int32_t(heads), key_block: C.int32_t(begin),
			key_blocks: C.int32_t(end - begin), part: -1,
		}
		if end-begin <= w.t.keyBlocks {
			w.items = append(w.items, it)
			return
		}
		it.part = C.int64_t(w.parts)
		w.merges = append(w.merges, it)
		for at := begin; at < end; at += w.t.keyBlocks {
			it.key_block, it.key_blocks, it.part = C.int32_t(at), C.int32_t(min(w.t.keyBlocks, end-at)),
				C.int64_t(w.parts)
			w.items = append(w.items, it)
			w.parts += int64(it.key_blocks) * int64(rows*heads)
		}
	})
	return err
}

// each calls f for every tile of rows and heads with its range of key blocks.
func (w *attentionWork) each(a *device.AttentionArgs, f func(seq, row, rows, head, begin, end int)) {
	for s := range len(a.Indptr) - 1 {
		first, last := int(a.Indptr[s]), int(a.Indptr[s+1])
		for tile := (last - first - 1) / w.t.rows; tile >= 0 && first < last; tile-- {
			row := first + tile*w.t.rows
			rows := min(w.t.rows, last-row)
			begin, end := keyBlockRange(a.Positions[row], a.Positions[row+rows-1], a.Window)
			for kvHead := range w.kv.KVHeads {
				for h := 0; h < w.group; h += w.t.heads {
					f(s, row, rows, kvHead*w.group+h, begin, end)
				}
			}
		}
	}
}
