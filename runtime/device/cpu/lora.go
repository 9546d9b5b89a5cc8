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
	"weft/runtime/tensor"
)

// Bounds of the chunks of a LoRA operation.
const (
	loraParts = 16 // parts of an operation
	// rows of a chunk: a multiple of this, at most twice; with fewer, A and B are read too often
	loraBlock = 32
	loraSplit = 1 << 16 // elements of A and B from which a segment of few rows is worth a second phase
)

func (d *cpuDevice) LoRA(a device.LoRAArgs) error {
	const op = "lora"
	if err := d.begin(op, device.CheckLoRA(a)); err != nil {
		return err
	}
	if len(a.Parts) > loraParts {
		return fmt.Errorf("%s: %w: %d parts; at most %d have the same x", op, device.ErrShape, len(a.Parts), loraParts)
	}
	x, err := d.floats(op, "x", a.X)
	if err != nil {
		return err
	}
	n, rows := 0, 0
	for i := range a.Parts {
		p := &a.Parts[i]
		if _, err := d.floats(op, "out", p.Out); err != nil {
			return err
		}
		if err := small(op, a.X.Rows, a.X.Cols, p.Out.Cols); err != nil {
			return err
		}
		for j := range p.Segments {
			s := &p.Segments[j]
			if s.M.Empty() {
				continue
			}
			if err := d.ownRegions(s.M); err != nil {
				return err
			}
			if loraWork(p, s) {
				n++
				rows += s.End - s.Begin
			}
		}
	}
	if n == 0 {
		return nil
	}
	r, err := record[C.lora_op](d)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	segments, err := zeroed[C.lora_segment](&d.arena, n)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	r.x, r.x_stride, r.in, r.segments, r.segment = x, C.int64_t(a.X.Stride), C.int32_t(a.X.Cols), C.int32_t(n),
		unsafe.SliceData(segments)
	if err := d.planLoRA(r, a.Parts, segments, rows); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	d.push(unsafe.Pointer(r), C.OP_LORA)
	return nil
}

func loraWork(p *device.LoRAPart, s *device.LoRASegment) bool {
	return s.End > s.Begin && p.Out.Cols > 0 && !s.M.Empty()
}

func (d *cpuDevice) ownRegions(m *device.LoRAMatrices) error {
	for _, s := range [...]*device.Region{&m.A, &m.B, &m.Gain, &m.Bias} {
		if _, err := d.data("lora", "an A or B matrix, gain or bias", s.Buf); err != nil {
			return err
		}
	}
	return nil
}

// address returns the address of a region that ownRegions has checked; nil for an absent one.
func (d *cpuDevice) address(s device.Region) unsafe.Pointer {
	p, _ := d.data("", "", s.Buf)
	if p == nil {
		return nil
	}
	return unsafe.Add(unsafe.Pointer(p), s.Offset)
}

// planLoRA fills the segments and decides how they are divided and how much memory that needs.
func (d *cpuDevice) planLoRA(r *C.lora_op, parts []device.LoRAPart, segments []C.lora_segment, rows int) error {
	block := min(max(rows/(8*d.threads)/loraBlock, 1), 2) * loraBlock
	n, rank := 0, 0
	var blocks, y, most int64
	absent := false
	var at [loraParts]int
	for {
		p := first(parts, at[:])
		if p < 0 {
			break
		}
		s, out := &parts[p].Segments[at[p]], parts[p].Out
		at[p]++
		if !loraWork(&parts[p], s) {
			continue
		}
		m := s.M
		to, _ := d.floats("", "", out)
		segments[n] = C.lora_segment{
			a: (*C.uint8_t)(d.address(m.A)), b: (*C.uint8_t)(d.address(m.B)), gain: (*C.float)(d.address(m.Gain)),
			bias:    (*C.float)(d.address(m.Bias)),
			a_dtype: elementType(m.A.DType), b_dtype: elementType(m.B.DType), out: to,
			out_stride: C.int64_t(out.Stride), y: C.int64_t(y), first: C.int64_t(blocks),
			begin: C.int32_t(s.Begin), end: C.int32_t(s.End), rank: C.int32_t(m.Rank), n: C.int32_t(m.Out),
			scale: C.float(m.Scale * s.Scale), shift: C.float(s.Scale),
		}
		n++
		blocks += int64((s.End - s.Begin + block - 1) / block)
		y += int64(s.End-s.Begin) * int64(m.Rank)
		most = max(most, int64(m.Rank)*int64(m.In+m.Out))
		rank = max(rank, m.Rank)
		absent = absent || m.A.Buf == nil
	}
	r.blocks, r.block = C.int64_t(blocks), C.int32_t(block)
	if d.threads > 1 && blocks < int64(2*d.threads) && most >= loraSplit && !absent {
		r.y, r.splits = (**C.float)(unsafe.Pointer(d.shared)), C.int32_t(2*d.threads)
		return d.needShared(4 * y)
	}
	return d.needScratch(4 * int64(block) * int64(rank))
}

// first returns the part whose next segment begins first (of several, the earlier part), so that the LoRA matrices of
// an adapter are read one after another; -1: none is left.
func first(parts []device.LoRAPart, at []int) int {
	best := -1
	for i := range parts {
		if at[i] < len(parts[i].Segments) &&
			(best < 0 || parts[i].Segments[at[i]].Begin < parts[best].Segments[at[best]].Begin) {
			best = i
		}
	}
	return best
}

func elementType(t tensor.DType) C.int32_t {
	switch t {
	case tensor.F16:
		return C.DTYPE_F16
	case tensor.BF16:
		return C.DTYPE_BF16
	default:
		return C.DTYPE_F32
	}
}
