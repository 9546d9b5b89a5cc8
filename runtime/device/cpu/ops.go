//go:build cgo

package cpu

/*
#include "kernels/kernels.h"
*/
import "C"

import (
	"fmt"
	"math"
	"unsafe"

	"weft/quant"
	"weft/runtime/device"
)

func foreign(op, what string) error {
	return fmt.Errorf("%s: %w: %s belongs to another device or is freed", op, device.ErrShape, what)
}

// begin starts every operation: it fails on a closed device or with the error (bad) of the argument check.
func (d *cpuDevice) begin(op string, bad error) error {
	if d.closed.Load() {
		return closedErr(op)
	}
	return bad
}

func closedErr(op string) error { return fmt.Errorf("%s: %w", op, device.ErrClosed) }

// data returns the address of a buffer's memory; nil for no buffer.
func (d *cpuDevice) data(op, what string, b device.Buffer) (*C.float, error) {
	if b == nil {
		return nil, nil
	}
	own, ok := b.(*buffer)
	if !ok || own.dev != d || own.gone.Load() {
		return nil, foreign(op, what)
	}
	return (*C.float)(own.mem.ptr), nil
}

// floats returns the address of a checked view's first element; nil for an absent view.
func (d *cpuDevice) floats(op, what string, v device.View) (*C.float, error) {
	p, err := d.data(op, what, v.Buf)
	if p == nil || err != nil {
		return nil, err
	}
	return (*C.float)(unsafe.Add(unsafe.Pointer(p), 4*v.Offset)), nil
}

// record returns a zeroed record.
func record[T any](d *cpuDevice) (*T, error) {
	r, err := zeroed[T](&d.arena, 1)
	if err != nil {
		return nil, err
	}
	return &r[0], nil
}

// small checks whether every dimension fits in the int32 of the records.
func small(op string, sizes ...int) error {
	for _, n := range sizes {
		if n > math.MaxInt32 {
			return fmt.Errorf("%s: %w: a dimension of %d", op, device.ErrShape, n)
		}
	}
	return nil
}

func (d *cpuDevice) ownMatrix(op string, w device.Weight) (*matrix, error) {
	m, ok := w.(*matrix)
	if !ok || m.dev != d || m.gone.Load() {
		return nil, foreign(op, "the weight")
	}
	return m, nil
}

func (d *cpuDevice) Embed(a device.EmbedArgs) error {
	const op = "embed"
	if err := d.begin(op, device.CheckEmbed(a)); err != nil {
		return err
	}
	m, err := d.ownMatrix(op, a.Table)
	if err != nil {
		return err
	}
	out, err := d.floats(op, "out", a.Out)
	if err != nil || len(a.IDs) == 0 || a.Out.Cols == 0 {
		return err
	}
	if err := small(op, len(a.IDs)); err != nil {
		return err
	}
	r, err := record[C.embed_op](d)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if r.ids, err = d.arena.ints(a.IDs); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	r.table, r.out, r.out_stride, r.rows, r.scale = m.w, out, C.int64_t(a.Out.Stride), C.int32_t(len(a.IDs)),
		C.float(a.Scale)
	d.push(unsafe.Pointer(r), C.OP_EMBED)
	return nil
}

func (d *cpuDevice) RMSNorm(a device.RMSNormArgs) error {
	const op = "rmsnorm"
	if err := d.begin(op, device.CheckRMSNorm(a)); err != nil {
		return err
	}
	x, err := d.floats(op, "x", a.X)
	if err != nil {
		return err
	}
	add, err := d.floats(op, "add", a.Add)
	if err != nil {
		return err
	}
	out, err := d.floats(op, "out", a.Out)
	if err != nil {
		return err
	}
	weight, err := d.data(op, "the weight", a.Weight)
	if err != nil || a.Out.Rows == 0 {
		return err
	}
	if err := small(op, a.Out.Rows, a.X.Cols); err != nil {
		return err
	}
	r, err := record[C.rmsnorm_op](d)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if r.index, err = d.arena.ints(a.Rows); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	parts := max(a.Parts, 1)
	r.x, r.add, r.out, r.weight = x, add, out, weight
	r.x_stride, r.add_stride, r.out_stride = C.int64_t(a.X.Stride), C.int64_t(a.Add.Stride), C.int64_t(a.Out.Stride)
	r.rows, r.parts, r.width, r.eps = C.int32_t(a.Out.Rows), C.int32_t(parts), C.int32_t(a.X.Cols/parts), C.float(a.Eps)
	d.push(unsafe.Pointer(r), C.OP_RMSNORM)
	return nil
}

