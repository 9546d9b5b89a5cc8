package weights

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"

	"weft/quant"
)

// Safetensors is one opened .safetensors file. It is a Source whose names are the file's own. Format:
// https://github.com/huggingface/safetensors (README, "Format").
type Safetensors struct {
	m       *mapping
	tensors map[string]entry
	meta    map[string]string
}

// OpenSafetensors maps a .safetensors file and checks its header.
func OpenSafetensors(path string) (*Safetensors, error) {
	m, err := openMapping(path)
	if err != nil {
		return nil, fmt.Errorf("open safetensors: %w", err)
	}
	return openedSafetensors(m)
}

// NewSafetensors is OpenSafetensors for a regular file that the caller has opened and checked. It owns f from then on,
// also after an error.
func NewSafetensors(f *os.File) (*Safetensors, error) {
	m, err := newMapping(f)
	if err != nil {
		return nil, fmt.Errorf("open safetensors: %w", err)
	}
	return openedSafetensors(m)
}

func openedSafetensors(m *mapping) (*Safetensors, error) {
	s := &Safetensors{m: m}
	err := m.read(func() (err error) {
		s.tensors, s.meta, err = parseHeader(m.data)
		if err != nil {
			err = fmt.Errorf("%s: %w: %w", m.path, ErrFormat, err)
		}
		return err
	})
	if err != nil {
		m.close()
		return nil, fmt.Errorf("open safetensors: %w", err)
	}
	return s, nil
}

// Metadata returns a copy of the header's __metadata__.
func (s *Safetensors) Metadata() map[string]string { return maps.Clone(s.meta) }

// Names lists the tensors, sorted.
func (s *Safetensors) Names() []string { return slices.Sorted(maps.Keys(s.tensors)) }

// Info describes a tensor without reading it.
func (s *Safetensors) Info(name string) (Info, bool) {
	e, ok := s.tensors[name]
	if !ok {
		return Info{}, false
	}
	return Info{Shape: slices.Clone(e.shape), Format: e.dtype, Bytes: int64(e.end - e.begin), File: s.m.path}, true
}

// Matrix returns an F32, F16 or BF16 tensor of two dimensions; Data aliases the mapping.
func (s *Safetensors) Matrix(name string) (*quant.Matrix, error) {
	e, err := s.find(name)
	if err != nil {
		return nil, err
	}
	layout, ok := map[string]quant.Layout{"F32": quant.F32, "F16": quant.F16, "BF16": quant.BF16}[e.dtype]
	if !ok {
		return nil, fmt.Errorf("%s: tensor %q: %w: dtype %s is not read as weights; supported are F32, F16, BF16",
			s.m.path, name, ErrUnsupported, e.dtype)
	}
	if len(e.shape) != 2 || e.begin == e.end {
		return nil, fmt.Errorf("%s: tensor %q: %w: shape %v is no matrix", s.m.path, name, ErrKind, e.shape)
	}
	if err := s.m.check(); err != nil {
		return nil, err
	}
	return &quant.Matrix{Layout: layout, Rows: e.shape[0], Cols: e.shape[1], Data: s.m.data[e.begin:e.end:e.end]}, nil
}

// Vector returns a floating-point tensor of one dimension.
func (s *Safetensors) Vector(name string) ([]float32, error) {
	v, shape, err := s.Floats(name)
	if err == nil && len(shape) != 1 {
		return nil, fmt.Errorf("%s: tensor %q: %w: shape %v is no vector", s.m.path, name, ErrKind, shape)
	}
	return v, err
}

