//go:build cgo

package cpu

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"weft/quant"
	"weft/runtime/device"
	"weft/runtime/tensor"
)

// open returns a device that the test closes; leaks fail the test.
func open(t testing.TB, o Options) *cpuDevice {
	t.Helper()
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d.(*cpuDevice)
}

// eachISA runs f for every instruction set that this machine has.
func eachISA(t *testing.T, f func(t *testing.T, isa string)) {
	for _, isa := range ISAs() {
		t.Run(isa, func(t *testing.T) { f(t, isa) })
	}
}

// upload returns a buffer that holds x, freed with the test.
func upload(t testing.TB, d device.Device, x []float32) device.Buffer {
	t.Helper()
	b, err := d.Alloc(device.Activations, int64(4*len(x)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Free)
	copy(host(b), x)
	return b
}

func host(b device.Buffer) []float32 {
	p := b.Host()
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(p))), len(p)/4)
}

func view(b device.Buffer, rows, cols int) device.View {
	return device.View{Buf: b, Rows: rows, Cols: cols, Stride: cols, DType: tensor.F32}
}

func random(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// matrixOf is a random matrix of a layout; group 0 is the whole row.
func matrixOf(r *rand.Rand, layout quant.Layout, rows, cols, group int, mins, half bool) *quant.Matrix {
	m := &quant.Matrix{Layout: layout, Rows: rows, Cols: cols}
	n := rows * cols
	switch layout {
	case quant.F32:
		m.Data = make([]byte, 4*n)
		for i := range n {
			*(*float32)(unsafe.Pointer(&m.Data[4*i])) = float32(r.NormFloat64())
		}
		return m
	case quant.F16, quant.BF16:
		m.Data = make([]byte, 2*n)
		for i := range n {
			v := float32(r.NormFloat64())
			h := quant.F32ToF16(v)
			if layout == quant.BF16 {
				h = quant.F32ToBF16(v)
			}
			m.Data[2*i], m.Data[2*i+1] = byte(h), byte(h>>8)
		}
		return m
	}
	if group == 0 {
		group = cols
	}
	m.GroupLen, m.ScalesF16, m.Data = group, half, make([]byte, n)
	for i := range m.Data {
		m.Data[i] = byte(r.Uint32())
		if layout != quant.Int8 {
			m.Data[i] &= 15
		}
	}
	m.Scales = random(r, rows*m.Groups())
	if mins {
		m.Mins = random(r, len(m.Scales))
	} else if layout == quant.Int4 {
		m.Zero = []int{0, 8, 7}[r.IntN(3)]
	}
	if half {
		for i := range m.Scales {
			m.Scales[i] = quant.F16ToF32(quant.F32ToF16(m.Scales[i]))
		}
		for i := range m.Mins {
			m.Mins[i] = quant.F16ToF32(quant.F32ToF16(m.Mins[i]))
		}
	}
	if layout == quant.Lookup4 {
		m.Codes = new([16]float32)
		copy(m.Codes[:], random(r, 16))
	}
	return m
}

type shape struct {
	layout     quant.Layout
	group      int
	mins, half bool
}

func (s shape) String() string {
	return fmt.Sprintf("%v/group=%d/mins=%v/half=%v", s.layout, s.group, s.mins, s.half)
}

// shapes are the layouts that the kernels distinguish.
var shapes = []shape{
	{quant.F32, 0, false, false}, {quant.F16, 0, false, false}, {quant.BF16, 0, false, false},
	{quant.Int8, 32, false, true}, {quant.Int8, 32, true, false}, {quant.Int8, 16, false, false},
	{quant.Int8, 16, true, true}, {quant.Int8, 0, false, false}, {quant.Int8, 64, true, true},
	{quant.Int8, 48, false, false}, {quant.Int8, 5, true, false},
	{quant.Int4, 32, false, true}, {quant.Int4, 32, true, true}, {quant.Int4, 32, true, false},
	{quant.Int4, 128, false, true}, {quant.Int4, 16, true, false}, {quant.Int4, 16, false, true},
	{quant.Int4, 0, false, false}, {quant.Int4, 7, false, false},
	{quant.Lookup4, 64, false, false}, {quant.Lookup4, 32, false, true}, {quant.Lookup4, 20, false, false},
}

// expected is X*Wᵀ in float64 with x as the kernels see it, and the sum of the absolute products as the measure of
// rounding.
func expected(m *quant.Matrix, x []float32, rows int, quantized bool) (want, size []float64) {
	w := make([]float32, m.Cols)
	for t := range rows {
		row := append([]float32(nil), x[t*m.Cols:][:m.Cols]...)
		if quantized {
			q, s := make([]int8, m.Cols), make([]float32, (m.Cols+31)/32)
			quant.QuantizeActs(row, q, s)
			for k := range row {
				row[k] = float32(q[k]) * s[k/32]
			}
		}
		for n := range m.Rows {
			m.Row(n, w)
			var sum, abs float64
			for k := range row {
				p := float64(row[k]) * float64(w[k])
				sum += p
				abs += math.Abs(p)
			}
			want, size = append(want, sum), append(size, abs)
		}
	}
	return want, size
}

func compare(t *testing.T, what string, got []float32, want, size []float64, tolerance float64) {
	t.Helper()
	for i := range want {
		if !(math.Abs(float64(got[i])-want[i]) <= tolerance*(size[i]+1e-6)) {
			t.Fatalf("%s: element %d is %v, want %v within %g of %v", what, i, got[i], want[i], tolerance, size[i])
		}
	}
}

// matrixBytes is one random element of a type.
func matrixBytes(r *rand.Rand, dtype tensor.DType) []byte {
	v := float32(r.NormFloat64())
	switch dtype {
	case tensor.F16:
		return binary.LittleEndian.AppendUint16(nil, quant.F32ToF16(v))
	case tensor.BF16:
		return binary.LittleEndian.AppendUint16(nil, quant.F32ToBF16(v))
	default:
		return binary.LittleEndian.AppendUint32(nil, math.Float32bits(v))
	}
}

// bytesOf returns x as bytes in memory order.
func bytesOf(x []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x))
}
