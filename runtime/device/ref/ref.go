// Package ref is the device in pure Go: obvious loops, sums in float64, each operation run when it is called. It is the
// reference for the other devices and the device of builds without cgo.
package ref

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"unsafe"

	"weft/quant"
	"weft/runtime/device"
)

// Activations is how Linear rounds its input before weights of a quantized layout.
type Activations uint8

// Precisions of activations.
const (
	Float Activations = iota // as they are
	Int8                     // rounded by quant.QuantizeActs, as fast devices do
)

// Options of New.
type Options struct {
	Activations Activations
	MemoryLimit int64 // bytes over all purposes; 0: none
}

// Device implements device.Device.
type Device struct {
	opt Options

	mu     sync.Mutex
	inUse  [device.NumPurposes]int64
	closed bool
}

// New returns a device.
func New(opt Options) *Device { return &Device{opt: opt} }

// Name returns "ref".
func (d *Device) Name() string { return "ref" }

// Describe returns the device's options in words.
func (d *Device) Describe() string {
	if d.opt.Activations == Int8 {
		return "pure Go, float64 sums, int8 activations before quantized weights"
	}
	return "pure Go, float64 sums, float activations"
}

// mostBytes is the limit where none is set: Go ends the program when asked for more.
const mostBytes = 1 << 40

// charge counts n bytes, or refuses.
func (d *Device) charge(p device.Purpose, n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("allocate: %w", device.ErrClosed)
	}
	var total int64
	for _, b := range d.inUse {
		total += b
	}
	limit := int64(mostBytes)
	if d.opt.MemoryLimit > 0 {
		limit = d.opt.MemoryLimit
	}
	if n > limit-total {
		return fmt.Errorf("%w: %d bytes for %v, %d of %d in use", device.ErrOutOfMemory, n, p, total, limit)
	}
	d.inUse[p] += n
	return nil
}

func (d *Device) release(p device.Purpose, n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inUse[p] -= n
}

// InUse returns the bytes now allocated for p.
func (d *Device) InUse(p device.Purpose) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p >= device.NumPurposes {
		return 0
	}
	return d.inUse[p]
}

// Sync does nothing: operations have run.
func (d *Device) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return device.ErrClosed
	}
	return nil
}

// Close ends the device; memory still in use is an error.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return device.ErrClosed
	}
	d.closed = true
	var errs []error
	for p, n := range d.inUse {
		if n != 0 {
			errs = append(errs, fmt.Errorf("ref: closed with %d bytes of %v in use", n, device.Purpose(p)))
		}
	}
	return errors.Join(errs...)
}

// buffer is memory of the Go heap, aligned to 64 bytes.
type buffer struct {
	dev     *Device
	purpose device.Purpose
	f       []float32
	b       []byte
}

// Alloc returns zeroed memory.
func (d *Device) Alloc(p device.Purpose, bytes int64) (device.Buffer, error) {
	if err := device.CheckAlloc(p, bytes); err != nil {
		return nil, err
	}
	if err := d.charge(p, bytes); err != nil {
		return nil, err
	}
	const line = 16 // float32 in 64 bytes
	f := make([]float32, (bytes+3)/4+line)
	for uintptr(unsafe.Pointer(unsafe.SliceData(f)))%64 != 0 {
		f = f[1:]
	}
	b := &buffer{dev: d, purpose: p, f: f[:(bytes+3)/4]}
	b.b = unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f))), bytes)
	return b, nil
}

func (b *buffer) Bytes() int64 { return int64(len(b.b)) }
func (b *buffer) Host() []byte { return b.b }

func (b *buffer) Write(off int64, p []byte) error {
	if err := device.CheckRange("write", off, len(p), b.Bytes()); err != nil {
		return err
	}
	copy(b.b[off:], p)
	return nil
}

func (b *buffer) Read(off int64, p []byte) error {
	if err := device.CheckRange("read", off, len(p), b.Bytes()); err != nil {
		return err
	}
	copy(p, b.b[off:])
	return nil
}

func (b *buffer) Free() {
	if b.dev == nil {
		panic("ref: buffer freed twice")
	}
	b.dev.release(b.purpose, b.Bytes())
	b.dev, b.f, b.b = nil, nil, nil
}

// floats returns a buffer's values.
func floats(b device.Buffer) []float32 { return b.(*buffer).f }

// ready refuses an operation on a closed device, or one whose buffers are another device's or freed. Absent buffers are
// nil.
func (d *Device) ready(op string, buffers ...device.Buffer) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("%s: %w", op, device.ErrClosed)
	}
	for _, b := range buffers {
		if own, ok := b.(*buffer); b != nil && (!ok || own.dev != d) {
			return fmt.Errorf("%s: %w: a buffer belongs to another device or is freed", op, device.ErrShape)
		}
	}
	return nil
}

// matrix returns a weight of this device.
func (d *Device) matrix(op string, w device.Weight) (*weight, error) {
	own, ok := w.(*weight)
	if !ok || own.dev != d {
		return nil, fmt.Errorf("%s: %w: a weight belongs to another device or is freed", op, device.ErrShape)
	}
	return own, nil
}

// row returns row r of a checked view.
func row(v device.View, r int) []float32 {
	at := v.Offset + int64(r)*int64(v.Stride)
	return floats(v.Buf)[at:][:v.Cols]
}

