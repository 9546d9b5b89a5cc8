package device

import (
	"math"

	"weft/runtime/tensor"
)

// CheckGLU checks GLUArgs. Out is Gate, Up or disjoint from both.
func CheckGLU(a GLUArgs) error {
	const op = "glu"
	if a.Act > GELUErf {
		return shapeErr(op, "activation %d is unknown", a.Act)
	}
	rows, cols := a.Gate.Rows, a.Gate.Cols
	if err := checkView(op, "gate", a.Gate, rows, cols); err != nil {
		return err
	}
	if err := checkView(op, "up", a.Up, rows, cols); err != nil {
		return err
	}
	if err := checkView(op, "out", a.Out, rows, cols); err != nil {
		return err
	}
	if !sameView(a.Out, a.Gate) && overlap(a.Out, a.Gate) || !sameView(a.Out, a.Up) && overlap(a.Out, a.Up) {
		return shapeErr(op, "out overlaps gate or up without being it")
	}
	return nil
}

// CheckAdd checks AddArgs. X and Y are one view or disjoint.
func CheckAdd(a AddArgs) error {
	const op = "add"
	if err := checkView(op, "x", a.X, a.X.Rows, a.X.Cols); err != nil {
		return err
	}
	if err := checkView(op, "y", a.Y, a.X.Rows, a.X.Cols); err != nil {
		return err
	}
	if !sameView(a.X, a.Y) && overlap(a.X, a.Y) {
		return shapeErr(op, "x overlaps y without being y")
	}
	return nil
}

// CheckSoftcap checks SoftcapArgs: Cap must be a positive number.
func CheckSoftcap(a SoftcapArgs) error {
	const op = "softcap"
	if !(a.Cap > 0) || isInf(a.Cap) {
		return shapeErr(op, "cap %v is not a positive number", a.Cap)
	}
	return checkView(op, "x", a.X, a.X.Rows, a.X.Cols)
}

// CheckLogSoftmax checks LogSoftmaxArgs. Out is X or disjoint from it.
func CheckLogSoftmax(a LogSoftmaxArgs) error {
	const op = "logsoftmax"
	if err := checkView(op, "x", a.X, a.X.Rows, a.X.Cols); err != nil {
		return err
	}
	if err := checkView(op, "out", a.Out, a.X.Rows, a.X.Cols); err != nil {
		return err
	}
	if !sameView(a.X, a.Out) && overlap(a.X, a.Out) {
		return shapeErr(op, "out overlaps x without being x")
	}
	return nil
}

// checkView checks that v is an F32 matrix [rows, cols] whose rows do not overlap and are inside its buffer.
func checkView(op, name string, v View, rows, cols int) error {
	if v.Buf == nil {
		return shapeErr(op, "%s is absent", name)
	}
	if v.DType != tensor.F32 {
		return shapeErr(op, "%s has element type %v; want F32", name, v.DType)
	}
	if v.Rows != rows || v.Cols != cols {
		return shapeErr(op, "%s is [%d, %d]; want [%d, %d]", name, v.Rows, v.Cols, rows, cols)
	}
	elems := v.Buf.Bytes() / int64(v.DType.Size())
	if v.Rows < 0 || v.Cols < 0 || v.Stride < 0 || v.Offset < 0 || v.Rows > 1 && v.Stride < v.Cols {
		return shapeErr(op, "%s [%d, %d] at %d with stride %d: negative, or the rows overlap", name, v.Rows, v.Cols,
			v.Offset, v.Stride)
	}
	if v.Rows == 0 || v.Cols == 0 {
		return nil
	}
	space := elems - v.Offset - int64(v.Cols) // between the end of the first row and the end of the buffer
	if space < 0 || v.Rows > 1 && int64(v.Stride) > space/int64(v.Rows-1) {
		return shapeErr(op, "%s [%d, %d] at %d with stride %d leaves its buffer of %d elements", name, v.Rows, v.Cols,
			v.Offset, v.Stride, elems)
	}
	return nil
}

// sameView reports whether a and b name exactly the same elements in the same order.
func sameView(a, b View) bool {
	return a.Buf == b.Buf && a.Offset == b.Offset && a.Rows == b.Rows && a.Cols == b.Cols &&
		(a.Stride == b.Stride || a.Rows <= 1)
}

// overlap reports whether two checked views have an element in common. Views whose rows interleave without touching
// (columns of one larger matrix) do not. It walks both lists of rows once.
func overlap(a, b View) bool {
	if a.Buf != b.Buf || a.Rows == 0 || b.Rows == 0 || a.Cols == 0 || b.Cols == 0 {
		return false
	}
	for i, j := 0, 0; i < a.Rows && j < b.Rows; {
		p, q := a.Offset+int64(i)*int64(a.Stride), b.Offset+int64(j)*int64(b.Stride)
		switch {
		case p+int64(a.Cols) <= q:
			i++
		case q+int64(b.Cols) <= p:
			j++
		default:
			return true
		}
	}
	return false
}

// cacheConfig returns the cache's configuration after checking the layer and the head width against it.
func cacheConfig(op string, cache KVCache, layer, headDim int) (KVConfig, error) {
	if cache == nil {
		return KVConfig{}, shapeErr(op, "no kv cache")
	}
	c := cache.Config()
	if layer < 0 || layer >= c.Layers {
		return c, shapeErr(op, "layer %d, the kv cache has %d", layer, c.Layers)
	}
	if headDim != c.HeadDim {
		return c, shapeErr(op, "head width %d, the kv cache has %d", headDim, c.HeadDim)
	}
	return c, nil
}

func inRange(i int32, n int) bool { return i >= 0 && int64(i) < int64(n) }

func isInf(x float32) bool { return math.IsInf(float64(x), 0) }

func isFinite(x float32) bool { return !isInf(x) && x == x }
