//go:build cgo

package cpu

/*
#include "kernels/kernels.h"
*/
import "C"

import (
	"cmp"
	"slices"
	"unsafe"
)

// opShape is the key of an operation in a profile.
type opShape struct {
	kind, prep, layout C.int32_t
	rows, in, out      int
}

var opNames = [C.OP_KINDS]string{
	C.OP_EMBED: "embed", C.OP_RMSNORM: "rmsnorm", C.OP_LINEAR: "linear", C.OP_LORA: "lora", C.OP_ROPE: "rope",
	C.OP_ATTENTION: "attention",
	C.OP_GLU:       "glu", C.OP_ADD: "add", C.OP_SOFTCAP: "softcap", C.OP_LOGSOFTMAX: "logsoftmax",
	C.OP_PRODUCT: "product", C.OP_RMSNORM_GRAD: "rmsnorm grad", C.OP_ROTATE: "rotate", C.OP_GLU_GRAD: "glu grad",
	C.OP_CROSS_ENTROPY: "cross entropy", C.OP_EMBED_GRAD: "embed grad",
	C.OP_SAMPLES: "self attention", C.OP_SAMPLES_GRAD: "self attention grad",
}

var layoutNames = map[C.int32_t]string{
	C.LAYOUT_F32: "f32", C.LAYOUT_F16: "f16", C.LAYOUT_BF16: "bf16", C.LAYOUT_INT8: "int8", C.LAYOUT_INT4: "int4",
	C.LAYOUT_LOOKUP4: "lookup4",
}

// note adds the operations that were just run to the profile.
func (d *cpuDevice) note() {
	for o := d.first; o != nil; o = o.next {
		s, bytes, ops := costOf(o)
		c := d.profile[s]
		if c == nil {
			c = &OpCost{Op: opNames[s.kind], Rows: s.rows, In: s.in, Out: s.out, Integers: s.prep == C.PREP_INT8,
				Halves: s.prep == C.PREP_BF16}
			if s.kind == C.OP_LINEAR {
				c.Op += " " + layoutNames[s.layout]
			}
			d.profile[s] = c
		}
		c.Calls++
		c.Nanos += int64(o.ns)
		c.Bytes += bytes
		c.Ops += ops
	}
}

// costOf returns the minimum that an operation reads, writes and computes.
func costOf(o *C.op) (s opShape, bytes int64, ops float64) {
	s.kind = o.kind
	at := unsafe.Pointer(o)
	switch o.kind {
	case C.OP_LINEAR:
		l := (*C.linear_op)(at)
		s.prep, s.rows, s.in = l.prep, int(l.rows), int(l.cols)
		for _, p := range unsafe.Slice(l.part, l.parts) {
			s.layout = p.w.layout
			s.out += int(p.w.rows)
			bytes += int64(p.w.panel_bytes) * ((int64(p.w.rows) + C.PANEL - 1) / C.PANEL)
		}
		bytes += 4 * int64(s.rows) * int64(s.in+s.out)
		ops = 2 * float64(s.rows) * float64(s.in) * float64(s.out)
	case C.OP_EMBED:
		e := (*C.embed_op)(at)
		s.rows, s.out = int(e.rows), int(e.table.cols)
		bytes = int64(s.rows) * (4*int64(s.out) + int64(e.table.panel_bytes)/C.PANEL)
	case C.OP_RMSNORM:
		r := (*C.rmsnorm_op)(at)
		s.rows, s.in = int(r.rows), int(r.parts*r.width)
		bytes, ops = 8*int64(s.rows)*int64(s.in), 4*float64(s.rows)*float64(s.in)
	case C.OP_LORA:
		bytes, ops = loraCost((*C.lora_op)(at), &s)
	case C.OP_ROPE:
		r := (*C.rope_op)(at)
		s.rows, s.in = int(r.rows), int((r.q_heads+2*r.kv.kv_heads)*r.kv.head_dim)
		bytes, ops = 8*int64(s.rows)*int64(s.in), 3*float64(s.rows)*float64(s.in)
	case C.OP_ATTENTION:
		bytes, ops = attentionCost((*C.attention_op)(at), &s)
	case C.OP_PRODUCT, C.OP_RMSNORM_GRAD, C.OP_ROTATE, C.OP_CROSS_ENTROPY, C.OP_EMBED_GRAD, C.OP_SAMPLES,
		C.OP_SAMPLES_GRAD:
		bytes, ops = trainingCost(o, &s)
	default: // glu_grad_op begins with a rows_op
		r := (*C.rows_op)(at)
		s.rows, s.in = int(r.rows), int(r.cols)
		bytes, ops = 12*int64(s.rows)*int64(s.in), 8*float64(s.rows)*float64(s.in)
	}
	return s, bytes, ops
}

