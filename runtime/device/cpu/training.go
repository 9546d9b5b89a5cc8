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

	"weft/runtime/device"
)

var _ device.Training = (*cpuDevice)(nil)

// operand is a checked view and the address of its first element.
type operand struct {
	at     *C.float
	stride C.int64_t
}

// operands resolves checked views; the zero operand is an absent one.
func (d *cpuDevice) operands(op string, views ...device.View) ([10]operand, error) {
	var out [10]operand
	for i, v := range views {
		p, err := d.floats(op, "an operand", v)
		if err != nil {
			return out, err
		}
		out[i] = operand{p, C.int64_t(v.Stride)}
		if err := small(op, v.Rows, v.Cols); err != nil {
			return out, err
		}
	}
	return out, nil
}

// Blocks of a product_op.
const (
	blockRows  = 44 * C.TILE_MAX // most rows of a block: so that the packed tiles stay in the second-level cache
	blockPairs = 9               // most pairs of panels of a block
)

// productCost is about the cost of producing a vector of 16 values of y, in products of one vector; and of packing a
// row of x.
type productCost struct{ y, x float64 }

// newProduct returns the record of a product of rows by cols, with space for n terms, divided into blocks that balance
// the threads with little packing.
func (d *cpuDevice) newProduct(rows, cols, n int, cost productCost) (*C.product_op, []C.product, error) {
	r, err := record[C.product_op](d)
	if err != nil {
		return nil, nil, err
	}
	terms, err := zeroed[C.product](&d.arena, n)
	if err != nil {
		return nil, nil, err
	}
	tile := tileRows(rows)
	tiles, pairs := (rows+tile-1)/tile, (cols+C.PAIR-1)/C.PAIR
	best, blockTiles, blockPair := math.Inf(1), 1, 1
	for parts := 1; parts == 1 || parts <= min(tiles, 4*d.threads); parts++ {
		height := min((tiles+parts-1)/parts, blockRows/tile)
		for width := 1; width <= min(pairs, blockPairs); width++ {
			chunks := (tiles + height - 1) / height * ((pairs + width - 1) / width)
			each := float64(height*tile)*(2*float64(width)+cost.x) + 2*float64(width)*cost.y
			if total := float64((chunks+d.threads-1)/d.threads) * each; total < best {
				best, blockTiles, blockPair = total, height, width
			}
		}
	}
	floats := blockTiles*tile*C.DEPTH + 16 + C.PAIR*C.DEPTH + C.PAIR*C.PANEL + blockPair*2*blockTiles*tile*C.PANEL
	if err := d.needScratch(4 * int64(floats)); err != nil {
		return nil, nil, err
	}
	r.product, r.products = unsafe.SliceData(terms), C.int32_t(n)
	r.rows, r.cols, r.alpha = C.int32_t(rows), C.int32_t(cols), 1
	r.tile, r.tiles, r.pairs = C.int32_t(tile), C.int32_t(tiles), C.int32_t(pairs)
	r.block_tiles, r.block_pairs = C.int32_t(blockTiles), C.int32_t(blockPair)
	return r, terms, nil
}

// tileRows returns the rows of a tile, 4, 8 or 12, that waste the fewest rows.
func tileRows(rows int) int {
	best := C.TILE_MAX
	for _, n := range [...]int{8, 4} {
		if (rows+n-1)/n*n < (rows+best-1)/best*best {
			best = n
		}
	}
	return best
}

// padded is the work of a product with that many rows and columns.
func padded(rows, cols int) int {
	tile := tileRows(rows)
	return (rows + tile - 1) / tile * tile * ((cols + C.PANEL - 1) / C.PANEL)
}

func (d *cpuDevice) MatMul(a device.MatMulArgs) error {
	const op = "matmul"
	if err := d.begin(op, device.CheckMatMul(a)); err != nil {
		return err
	}
	v, err := d.operands(op, a.A, a.B, a.Out)
	if err != nil || a.Out.Rows == 0 || a.Out.Cols == 0 {
		return err
	}
	depth := a.A.Cols
	if a.TransA {
		depth = a.A.Rows
	}
	x, y, xTrans, yTrans := v[0], v[1], a.TransA, a.TransB
	rows, cols := a.Out.Rows, a.Out.Cols
	// the narrow side is packed into tiles; each sum stays the same
	swapped := padded(cols, rows) < padded(rows, cols)
	if swapped {
		x, y, xTrans, yTrans, rows, cols = y, x, !yTrans, !xTrans, cols, rows
	}
	cost := productCost{y: 2, x: 0.5}
	if yTrans {
		cost.y = 6
	}
	r, terms, err := d.newProduct(rows, cols, 1, cost)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	terms[0] = C.product{x: x.at, y: y.at, x_stride: x.stride, y_stride: y.stride, depth: C.int32_t(depth),
		x_trans: flag(xTrans), y_trans: flag(yTrans)}
	r.out, r.out_stride, r.swapped = v[2].at, v[2].stride, flag(swapped)
	r.alpha, r.accumulate, r.halves = C.float(a.Alpha), flag(a.Accumulate), flag(a.Precision == device.BF16 &&
		d.halves())
	d.push(unsafe.Pointer(r), C.OP_PRODUCT)
	return nil
}