// Floats returns a floating-point tensor of any shape as float32, row-major. F16 and BF16 widen exactly, F64 is
// rounded.
func (s *Safetensors) Floats(name string) ([]float32, []int, error) {
	e, err := s.find(name)
	if err != nil {
		return nil, nil, err
	}
	var out []float32
	err = s.m.read(func() (err error) {
		out, err = floats(e.dtype, s.m.data[e.begin:e.end])
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("%s: tensor %q: %w", s.m.path, name, err)
	}
	return out, slices.Clone(e.shape), nil
}

// Ints returns an integer tensor (I8, U8, BOOL, I16, U16, I32, U32, I64, U64) of any shape, row-major; a value outside
// int32 is an error.
func (s *Safetensors) Ints(name string) ([]int32, []int, error) {
	e, err := s.find(name)
	if err != nil {
		return nil, nil, err
	}
	var out []int32
	err = s.m.read(func() (err error) {
		out, err = ints(e.dtype, s.m.data[e.begin:e.end])
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("%s: tensor %q: %w", s.m.path, name, err)
	}
	return out, slices.Clone(e.shape), nil
}

// Bytes calls use with the stored values of a tensor of any type and shape, little-endian and row-major. use must not
// keep them; if the file is truncated meanwhile the result is ErrChanged.
func (s *Safetensors) Bytes(name string, use func(data []byte) error) error {
	e, err := s.find(name)
	if err != nil {
		return err
	}
	return s.m.read(func() error { return use(s.m.data[e.begin:e.end:e.end]) })
}

// Hold runs f, which may read slices obtained from Bytes, on this goroutine only; if the file is truncated meanwhile
// the result is ErrChanged.
func (s *Safetensors) Hold(f func() error) error { return s.m.read(f) }

// raw returns a copy of a tensor's bytes.
func (s *Safetensors) raw(name string) (out []byte, err error) {
	err = s.Bytes(name, func(data []byte) error {
		out = slices.Clone(data)
		return nil
	})
	return out, err
}

// Release implements Source.
func (s *Safetensors) Release(name string) {
	if e, ok := s.tensors[name]; ok {
		forget(s.m.data[e.begin:e.end])
	}
}

// Close unmaps the file.
func (s *Safetensors) Close() error { return s.m.close() }

func (s *Safetensors) find(name string) (entry, error) {
	e, ok := s.tensors[name]
	if !ok {
		return e, fmt.Errorf("%s: %w: %q", s.m.path, ErrNoTensor, name)
	}
	return e, nil
}

// floats widens little-endian values of a dtype or ggml format (their plain ones share names) to float32.
func floats(dtype string, b []byte) ([]float32, error) {
	switch dtype {
	case "F32":
		out := make([]float32, len(b)/4)
		for i := range out {
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
		return out, nil
	case "F16":
		out := make([]float32, len(b)/2)
		for i := range out {
			out[i] = quant.F16ToF32(binary.LittleEndian.Uint16(b[2*i:]))
		}
		return out, nil
	case "BF16":
		out := make([]float32, len(b)/2)
		for i := range out {
			out[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(b[2*i:])) << 16)
		}
		return out, nil
	case "F64":
		out := make([]float32, len(b)/8)
		for i := range out {
			out[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:])))
		}
		return out, nil
	}
	return nil, fmt.Errorf("%w: %s is not one of F32, F16, BF16, F64", ErrKind, dtype)
}

func ints(dtype string, b []byte) ([]int32, error) {
	var width int
	var at func(b []byte) int64
	switch dtype {
	case "I8":
		width, at = 1, func(b []byte) int64 { return int64(int8(b[0])) }
	case "U8", "BOOL":
		width, at = 1, func(b []byte) int64 { return int64(b[0]) }
	case "I16":
		width, at = 2, func(b []byte) int64 { return int64(int16(binary.LittleEndian.Uint16(b))) }
	case "U16":
		width, at = 2, func(b []byte) int64 { return int64(binary.LittleEndian.Uint16(b)) }
	case "I32":
		width, at = 4, func(b []byte) int64 { return int64(int32(binary.LittleEndian.Uint32(b))) }
	case "U32":
		width, at = 4, func(b []byte) int64 { return int64(binary.LittleEndian.Uint32(b)) }
	case "I64", "U64":
		width, at = 8, func(b []byte) int64 { return int64(binary.LittleEndian.Uint64(b)) }
	default:
		return nil, fmt.Errorf("%w: %s is no integer type", ErrKind, dtype)
	}
	out := make([]int32, len(b)/width)
	for i := range out {
		v := at(b[i*width:])
		if v != int64(int32(v)) || dtype == "U64" && v < 0 {
			return nil, fmt.Errorf("%w: value %d at %d does not fit int32", ErrKind, v, i)
		}
		out[i] = int32(v)
	}
	return out, nil
}

// Raw returns a tensor of any type and shape as stored; Data is a copy.
func (s *Safetensors) Raw(name string) (Tensor, error) {
	e, err := s.find(name)
	if err != nil {
		return Tensor{}, err
	}
	t := Tensor{DType: e.dtype, Shape: slices.Clone(e.shape)}
	err = s.m.read(func() error {
		t.Data = slices.Clone(s.m.data[e.begin:e.end])
		return nil
	})
	if err != nil {
		return Tensor{}, fmt.Errorf("%s: tensor %q: %w", s.m.path, name, err)
	}
	return t, nil
}
