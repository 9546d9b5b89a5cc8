package lora

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"weft/quant"
	"weft/runtime/device"
	"weft/runtime/tensor"
)

// ErrAdapter is returned for adapters whose A and B matrices do not match.
var ErrAdapter = errors.New("bad adapter")

const (
	line        = 64  // matrices begin at multiples of it, the size of a cache line
	tableHeader = 256 // upper bound of what a device needs for a matrix besides its padded values
)

func aligned(n int64) int64 { return (n + line - 1) / line * line }

// moduleBytes returns what a module takes in the block.
func moduleBytes(m *Module, withoutA bool) int64 {
	n := aligned(device.LoRABBytes(m.B.Rows, m.B.Cols, m.B.DType)) + aligned(4*int64(len(m.Gain))) +
		aligned(4*int64(len(m.Bias)))
	if !withoutA {
		n += aligned(int64(len(m.A.Data)))
	}
	return n
}

func (a *Adapter) blockBytes() int64 {
	n := moduleBytes(&a.Embed, true) + moduleBytes(&a.Head, false)
	for l := range a.Layers {
		for t := range a.Layers[l] {
			n += moduleBytes(&a.Layers[l][t], false)
		}
	}
	return n
}

// DeviceBytes returns the bytes that Load allocates on a device: exactly, except for norms and whole matrices (replaced
// tables, and A of an embedding), whose rows and columns devices pad; for those it is an upper bound.
func DeviceBytes(a *Adapter) int64 {
	n := a.blockBytes()
	for _, m := range []*quant.Matrix{a.EmbedTable, a.HeadTable} {
		if m != nil {
			n += tableBytes(m)
		}
	}
	a.eachNorm(func(v []float32) { n += aligned(4 * int64(len(v))) })
	if r := a.Embed.Rank(); r > 0 {
		n += tableBytes(&quant.Matrix{Layout: layoutOf(a.Embed.A.DType), Rows: a.Embed.A.Cols, Cols: r})
	}
	return n
}

func tableBytes(m *quant.Matrix) int64 {
	rows, cols := (int64(m.Rows)+15)/16*16, (int64(m.Cols)+31)/32*32
	per := int64(1)
	switch m.Layout {
	case quant.F32:
		per = 4
	case quant.F16, quant.BF16:
		per = 2
	}
	return tableHeader + rows*cols*per + rows*int64(m.Groups())*8
}

// Load copies an adapter to dev, completely or not at all, counted under device.Adapters: one block, and the tables. It
// keeps no reference to a. Any goroutine may call it, also while another one runs operations. Errors: ErrAdapter;
// device.ErrOutOfMemory; device.ErrUnsupported for a device whose memory the host cannot address.
func Load(dev device.Device, a *Adapter) (*Weights, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	w, done := &Weights{Layers: make([][NumTargets]device.LoRAMatrices, len(a.Layers))}, false
	defer func() {
		if !done { // an error, or a panic: matrices may be mapped from a file that was truncated
			w.Free()
		}
	}()
	if err := w.load(dev, a); err != nil {
		return nil, fmt.Errorf("load adapter: %w", err)
	}
	done = true
	return w, nil
}

func (w *Weights) load(dev device.Device, a *Adapter) error {
	b := packer{}
	if n := a.blockBytes(); n > 0 {
		buf, err := dev.Alloc(device.Adapters, n)
		if err != nil {
			return err
		}
		w.block, w.bytes = buf, buf.Bytes()
		if b.buf, b.to = buf, buf.Host(); b.to == nil {
			return fmt.Errorf("%w: the host cannot address its memory", device.ErrUnsupported)
		}
	}
	for l := range a.Layers {
		for t := range a.Layers[l] {
			w.Layers[l][t] = b.module(&a.Layers[l][t], false)
		}
	}
	w.Embed.M, w.Head = b.module(&a.Embed, true), b.module(&a.Head, false)
	for _, t := range []struct {
		to *device.Weight
		m  *quant.Matrix
	}{{&w.EmbedTable, a.EmbedTable}, {&w.HeadTable, a.HeadTable}, {&w.Embed.Table, transposed(&a.Embed.A)}} {
		if t.m == nil {
			continue
		}
		m, err := dev.LoadMatrix(device.Adapters, t.m)
		if err != nil {
			return err
		}
		*t.to = m
		w.bytes += m.Bytes()
	}
	w.notCombinable = a.notCombinable()
	return w.loadNorms(dev, a)
}

// Free releases the memory; further calls do nothing. No batch may refer to w any more.
func (w *Weights) Free() {
	for _, t := range []*device.Weight{&w.EmbedTable, &w.HeadTable, &w.Embed.Table} {
		if *t != nil {
			(*t).Free()
			*t = nil
		}
	}
	for _, b := range w.norms {
		b.Free()
	}
	w.norms = nil
	if w.block != nil {
		w.block.Free()
		w.block = nil
	}
}