// prepOf returns the form of activations that a matrix needs.
func (d *cpuDevice) prepOf(m *matrix, p device.Precision) C.int32_t {
	switch {
	case d.activations != Fast || p != device.Own:
		return C.PREP_FLOAT
	case m.w.integer != 0:
		return C.PREP_INT8
	case m.layout == quant.BF16 && isaNames[d.isa] == "avx512":
		return C.PREP_BF16
	}
	return C.PREP_FLOAT
}

func (d *cpuDevice) Linear(a device.LinearArgs) error {
	const op = "linear"
	if err := d.begin(op, device.CheckLinear(a)); err != nil {
		return err
	}
	x, err := d.floats(op, "x", a.X)
	if err != nil {
		return err
	}
	var counts [C.PREP_BF16 + 1]int
	for i := range a.Parts {
		p := &a.Parts[i]
		m, err := d.ownMatrix(op, p.W)
		if err != nil {
			return err
		}
		if _, err := d.floats(op, "out", p.Out); err != nil {
			return err
		}
		if _, err := d.data(op, "the bias", p.Bias); err != nil {
			return err
		}
		if m.rows > 0 {
			counts[d.prepOf(m, a.Precision)]++
		}
	}
	if a.X.Rows == 0 {
		return nil
	}
	if err := small(op, a.X.Rows, a.X.Cols); err != nil {
		return err
	}
	halves := a.Precision == device.BF16 && d.halves()
	if halves || a.X.Rows >= manyRows && counts[C.PREP_FLOAT] > 0 {
		if err := d.linearProducts(a, x, halves); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		if halves {
			return nil
		}
		counts[C.PREP_FLOAT] = 0
	}
	// each preparation of x is an operation of its own; all are made before the first is pushed
	var records [C.PREP_BF16 + 1]*C.linear_op
	for prep, n := range counts {
		if n == 0 {
			continue
		}
		if records[prep], err = d.linear(a, x, C.int32_t(prep), n); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	for _, r := range records {
		if r != nil {
			d.push(unsafe.Pointer(r), C.OP_LINEAR)
		}
	}
	return nil
}

// manyRows is the number of rows from which float products are computed in blocks of two panels, with the same sums.
const manyRows = 4 * C.TILE_MAX

// localPrepare bounds the activations that each worker prepares for itself, which saves a phase.
const localPrepare = 8192

// tileOf returns how many tokens the kernels take at once so that the tiles of that many rows are about equal.
func tileOf(rows int) int {
	tiles := (rows + C.TILE_MAX - 1) / C.TILE_MAX
	per := (rows + tiles - 1) / tiles
	for _, n := range [...]int{1, 2, 3, 4, 6, 8} {
		if per <= n {
			return n
		}
	}
	return C.TILE_MAX
}

func (d *cpuDevice) linear(a device.LinearArgs, x *C.float, prep C.int32_t, n int) (*C.linear_op, error) {
	r, err := record[C.linear_op](d)
	if err != nil {
		return nil, err
	}
	parts, err := zeroed[C.linear_part](&d.arena, n)
	if err != nil {
		return nil, err
	}
	var panels C.int64_t
	n = 0
	for i := range a.Parts {
		m := a.Parts[i].W.(*matrix)
		if m.rows == 0 || d.prepOf(m, a.Precision) != prep {
			continue
		}
		bias, _ := d.data("", "", a.Parts[i].Bias)
		out, _ := d.floats("", "", a.Parts[i].Out)
		parts[n] = C.linear_part{w: m.w, bias: bias, out: out, out_stride: C.int64_t(a.Parts[i].Out.Stride),
			first_panel: panels}
		panels += C.int64_t(m.rows+C.PANEL-1) / C.PANEL
		n++
	}
	tile := tileOf(a.X.Rows)
	tiles := (a.X.Rows + tile - 1) / tile
	bytes := 4 * a.X.Cols * tile
	switch prep {
	case C.PREP_INT8:
		bytes = (a.X.Cols + C.UNIT - 1) / C.UNIT * 64 * tile
	case C.PREP_BF16:
		bytes = (a.X.Cols + 1) / 2 * 4 * tile
	}
	bytes = max((bytes+63)&^63, 64)
	if a.X.Rows*a.X.Cols <= localPrepare {
		err = d.needScratch(int64(tiles * bytes))
	} else {
		err = d.needShared(int64(tiles * bytes))
		r.shared = d.shared
	}
	r.x, r.x_stride, r.tile_bytes, r.panels = x, C.int64_t(a.X.Stride), C.int64_t(bytes), panels
	r.rows, r.cols, r.prep, r.tile, r.tiles = C.int32_t(a.X.Rows), C.int32_t(a.X.Cols), prep, C.int32_t(tile),
		C.int32_t(tiles)
	r.parts, r.part = C.int32_t(n), unsafe.SliceData(parts)
	return r, err
}

// rowsOp records GLU, Add, Softcap or LogSoftmax.
func (d *cpuDevice) rowsOp(op string, kind C.int32_t, gate, up, out device.View, act device.Activation,
	limit float32) error {
	g, err := d.floats(op, "input", gate)
	if err != nil {
		return err
	}
	u, err := d.floats(op, "input", up)
	if err != nil {
		return err
	}
	o, err := d.floats(op, "output", out)
	if err != nil || out.Rows == 0 || out.Cols == 0 {
		return err
	}
	if err := small(op, out.Rows, out.Cols); err != nil {
		return err
	}
	r, err := record[C.rows_op](d)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	r.gate, r.up, r.out = g, u, o
	r.gate_stride, r.up_stride, r.out_stride = C.int64_t(gate.Stride), C.int64_t(up.Stride), C.int64_t(out.Stride)
	r.rows, r.cols, r.act, r.cap = C.int32_t(out.Rows), C.int32_t(out.Cols), C.int32_t(act), C.float(limit)
	d.push(unsafe.Pointer(r), kind)
	return nil
}

func (d *cpuDevice) GLU(a device.GLUArgs) error {
	if err := d.begin("glu", device.CheckGLU(a)); err != nil {
		return err
	}
	return d.rowsOp("glu", C.OP_GLU, a.Gate, a.Up, a.Out, a.Act, 0)
}

func (d *cpuDevice) Add(a device.AddArgs) error {
	if err := d.begin("add", device.CheckAdd(a)); err != nil {
		return err
	}
	return d.rowsOp("add", C.OP_ADD, device.View{}, a.Y, a.X, 0, 0)
}

func (d *cpuDevice) Softcap(a device.SoftcapArgs) error {
	if err := d.begin("softcap", device.CheckSoftcap(a)); err != nil {
		return err
	}
	return d.rowsOp("softcap", C.OP_SOFTCAP, device.View{}, device.View{}, a.X, 0, a.Cap)
}

func (d *cpuDevice) LogSoftmax(a device.LogSoftmaxArgs) error {
	if err := d.begin("logsoftmax", device.CheckLogSoftmax(a)); err != nil {
		return err
	}
	return d.rowsOp("logsoftmax", C.OP_LOGSOFTMAX, a.X, device.View{}, a.Out, 0, 0)
}
