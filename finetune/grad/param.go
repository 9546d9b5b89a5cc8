// Package grad is a model's loss and its gradient: the forward pass of runtime/model over samples, with the activations
// for the backward pass kept, and the backward pass, written by hand operation by operation, over device.Training. The
// base's weights are those that are served, in their layouts, and are only read; trained parameters are Params: LoRA A
// and B matrices, magnitudes, biases, or the model's own matrices.
package grad

import (
	"errors"
	"fmt"
	"unsafe"

	"weft/runtime/device"
)

// ErrDevice says that a device cannot train: it has no gradients or its memory cannot be addressed.
var ErrDevice = errors.New("this device cannot train")

// Param is a trained matrix [Rows, Cols] in F32 and its gradient, in memory that the host can address.
type Param struct {
	Name       string // name in files
	Rows, Cols int
	Vector     bool // files store it as [Rows]
	Bias       bool // a vector that is added
	value      device.Buffer
	grad       device.Buffer
	at         int           // first value in the buffers, of a part
	master     device.Buffer // or nil; see KeepMasters
	round      Rounding
}

// NewVector allocates a zeroed parameter of n values in one dimension.
func NewVector(dev device.Device, name string, n int) (*Param, error) {
	p, err := NewParam(dev, name, n, 1)
	if err == nil {
		p.Vector = true
	}
	return p, err
}

// NewParam allocates a zeroed parameter.
func NewParam(dev device.Device, name string, rows, cols int) (*Param, error) {
	p := &Param{Name: name, Rows: rows, Cols: cols}
	for _, b := range []*device.Buffer{&p.value, &p.grad} {
		buf, err := dev.Alloc(device.Adapters, 4*int64(rows)*int64(cols))
		if err == nil && buf.Host() == nil {
			buf.Free()
			err = ErrDevice
		}
		if err != nil {
			p.Free()
			return nil, fmt.Errorf("parameter %s [%d, %d]: %w", name, rows, cols, err)
		}
		*b = buf
	}
	return p, nil
}

// Values are the values that the model computes with; write them only while no operation is recorded.
func (p *Param) Values() []float32 { return floats(p.value)[p.at:][:p.Len()] }

// Master returns the values that an optimizer changes: the float32 masters if there are any, else the values
// themselves. Call Renew after a change.
func (p *Param) Master() []float32 {
	if p.master == nil {
		return p.Values()
	}
	return floats(p.master)
}

// Grads are the gradients added up since ZeroGrad.
func (p *Param) Grads() []float32 { return floats(p.grad)[p.at:][:p.Len()] }

// Len returns the number of values.
func (p *Param) Len() int { return p.Rows * p.Cols }

// Free frees the memory.
func (p *Param) Free() {
	for _, b := range []device.Buffer{p.value, p.grad, p.master} {
		if b != nil {
			b.Free()
		}
	}
}

func (p *Param) view() device.View  { return p.of(p.value) }
func (p *Param) dview() device.View { return p.of(p.grad) }

func (p *Param) of(b device.Buffer) device.View {
	v := view(b, p.Rows, p.Cols)
	v.Offset = int64(p.at)
	return v
}

// floats returns the memory of b as float32.
func floats(b device.Buffer) []float32 {
	h := b.Host()
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(h))), len(h)/4)
}