func (a *Adapter) notCombinable() string {
	switch {
	case a.EmbedTable != nil || a.HeadTable != nil:
		return "it replaces the embedding or the output head"
	case a.replacesNorms():
		return "it replaces norms"
	case a.Embed.Gain != nil || a.Head.Gain != nil:
		return "it is a DoRA adapter"
	}
	for l := range a.Layers {
		for t := range a.Layers[l] {
			if a.Layers[l][t].Gain != nil {
				return "it is a DoRA adapter"
			}
		}
	}
	return ""
}

// packer copies modules one after another into a block.
type packer struct {
	buf device.Buffer
	to  []byte
	at  int64
}

// region takes n bytes of the block.
func (b *packer) region(n int64, t tensor.DType) (device.Region, []byte) {
	s := device.Region{Buf: b.buf, Offset: b.at, DType: t}
	b.at += aligned(n)
	return s, b.to[s.Offset:][:n]
}

func (b *packer) module(m *Module, withoutA bool) device.LoRAMatrices {
	out := device.LoRAMatrices{Rank: m.Rank(), Scale: m.Scale, In: m.A.Cols,
		Out: max(m.B.Rows, len(m.Gain), len(m.Bias))}
	if out.Rank > 0 {
		if !withoutA {
			var to []byte
			out.A, to = b.region(int64(len(m.A.Data)), m.A.DType)
			copy(to, m.A.Data)
		}
		var to []byte
		out.B, to = b.region(device.LoRABBytes(m.B.Rows, m.B.Cols, m.B.DType), m.B.DType)
		device.PackLoRAB(to, m.B.Data, m.B.Rows, m.B.Cols, m.B.DType.Size())
	}
	out.Gain, out.Bias = b.vector(m.Gain), b.vector(m.Bias)
	return out
}

func (b *packer) vector(v []float32) device.Region {
	if len(v) == 0 {
		return device.Region{}
	}
	s, to := b.region(4*int64(len(v)), tensor.F32)
	for i, x := range v {
		binary.LittleEndian.PutUint32(to[4*i:], math.Float32bits(x))
	}
	return s
}

func layoutOf(t tensor.DType) quant.Layout {
	switch t {
	case tensor.F16:
		return quant.F16
	case tensor.BF16:
		return quant.BF16
	default:
		return quant.F32
	}
}

// transposed returns f as a matrix [Cols, Rows]; nil for an empty one.
func transposed(f *Matrix) *quant.Matrix {
	if f.Rows == 0 {
		return nil
	}
	size := f.DType.Size()
	m := &quant.Matrix{Layout: layoutOf(f.DType), Rows: f.Cols, Cols: f.Rows, Data: make([]byte, len(f.Data))}
	for r := range f.Rows {
		for c := range f.Cols {
			copy(m.Data[(c*f.Rows+r)*size:][:size], f.Data[(r*f.Cols+c)*size:])
		}
	}
	return m
}

// check refuses A and B matrices with impossible or mismatched shapes.
func (a *Adapter) check() error {
	for l := range a.Layers {
		for t := range a.Layers[l] {
			if err := a.Layers[l][t].check(); err != nil {
				return fmt.Errorf("%w: layer %d, target module %d: %w", ErrAdapter, l, t, err)
			}
		}
	}
	if err := a.checkNorms(); err != nil {
		return err
	}
	if err := a.Embed.check(); err != nil {
		return fmt.Errorf("%w: embedding: %w", ErrAdapter, err)
	}
	if err := a.Head.check(); err != nil {
		return fmt.Errorf("%w: head: %w", ErrAdapter, err)
	}
	return nil
}

func (m *Module) check() error {
	for _, f := range []*Matrix{&m.A, &m.B} {
		if err := f.check(); err != nil {
			return err
		}
	}
	if m.A.Rows != m.B.Cols || m.A.Rows == 0 && (m.A.Cols > 0 || m.B.Rows > 0) {
		return fmt.Errorf("matrices A and B are [%d, %d] and [%d, %d]; want [R, in] and [out, R]", m.A.Rows, m.A.Cols,
			m.B.Rows, m.B.Cols)
	}
	out := max(m.B.Rows, len(m.Gain), len(m.Bias))
	for _, n := range []int{len(m.Gain), len(m.Bias)} {
		if n != 0 && n != out || m.Rank() > 0 && out != m.B.Rows {
			return fmt.Errorf("%d gains and %d biases for %d outputs", len(m.Gain), len(m.Bias), m.B.Rows)
		}
	}
	return nil
}

func (f *Matrix) check() error {
	size := 0
	switch f.DType {
	case tensor.F32, tensor.F16, tensor.BF16:
		size = f.DType.Size()
	case tensor.Invalid: // an absent matrix
	default:
		return fmt.Errorf("a LoRA matrix of %v; want F32, F16 or BF16", f.DType)
	}
	if f.Rows < 0 || f.Cols < 0 || f.Rows > math.MaxInt32 || f.Cols > math.MaxInt32 ||
		int64(f.Rows)*int64(f.Cols) > math.MaxInt/8 || f.Rows*f.Cols*size != len(f.Data) ||
		size == 0 && f.Rows*f.Cols > 0 {
		return fmt.Errorf("a LoRA matrix [%d, %d] of %v has %d bytes", f.Rows, f.Cols, f.DType, len(f.Data))
	}
	return nil
}
