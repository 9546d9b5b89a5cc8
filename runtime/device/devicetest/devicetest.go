// Package devicetest is the suite that every device passes: each operation against plain dense float64 formulas, at odd
// shapes and with guards around every operand; bitwise invariance under batching, chunking and paging; refusals.
//
// Tolerances are derived from the operation: n*u*Σ|a·b| for a sum of n products, where u is the device's unit roundoff,
// plus the rounding of the float32 result.
package devicetest

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"weft/quant"
	"weft/runtime/device"
	"weft/runtime/tensor"
)

// Options are the properties that a device promises.
type Options struct {
	// Unit is the unit roundoff of the device's sums: 0x1p-24 for float32, 0x1p-53 for float64; 0 means float32.
	Unit float64
	// Integer reports which matrices Linear multiplies with activations quantized by quant.QuantizeActs; nil: none.
	Integer func(m *quant.Matrix) bool
	// BF16Dots: Linear rounds X to bfloat16 before BF16 matrices.
	BF16Dots bool
	// Limited opens a device that refuses to allocate more than bytes at once; nil: the device has no limit to test.
	Limited func(t *testing.T, bytes int64) device.Device
	// Seed of all random numbers; $WEFT_SEED overrides it, 0 means 1. A failure prints the seed.
	Seed uint64
}

// Run runs the suite. open returns a new device; Run closes it, and a leak is a failure.
func Run(t *testing.T, open func(t *testing.T) device.Device, o Options) {
	if o.Unit == 0 {
		o.Unit = 0x1p-24
	}
	if o.Seed == 0 {
		o.Seed = 1
	}
	if env := os.Getenv("WEFT_SEED"); env != "" {
		seed, err := strconv.ParseUint(env, 10, 64)
		if err != nil {
			t.Fatalf("WEFT_SEED: %v", err)
		}
		o.Seed = seed
	}
	for i, c := range []struct {
		name string
		test func(b *bench)
	}{
		{"Buffers", testBuffers}, {"Embed", testEmbed}, {"Linear", testLinear}, {"LinearParts", testLinearParts},
		{"LinearNonFinite", testLinearNonFinite},
		{"RMSNorm", testRMSNorm}, {"GLU", testGLU}, {"Add", testAdd}, {"Softcap", testSoftcap},
		{"LogSoftmax", testLogSoftmax},
		{"LoRA", testLoRA}, {"RoPE", testRoPE}, {"Attention", testAttention}, {"CopyPages", testCopyPages},
		{"Training", testTraining}, {"Shapes", testShapes}, {"Foreign", testForeign}, {"OutOfMemory", testOutOfMemory},
		{"Closed", testClosed}, {"Concurrent", testConcurrent},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &bench{T: t, d: open(t), o: o, r: rand.New(rand.NewPCG(o.Seed, uint64(i)))}
			b.open = open
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("%s: repeat with WEFT_SEED=%d", b.d.Describe(), o.Seed)
				}
			})
			c.test(b)
			b.close()
		})
	}
}

// bench is one device under test. What it allocates is freed by release or close.
type bench struct {
	*testing.T
	d     device.Device
	o     Options
	r     *rand.Rand
	open  func(t *testing.T) device.Device
	owned []interface{ Free() }
}