func (d *cpuDevice) LinearGrad(a device.LinearGradArgs) error {
	const op = "linear grad"
	if err := d.begin(op, device.CheckLinearGrad(a)); err != nil {
		return err
	}
	dx, err := d.operands(op, a.DX)
	if err != nil {
		return err
	}
	for i := range a.Parts {
		p := &a.Parts[i]
		if p.W == nil {
			if _, err := d.operands(op, p.DY, p.Matrix); err != nil {
				return err
			}
			continue
		}
		if _, err := d.ownMatrix(op, p.W); err != nil {
			return err
		}
		if _, err := d.operands(op, p.DY); err != nil {
			return err
		}
	}
	if a.DX.Rows == 0 || a.DX.Cols == 0 {
		return nil
	}
	r, terms, err := d.newProduct(a.DX.Rows, a.DX.Cols, len(a.Parts), productCost{y: 16, x: 0.5})
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	for i := range a.Parts {
		p := &a.Parts[i]
		dy, _ := d.floats("", "", p.DY)
		terms[i] = C.product{x: dy, x_stride: C.int64_t(p.DY.Stride), depth: C.int32_t(p.DY.Cols)}
		if p.W != nil {
			terms[i].w = p.W.(*matrix).w
			continue
		}
		terms[i].y, _ = d.floats("", "", p.Matrix)
		terms[i].y_stride = C.int64_t(p.Matrix.Stride)
	}
	r.out, r.out_stride, r.accumulate, r.halves = dx[0].at, dx[0].stride, flag(a.Accumulate), flag(
		a.Precision == device.BF16 && d.halves())
	d.push(unsafe.Pointer(r), C.OP_PRODUCT)
	return nil
}

// halves reports whether the kernels multiply bf16. Multiplies reports whether products of that precision are computed
// in it, and not in float32.
func (d *cpuDevice) Multiplies(p device.Precision) bool { return p != device.BF16 || d.halves() }

func (d *cpuDevice) halves() bool { return C.kernels_for(C.int(d.isa)).halves != 0 }

// linearProducts records the parts of Linear that multiply floats as products, each part separately; with halves all
// parts, as products of bf16. The arguments are checked.
func (d *cpuDevice) linearProducts(a device.LinearArgs, x *C.float, halves bool) error {
	records := make([]*C.product_op, 0, 4)
	for i := range a.Parts {
		p := &a.Parts[i]
		m := p.W.(*matrix)
		if m.rows == 0 || !halves && d.prepOf(m, a.Precision) != C.PREP_FLOAT {
			continue
		}
		r, terms, err := d.newProduct(a.X.Rows, m.rows, 1, productCost{y: 10, x: 0.5})
		if err != nil {
			return err
		}
		terms[0] = C.product{x: x, x_stride: C.int64_t(a.X.Stride), w: m.w, depth: C.int32_t(m.cols), y_trans: 1}
		r.bias, _ = d.data("", "", p.Bias)
		r.out, _ = d.floats("", "", p.Out)
		r.out_stride, r.halves = C.int64_t(p.Out.Stride), flag(halves)
		records = append(records, r)
	}
	for _, r := range records {
		d.push(unsafe.Pointer(r), C.OP_PRODUCT)
	}
	return nil
}