// loraCost counts an A or B matrix once for each segment that uses it; rows and outputs are summed over the parts.
func loraCost(l *C.lora_op, s *opShape) (bytes int64, ops float64) {
	s.in = int(l.in)
	for _, g := range unsafe.Slice(l.segment, l.segments) {
		rows, rank, n, in := int64(g.end-g.begin), int64(g.rank), int64(g.n), int64(0)
		s.rows += int(rows)
		s.out = max(s.out, int(n))
		if g.a != nil {
			in = int64(l.in)
		}
		bytes += rank*(in*elementSize(g.a_dtype)+n*elementSize(g.b_dtype)) + 4*rows*(in+2*n)
		ops += 2 * float64(rows) * float64(rank) * float64(in+n)
	}
	return bytes, ops
}

func trainingCost(o *C.op, s *opShape) (bytes int64, ops float64) {
	at := unsafe.Pointer(o)
	perValue := 8.0
	switch o.kind {
	case C.OP_PRODUCT:
		p := (*C.product_op)(at)
		s.rows, s.out = int(p.rows), int(p.cols)
		if p.halves != 0 {
			s.prep = C.PREP_BF16
		}
		for _, t := range unsafe.Slice(p.product, p.products) {
			s.in += int(t.depth)
			if t.w != nil {
				s.layout = t.w.layout
				bytes += int64(t.w.panel_bytes) * ((int64(t.w.rows) + C.PANEL - 1) / C.PANEL)
			} else {
				bytes += 4 * int64(t.depth) * int64(s.out)
			}
		}
		return bytes + 4*int64(s.rows)*int64(s.in+s.out), 2 * float64(s.rows) * float64(s.in) * float64(s.out)
	case C.OP_SAMPLES, C.OP_SAMPLES_GRAD:
		return samplesCost((*C.samples_op)(at), s)
	case C.OP_RMSNORM_GRAD:
		r := (*C.rmsnorm_grad_op)(at)
		s.rows, s.in = int(r.rows), int(r.parts*r.width)
	case C.OP_ROTATE:
		r := (*C.rotate_op)(at)
		s.rows, s.in, perValue = int(r.rows), int(r.heads*r.head_dim), 3
	case C.OP_CROSS_ENTROPY:
		r := (*C.cross_entropy_op)(at)
		s.rows, s.in = int(r.rows), int(r.cols)
	case C.OP_EMBED_GRAD:
		r := (*C.embed_grad_op)(at)
		s.rows, s.in, perValue = int(r.rows), int(r.cols), 2
	}
	return 12 * int64(s.rows) * int64(s.in), perValue * float64(s.rows) * float64(s.in)
}

// samplesCost counts the visible pairs only: two products of the head's width forward, five in the gradient.
func samplesCost(a *C.samples_op, s *opShape) (bytes int64, ops float64) {
	d := float64(a.head_dim)
	s.rows, s.in, s.out = int(a.rows), int(a.heads*a.head_dim), int(a.head_dim)
	products := 4.0
	if a.head.kind == C.OP_SAMPLES_GRAD {
		products = 10
	}
	for _, it := range unsafe.Slice(a.item, a.items) {
		if it.keys != 0 {
			continue
		}
		other := unsafe.Slice(it.other, it.others) // its own sample comes last
		keys := float64(it.row-other[len(other)-1].begin) + float64(it.rows+1)/2
		for _, r := range other[:len(other)-1] {
			keys += float64(r.end - r.begin)
		}
		if a.window > 0 {
			keys = min(keys, float64(a.window))
		}
		ops += products * keys * float64(it.rows) * d
	}
	return 4 * int64(a.rows) * int64(a.heads*a.head_dim) * int64(products) / 2, ops
}

func elementSize(dtype C.int32_t) int64 {
	if dtype == C.DTYPE_F32 {
		return 4
	}
	return 2
}

func attentionCost(a *C.attention_op, s *opShape) (bytes int64, ops float64) {
	d, elem := int64(a.kv.head_dim), elementSize(a.kv.dtype)
	s.out = int(d)
	for _, it := range unsafe.Slice(a.item, a.items) {
		keys := int64(it.position) + int64(it.rows)
		if a.window > 0 {
			keys = min(keys, int64(a.window)+int64(it.rows))
		}
		s.rows += int(it.rows * it.heads)
		bytes += 2 * elem * keys * d
		ops += 4 * float64(it.rows*it.heads) * (float64(keys) - float64(it.rows-1)/2) * float64(d)
	}
	return bytes, ops
}

func (d *cpuDevice) TakeProfile() []OpCost {
	out := make([]OpCost, 0, len(d.profile))
	for _, c := range d.profile {
		out = append(out, *c)
	}
	if d.profile != nil {
		clear(d.profile)
	}
	slices.SortFunc(out, func(a, b OpCost) int { return cmp.Compare(b.Nanos, a.Nanos) })
	return out
}