// sub runs f as a subtest on the same device.
func (b *bench) sub(name string, f func(b *bench)) {
	b.T.Run(name, func(t *testing.T) {
		s := *b
		s.T, s.owned = t, nil
		defer s.release()
		f(&s)
	})
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// ran is like must for a recorded operation, and runs it too.
func (b *bench) ran(err error) {
	b.Helper()
	b.must(err)
	b.must(b.d.Sync())
}

func (b *bench) own(x interface{ Free() }) { b.owned = append(b.owned, x) }

func (b *bench) release() {
	for _, x := range b.owned {
		x.Free()
	}
	b.owned = nil
}

func (b *bench) close() {
	b.release()
	for p := range device.NumPurposes {
		if n := b.d.InUse(p); n != 0 && p != device.Scratch { // a device may keep scratch memory until it is closed
			b.Errorf("%d bytes of %v are in use after everything was freed", n, p)
		}
	}
	if err := b.d.Close(); err != nil {
		b.Errorf("close: %v", err)
	}
}

// buffer uploads x.
func (b *bench) buffer(p device.Purpose, x []float32) device.Buffer {
	b.Helper()
	buf, err := b.d.Alloc(p, int64(4*len(x)))
	b.must(err)
	b.own(buf)
	b.must(buf.Write(0, encode(x)))
	return buf
}

func encode(x []float32) []byte {
	out := make([]byte, 0, 4*len(x))
	for _, v := range x {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
	}
	return out
}

func (b *bench) read(buf device.Buffer) []float32 {
	b.Helper()
	raw := make([]byte, buf.Bytes())
	b.must(buf.Read(0, raw))
	out := make([]float32, len(raw)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return out
}

// guard fills the memory between and around the rows of a view: a NaN with a distinct payload, which spreads where it
// is read and is found missing where it is overwritten.
var guard = math.Float32frombits(0x7fc5a5a5)

// view uploads x [rows, cols] at an odd offset with an odd stride, guards around each row.
func (b *bench) view(x []float32, rows, cols int) device.View {
	b.Helper()
	v := device.View{Offset: int64(b.r.IntN(20)), Rows: rows, Cols: cols, Stride: cols + b.r.IntN(8), DType: tensor.F32}
	all := make([]float32, int(v.Offset)+rows*v.Stride+1+b.r.IntN(20))
	for i := range all {
		all[i] = guard
	}
	for r := range rows {
		copy(all[int(v.Offset)+r*v.Stride:][:cols], x[r*cols:][:cols])
	}
	v.Buf = b.buffer(device.Activations, all)
	return v
}

// out is a view for results, full of guards.
func (b *bench) out(rows, cols int) device.View {
	b.Helper()
	x := make([]float32, rows*cols)
	for i := range x {
		x[i] = guard
	}
	return b.view(x, rows, cols)
}

// values returns the elements of v after checking that no guard around them was touched.
func (b *bench) values(what string, v device.View) []float32 {
	b.Helper()
	all := b.read(v.Buf)
	out := make([]float32, 0, v.Rows*v.Cols)
	for r := range v.Rows {
		row := all[int(v.Offset)+r*v.Stride:][:v.Cols]
		out = append(out, row...)
		for i := range row {
			row[i] = guard
		}
	}
	for i, x := range all {
		if math.Float32bits(x) != math.Float32bits(guard) {
			b.Fatalf("%s: element %d of its buffer, outside of [%d, %d] at %d with stride %d, was overwritten with %v",
				what, i, v.Rows, v.Cols, v.Offset, v.Stride, x)
		}
	}
	return out
}

// normal returns n values around 1 in magnitude.
func (b *bench) normal(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(b.r.NormFloat64())
	}
	return x
}

// near fails unless |got-want| <= tol + 2^-24|want| for each element: tol is the operation's own error, the rest the
// rounding of the result. The reference must be finite.
func (b *bench) near(what string, got []float32, want, tol []float64) {
	b.Helper()
	if len(got) != len(want) {
		b.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i, w := range want {
		if math.IsNaN(w) || math.IsInf(w, 0) || math.IsNaN(tol[i]) {
			b.Fatalf("%s: reference [%d] is %v within %v", what, i, w, tol[i])
		}
		allowed := tol[i] + math.Abs(w)*0x1p-24 + 0x1p-149
		if e := math.Abs(float64(got[i]) - w); !(e <= allowed) {
			b.Fatalf("%s: [%d] = %v, want %v: off by %.3g, allowed %.3g", what, i, got[i], w, e, allowed)
		}
	}
}

// same fails unless both have the same bits.
func (b *bench) same(what string, got, want []float32) {
	b.Helper()
	if len(got) != len(want) {
		b.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			b.Fatalf("%s: [%d] = %v (%08x), want the same bits as %v (%08x)", what, i, got[i], math.Float32bits(got[i]),
				want[i], math.Float32bits(want[i]))
		}
	}
}

// splits returns half-open runs that cover [0, rows): every row by itself, and two random partitions.
func (b *bench) splits(rows int) [][2]int {
	var out [][2]int
	for i := range min(rows, 12) {
		out = append(out, [2]int{i, i + 1})
	}
	for range 2 {
		for at := 0; at < rows; {
			n := min(1+b.r.IntN(rows), rows-at)
			out = append(out, [2]int{at, at + n})
			at += n
		}
	}
	return out
}

func name(parts ...any) string { return fmt.Sprint(parts...) }
