package weights

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"weft/internal/durable"
	"weft/quant"
)

// ggufMetaBegin is where the metadata begins: after magic, version and the two counts.
const ggufMetaBegin = 4 + 4 + 8 + 8

// Rewrite writes a GGUF file with the metadata and the tensors of g, matrices as bfloat16 and vectors as float32, whose
// values are those that values returns for the tensors' Hugging Face names, in the order of [Source]. The file is
// complete or absent. A split model is ErrUnsupported.
func (g *GGUF) Rewrite(path string, values func(name string) ([]float32, error)) error {
	if g.splitCount() > 1 {
		return fmt.Errorf("%s: %w: it is one of several files", g.m.path, ErrUnsupported)
	}
	meta, err := g.head()
	if err != nil {
		return err
	}
	names := g.Names()
	align := uint64(32)
	if a, ok := g.header.meta["general.alignment"].(uint32); ok {
		align = uint64(a)
	}
	padded := func(n uint64) uint64 { return (n + align - 1) / align * align }
	head := binary.LittleEndian.AppendUint64(append([]byte(ggufMagic), byte(g.header.version), 0, 0, 0),
		uint64(len(names)))
	head = append(head, meta...)
	offset := uint64(0)
	for _, name := range names {
		t := g.tensors[name]
		head = binary.LittleEndian.AppendUint64(head, uint64(len(t.name)))
		head = append(head, t.name...)
		head = binary.LittleEndian.AppendUint32(head, uint32(len(t.shape)))
		size := uint64(t.writtenAs().bytes)
		for i := range t.shape {
			d := uint64(t.shape[len(t.shape)-1-i])
			head, size = binary.LittleEndian.AppendUint64(head, d), size*d
		}
		head = binary.LittleEndian.AppendUint32(head, uint32(t.writtenAs().typ))
		head = binary.LittleEndian.AppendUint64(head, offset)
		offset = padded(offset + size)
	}
	head = append(head, make([]byte, padded(uint64(len(head)))-uint64(len(head)))...)
	return durable.Replace(path, func(w io.Writer) error {
		if _, err := w.Write(head); err != nil {
			return err
		}
		for _, name := range names {
			x, err := values(name)
			if err != nil {
				return err
			}
			data, err := g.tensors[name].encode(x)
			if err != nil {
				return fmt.Errorf("tensor %q: %w", name, err)
			}
			data = append(data, make([]byte, padded(uint64(len(data)))-uint64(len(data)))...)
			if _, err := w.Write(data); err != nil {
				return err
			}
			g.Release(name)
		}
		return nil
	})
}

// head returns the number of metadata entries and the entries as they stand in the file.
func (g *GGUF) head() (meta []byte, err error) {
	err = g.m.read(func() error {
		meta = append(meta, g.m.data[ggufMetaBegin-8:g.header.metaEnd]...)
		return nil
	})
	return meta, err
}

type ggufForm struct {
	typ   quant.GGMLType
	bytes int // of a value
}

// writtenAs is the type in which Rewrite writes a tensor.
func (t ggufTensor) writtenAs() ggufForm {
	if len(t.shape) == 1 { // llama.cpp computes with float32 norms and biases
		return ggufForm{quant.GGMLF32, 4}
	}
	return ggufForm{quant.GGMLBF16, 2}
}

// encode returns a tensor's bytes in the file's order of rows.
func (t ggufTensor) encode(x []float32) ([]byte, error) {
	n := 1
	for _, d := range t.shape {
		n *= d
	}
	if len(x) != n {
		return nil, fmt.Errorf("%d values are not shape %v", len(x), t.shape)
	}
	form := t.writtenAs()
	out, row := make([]byte, n*form.bytes), n/t.shape[0]
	for r := range t.shape[0] {
		to := r
		if t.heads > 0 {
			to = InterleavedRow(r, t.shape[0]/t.heads)
		}
		for i, v := range x[r*row:][:row] {
			at := out[(to*row+i)*form.bytes:]
			if form.typ == quant.GGMLBF16 {
				binary.LittleEndian.PutUint16(at, quant.F32ToBF16(v))
			} else {
				binary.LittleEndian.PutUint32(at, math.Float32bits(v))
			}
		}
	}
	return out, nil
}

// Values returns a vector, or a matrix row by row, as float32.
func Values(src Source, name string) ([]float32, error) {
	info, ok := src.Info(name)
	if !ok {
		return nil, fmt.Errorf("%w: %q", ErrNoTensor, name)
	}
	if len(info.Shape) == 1 {
		return src.Vector(name)
	}
	m, err := src.Matrix(name)
	if err != nil {
		return nil, err
	}
	x := make([]float32, m.Rows*m.Cols)
	for r := range m.Rows {
		m.Row(r, x[r*m.Cols:][:m.Cols])
	}
	return x, nil
}