// weight is a matrix as it was loaded.
type weight struct {
	dev     *Device
	purpose device.Purpose
	m       quant.Matrix
	bytes   int64
}

// LoadMatrix copies m.
func (d *Device) LoadMatrix(p device.Purpose, m *quant.Matrix) (device.Weight, error) {
	if err := device.CheckMatrix(p, m); err != nil {
		return nil, err
	}
	w := &weight{dev: d, purpose: p, m: *m, bytes: int64(len(m.Data) + 4*len(m.Scales) + 4*len(m.Mins))}
	if err := d.charge(p, w.bytes); err != nil {
		return nil, err
	}
	if m.Codes != nil {
		codes := *m.Codes
		w.m.Codes = &codes
	}
	w.m.Data = append([]byte(nil), m.Data...)
	w.m.Scales = append([]float32(nil), m.Scales...)
	if m.Mins != nil {
		w.m.Mins = append([]float32{}, m.Mins...)
	}
	return w, nil
}

func (w *weight) Rows() int            { return w.m.Rows }
func (w *weight) Cols() int            { return w.m.Cols }
func (w *weight) Layout() quant.Layout { return w.m.Layout }
func (w *weight) Bytes() int64         { return w.bytes }

func (w *weight) Free() {
	if w.dev == nil {
		panic("ref: weight freed twice")
	}
	w.dev.release(w.purpose, w.bytes)
	w.dev = nil
}

// Embed implements device.Device.
func (d *Device) Embed(a device.EmbedArgs) error {
	const op = "embed"
	if err := d.ready(op, a.Out.Buf); err != nil {
		return err
	}
	if err := device.CheckEmbed(a); err != nil {
		return err
	}
	w, err := d.matrix(op, a.Table)
	if err != nil {
		return err
	}
	for t, id := range a.IDs {
		out := row(a.Out, t)
		w.m.Row(int(id), out)
		for i := range out {
			out[i] *= a.Scale
		}
	}
	return nil
}

// RMSNorm implements device.Device.
func (d *Device) RMSNorm(a device.RMSNormArgs) error {
	if err := d.ready("rmsnorm", a.X.Buf, a.Add.Buf, a.Out.Buf, a.Weight); err != nil {
		return err
	}
	if err := device.CheckRMSNorm(a); err != nil {
		return err
	}
	w := floats(a.Weight)
	n := a.Out.Rows
	for r := range n {
		src := r
		if a.Rows != nil {
			src = int(a.Rows[r])
		}
		x, out := row(a.X, src), row(a.Out, r)
		if a.Add.Buf != nil {
			for i, v := range row(a.Add, r) {
				x[i] += v
			}
		}
		for p := 0; p < len(x); p += len(w) {
			var sum float64
			for _, v := range x[p : p+len(w)] {
				sum += float64(v) * float64(v)
			}
			scale := 1 / math.Sqrt(sum/float64(len(w))+float64(a.Eps))
			for i := range w {
				out[p+i] = float32(float64(x[p+i]) * scale * float64(w[i]))
			}
		}
	}
	return nil
}

// Linear implements device.Device.
func (d *Device) Linear(a device.LinearArgs) error {
	const op = "linear"
	if err := d.ready(op, a.X.Buf); err != nil {
		return err
	}
	for _, p := range a.Parts {
		if err := d.ready(op, p.Out.Buf, p.Bias); err != nil {
			return err
		}
	}
	if err := device.CheckLinear(a); err != nil {
		return err
	}
	in := a.X.Cols
	ws := make([]*weight, len(a.Parts))
	for i, p := range a.Parts {
		var err error
		if ws[i], err = d.matrix(op, p.W); err != nil {
			return err
		}
	}
	wide := make([]float64, 0, a.X.Rows*in)
	for t := range a.X.Rows {
		for _, v := range row(a.X, t) {
			wide = append(wide, float64(v))
		}
	}
	var rounded []float64 // the values of the int8 codes of X
	wrow := make([]float32, in)
	for i, p := range a.Parts {
		x := wide
		if a.Precision == device.Own && d.opt.Activations == Int8 && ws[i].m.Layout >= quant.Int8 {
			if rounded == nil {
				rounded = roundActs(a.X)
			}
			x = rounded
		}
		for n := range ws[i].m.Rows {
			ws[i].m.Row(n, wrow)
			for t := range a.X.Rows {
				var sum float64
				for c, v := range x[t*in:][:in] {
					sum += v * float64(wrow[c])
				}
				if p.Bias != nil {
					sum += float64(floats(p.Bias)[n])
				}
				row(p.Out, t)[n] = float32(sum)
			}
		}
	}
	return nil
}

// roundActs returns the values of the codes of quant.QuantizeActs.
func roundActs(v device.View) []float64 {
	codes, scales := make([]int8, v.Cols), make([]float32, (v.Cols+quant.ActGroup-1)/quant.ActGroup)
	out := make([]float64, 0, v.Rows*v.Cols)
	for t := range v.Rows {
		quant.QuantizeActs(row(v, t), codes, scales)
		for i, q := range codes {
			out = append(out, float64(scales[i/quant.ActGroup])*float64(q))
		}
	}
	return out
}
