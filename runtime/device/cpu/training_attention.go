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

func (d *cpuDevice) SelfAttention(a device.SelfAttentionArgs) error {
	const op = "self attention"
	if err := d.begin(op, device.CheckSelfAttention(a)); err != nil {
		return err
	}
	v, err := d.operands(op, a.Q, a.K, a.V, a.Out, a.LSE)
	if err != nil || a.Q.Rows == 0 {
		return err
	}
	r, err := d.samples(&a, v, false)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	d.push(unsafe.Pointer(r), C.OP_SAMPLES)
	return nil
}

func (d *cpuDevice) SelfAttentionGrad(a device.SelfAttentionGradArgs) error {
	const op = "self attention grad"
	if err := d.begin(op, device.CheckSelfAttentionGrad(a)); err != nil {
		return err
	}
	v, err := d.operands(op, a.Q, a.K, a.V, a.Out, a.LSE, a.DOut, a.DQ, a.DK, a.DV)
	if err != nil || a.Q.Rows == 0 {
		return err
	}
	r, err := d.samples(&a.SelfAttentionArgs, v, true)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if err := d.needShared(4 * int64(a.Q.Rows) * int64(r.heads)); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	r.delta = (**C.float)(unsafe.Pointer(d.shared))
	r.dout, r.dq, r.dk, r.dv = v[5].at, v[6].at, v[7].at, v[8].at
	r.dout_stride, r.dq_stride, r.dk_stride, r.dv_stride = v[5].stride, v[6].stride, v[7].stride, v[8].stride
	d.push(unsafe.Pointer(r), C.OP_SAMPLES_GRAD)
	return nil
}

// samples returns the record of either pass: its items are the blocks of rows of each sample and query head, and for
// the gradient those of each KV head as keys. The longest items come first: the last blocks of queries see the most
// keys, the first blocks of keys are seen by the most queries.
func (d *cpuDevice) samples(a *device.SelfAttentionArgs, v [10]operand, grad bool) (*C.samples_op, error) {
	heads, kvHeads := a.Q.Cols/a.HeadDim, a.K.Cols/a.HeadDim
	blocks := 0
	for i := range len(a.Indptr) - 1 {
		blocks += (int(a.Indptr[i+1]-a.Indptr[i]) + C.QUERY_BLOCK - 1) / C.QUERY_BLOCK
	}
	n := blocks * heads
	if grad {
		n += blocks * kvHeads
	}
	if err := small("items", n); err != nil {
		return nil, err
	}
	r, err := record[C.samples_op](d)
	if err != nil {
		return nil, err
	}
	items, err := zeroed[C.sample_item](&d.arena, n)
	if err != nil {
		return nil, err
	}
	seen, seeing, err := d.ranges(a)
	if err != nil {
		return nil, err
	}
	n = 0
	for i := range len(a.Indptr) - 1 {
		begin, end := a.Indptr[i], a.Indptr[i+1]
		last := begin + (end-begin-1)/C.QUERY_BLOCK*C.QUERY_BLOCK
		for row := begin; grad && row < end; row += C.QUERY_BLOCK {
			n += blockItems(items[n:], seeing[i], end, row, kvHeads, 1)
		}
		for row := last; end > begin && row >= begin; row -= C.QUERY_BLOCK {
			n += blockItems(items[n:], seen[i], end, row, heads, 0)
		}
	}
	size := (a.HeadDim + 15) / 16 * 16 * C.QUERY_BLOCK
	floats := 4*size + C.QUERY_BLOCK*C.QUERY_BLOCK + 2*C.QUERY_BLOCK
	if grad {
		floats = 8*size + 2*C.QUERY_BLOCK*C.QUERY_BLOCK + 2*C.QUERY_BLOCK
	}
	if err := d.needScratch(4 * int64(floats)); err != nil {
		return nil, err
	}
	r.q, r.k, r.v, r.out, r.lse = v[0].at, v[1].at, v[2].at, v[3].at, v[4].at
	r.q_stride, r.k_stride, r.v_stride, r.out_stride, r.lse_stride = v[0].stride, v[1].stride, v[2].stride, v[3].stride,
		v[4].stride
	r.item, r.items = unsafe.SliceData(items), C.int32_t(n)
	r.rows, r.heads, r.group, r.head_dim = C.int32_t(a.Q.Rows), C.int32_t(heads), C.int32_t(heads/kvHeads),
		C.int32_t(a.HeadDim)
	r.window, r.scale, r.softcap = C.int32_t(min(a.Window, a.Q.Rows)), C.float(a.Scale), C.float(a.Softcap)
	return r, nil
}

// ranges returns, for each sample, the rows that it sees and the rows that see it.
func (d *cpuDevice) ranges(a *device.SelfAttentionArgs) (seen, seeing [][]C.sample_range, err error) {
	samples := len(a.Indptr) - 1
	all, err := zeroed[C.sample_range](&d.arena, 4*samples)
	if err != nil {
		return nil, nil, err
	}
	all = all[:0]
	of := func(doc, shift int32) C.sample_range {
		return C.sample_range{begin: C.int32_t(a.Indptr[doc]), end: C.int32_t(a.Indptr[doc+1]),
			shift: C.int32_t(shift)}
	}
	continued := make([][]int32, samples)
	seen, seeing = make([][]C.sample_range, samples), make([][]C.sample_range, samples)
	for i := range int32(samples) {
		from := len(all)
		if a.Prefix != nil && a.Prefix[i] >= 0 {
			p := a.Prefix[i]
			all = append(all, of(p, a.Indptr[i]-a.Indptr[p+1]))
			continued[p] = append(continued[p], i)
		}
		all = append(all, of(i, 0))
		seen[i] = all[from:]
	}
	for i := range int32(samples) {
		from := len(all)
		all = append(all, of(i, 0))
		for _, c := range continued[i] {
			all = append(all, of(c, a.Indptr[i+1]-a.Indptr[c]))
		}
		seeing[i] = all[from:]
	}
	return seen, seeing, nil
}

// blockItems fills in one block of rows for each head; end is that of their sample.
func blockItems(items []C.sample_item, other []C.sample_range, end, row int32, heads, keys int) int {
	for h := range heads {
		items[h] = C.sample_item{other: unsafe.SliceData(other), others: C.int32_t(len(other)), row: C.int32_t(row),
			rows: C.int32_t(min(end-row, C.QUERY_BLOCK)), head: C.int32_t(h), keys: C.int32_t(keys)}
	}
	return heads
}
