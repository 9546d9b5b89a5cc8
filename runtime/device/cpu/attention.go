//go:build cgo

package cpu

/*
#include "kernels.h"
*/
import "C"

import (
	"fmt"
	"unsafe"

	"weft/runtime/device"
)

func (d *cpuDevice) RoPE(a device.RoPEArgs) error {
	const op = "rope"
	if d.closed.Load() {
		return closedErr(op)
	}
	if err := device.CheckRoPE(a); err != nil {
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
	k, err := d.floats(op, "k", a.K)
	if err != nil {
		return err
	}
	v, err := d.floats(op, "v", a.V)
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
	r.q, r.k, r.v, r.table = q, k, v, table
	r.q_stride, r.k_stride, r.v_stride = C.int64_t(a.Q.Stride), C.int64_t(a.K.Stride), C.int64_t(a.V.Stride)
	r.rows, r.rot = C.int32_t(len(a.Slots)), C.int32_t(a.Rot)
	if q != nil {
		r.q_heads = C.int32_t(a.Q.Cols / a.HeadDim)
	}
	d.push(unsafe.Pointer(r), C.OP_ROPE)
	return nil
}

// tiling says how the query heads of a KV head and the rows of a sequence are grouped into work items of at most QUERIES_MAX queries.
type tiling struct{ heads, rows int }

// tilingOf takes as many heads of a KV head together as gives every thread work.
func tilingOf(indptr []int32, kvHeads, group, threads int) tiling {
	heads := min(group, C.QUERIES_MAX)
	for {
		t := tiling{heads, max(1, C.QUERIES_MAX/heads)}
		if heads == 1 || t.items(indptr, kvHeads, group) >= 2*threads {
			return t
		}
		heads = (heads + 1) / 2
	}
}

func (t tiling) items(indptr []int32, kvHeads, group int) int {
	n := 0
	for s := range len(indptr) - 1 {
		n += (int(indptr[s+1]-indptr[s]) + t.rows - 1) / t.rows
	}
	return n * kvHeads * ((group + t.heads - 1) / t.heads)
}

func (d *cpuDevice) Attention(a device.AttentionArgs) error {
	const op = "attention"
	if d.closed.Load() {
		return closedErr(op)
	}
	if err := device.CheckAttention(a); err != nil {
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
	t := tilingOf(a.Indptr, kv.config.KVHeads, group, d.threads)
	items, err := room[C.attention_item](&d.arena, t.items(a.Indptr, kv.config.KVHeads, group))
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if err := d.attentionItems(a, t, group, kv.config, items); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if err := d.needScratch(4 * C.QUERIES_MAX * ((int64(a.HeadDim) + 15) &^ 15)); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	r.kv = kv.layer(a.Layer)
	r.q, r.out, r.q_stride, r.out_stride = q, out, C.int64_t(a.Q.Stride), C.int64_t(a.Out.Stride)
	r.item, r.items, r.window = unsafe.SliceData(items), C.int32_t(len(items)), C.int32_t(a.Window)
	r.scale, r.softcap = C.float(a.Scale), C.float(a.Softcap)
	d.push(unsafe.Pointer(r), C.OP_ATTENTION)
	return nil
}

// attentionItems fills the work items; those of a sequence's last rows, which see most keys, come first.
func (d *cpuDevice) attentionItems(a device.AttentionArgs, t tiling, group int, c device.KVConfig, items []C.attention_item) error {
	n := 0
	for s, table := range a.PageTables {
		begin, end := int(a.Indptr[s]), int(a.Indptr[s+1])
		if begin == end {
			continue
		}
		pages, err := d.arena.ints(table[:int(a.Positions[end-1])/c.PageLen+1])
		if err != nil {
			return err
		}
		for tile := (end - begin - 1) / t.rows; tile >= 0; tile-- {
			row := begin + tile*t.rows
			for kvHead := range c.KVHeads {
				for h := 0; h < group; h += t.heads {
					items[n] = C.attention_item{
						pages: pages, row: C.int32_t(row), rows: C.int32_t(min(t.rows, end-row)), position: C.int32_t(a.Positions[row]),
						kv_head: C.int32_t(kvHead), head: C.int32_t(kvHead*group + h), heads: C.int32_t(min(t.heads, group-h)),
					}
					n++
				}
			}
		}
	}
	return nil
}