func (d *cpuDevice) RMSNormGrad(a device.RMSNormGradArgs) error {
	const op = "rmsnorm grad"
	if err := d.begin(op, device.CheckRMSNormGrad(a)); err != nil {
		return err
	}
	v, err := d.operands(op, a.X, a.DY, a.DX)
	if err != nil {
		return err
	}
	weight, err := d.data(op, "the weight", a.Weight)
	if err != nil {
		return err
	}
	dweight, err := d.data(op, "the gradient of the weight", a.DWeight)
	if err != nil || a.X.Rows == 0 {
		return err
	}
	parts := max(a.Parts, 1)
	r, err := record[C.rmsnorm_grad_op](d)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if dweight != nil {
		if err := d.needShared(8 * int64(a.X.Rows) * int64(parts)); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	r.x, r.dy, r.dx, r.weight, r.dweight, r.stats = v[0].at, v[1].at, v[2].at, weight, dweight,
		(**C.float)(unsafe.Pointer(d.shared))
	r.x_stride, r.dy_stride, r.dx_stride = v[0].stride, v[1].stride, v[2].stride
	r.rows, r.parts, r.width, r.eps, r.accumulate = C.int32_t(a.X.Rows), C.int32_t(parts), C.int32_t(a.X.Cols/parts),
		C.float(a.Eps), flag(a.Accumulate)
	d.push(unsafe.Pointer(r), C.OP_RMSNORM_GRAD)
	return nil
}

func (d *cpuDevice) Rotate(a device.RotateArgs) error {
	const op = "rotate"
	if err := d.begin(op, device.CheckRotate(a)); err != nil {
		return err
	}
	x, err := d.operands(op, a.X)
	if err != nil {
		return err
	}
	table, err := d.data(op, "the table", a.Table)
	if err != nil || a.X.Rows == 0 || a.Rot == 0 {
		return err
	}
	r, err := record[C.rotate_op](d)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if r.table_rows, err = d.arena.ints(a.TableRows); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	r.x, r.x_stride, r.table = x[0].at, x[0].stride, table
	r.rows, r.heads, r.head_dim = C.int32_t(a.X.Rows), C.int32_t(a.X.Cols/a.HeadDim), C.int32_t(a.HeadDim)
	r.rot, r.inverse = C.int32_t(a.Rot), flag(a.Inverse)
	d.push(unsafe.Pointer(r), C.OP_ROTATE)
	return nil
}

func (d *cpuDevice) GLUGrad(a device.GLUGradArgs) error {
	const op = "glu grad"
	if err := d.begin(op, device.CheckGLUGrad(a)); err != nil {
		return err
	}
	v, err := d.operands(op, a.Gate, a.Up, a.DOut, a.DGate, a.DUp)
	if err != nil || a.Gate.Rows == 0 || a.Gate.Cols == 0 {
		return err
	}
	r, err := record[C.glu_grad_op](d)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	r.rows.gate, r.rows.up, r.dout, r.rows.out, r.dup = v[0].at, v[1].at, v[2].at, v[3].at, v[4].at
	r.rows.gate_stride, r.rows.up_stride, r.dout_stride, r.rows.out_stride, r.dup_stride = v[0].stride, v[1].stride,
		v[2].stride, v[3].stride, v[4].stride
	r.rows.rows, r.rows.cols, r.rows.act = C.int32_t(a.Gate.Rows), C.int32_t(a.Gate.Cols), C.int32_t(a.Act)
	d.push(unsafe.Pointer(r), C.OP_GLU_GRAD)
	return nil
}

func (d *cpuDevice) CrossEntropy(a device.CrossEntropyArgs) error {
	const op = "cross entropy"
	if err := d.begin(op, device.CheckCrossEntropy(a)); err != nil {
		return err
	}
	v, err := d.operands(op, a.Logits, a.Loss)
	if err != nil || len(a.Labels) == 0 {
		return err
	}
	r, err := record[C.cross_entropy_op](d)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if r.labels, err = d.arena.ints(a.Labels); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	r.logits, r.logits_stride, r.loss, r.loss_stride = v[0].at, v[0].stride, v[1].at, v[1].stride
	r.rows, r.cols, r.scale, r.softcap = C.int32_t(a.Logits.Rows), C.int32_t(a.Logits.Cols), C.float(a.Scale),
		C.float(a.Softcap)
	d.push(unsafe.Pointer(r), C.OP_CROSS_ENTROPY)
	return nil
}

func (d *cpuDevice) EmbedGrad(a device.EmbedGradArgs) error {
	const op = "embed grad"
	if err := d.begin(op, device.CheckEmbedGrad(a)); err != nil {
		return err
	}
	v, err := d.operands(op, a.DY, a.DTable)
	if err != nil || len(a.IDs) == 0 || a.DTable.Cols == 0 {
		return err
	}
	r, err := record[C.embed_grad_op](d)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if r.ids, err = d.arena.ints(a.IDs); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	r.dy, r.dy_stride, r.table, r.table_stride = v[0].at, v[0].stride, v[1].at, v[1].stride
	r.rows, r.cols, r.scale = C.int32_t(len(a.IDs)), C.int32_t(a.DTable.Cols), C.float(a.Scale)
	d.push(unsafe.Pointer(r), C.OP_EMBED_GRAD)
	return nil
}
