package weights

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"weft/quant"
)

// GGUF is an opened GGUF file. As a Source it has Hugging Face names for the architectures llama, qwen2, qwen3, gemma2,
// gemma3 and phi3; the tensors of other architectures keep GGUF's names. A file without tensors (a vocabulary) opens
// too.
type GGUF struct {
	m       *mapping
	header  *ggufHeader
	parts   []*GGUF // the further files of a split model
	tensors map[string]ggufTensor
}

// OpenGGUF maps a GGUF file (version 2 or 3, little-endian) and checks all of its header. path may be the first file of
// a split model, as llama.cpp's gguf-split writes it; the others are expected beside it.
func OpenGGUF(path string) (*GGUF, error) {
	m, err := openMapping(path)
	if err != nil {
		return nil, fmt.Errorf("open GGUF: %w", err)
	}
	g, err := openedGGUF(m)
	if err != nil {
		return nil, err
	}
	if err := g.openParts(path); err != nil {
		g.Close()
		return nil, fmt.Errorf("open GGUF: %s: %w", path, err)
	}
	return g, nil
}

// NewGGUF is OpenGGUF for a regular file that the caller has opened and checked, and which must not be split. It owns f
// from then on, also after an error.
func NewGGUF(f *os.File) (*GGUF, error) {
	m, err := newMapping(f)
	if err != nil {
		return nil, fmt.Errorf("open GGUF: %w", err)
	}
	g, err := openedGGUF(m)
	if err != nil {
		return nil, err
	}
	if n := g.splitCount(); n > 1 {
		g.Close()
		return nil, fmt.Errorf("open GGUF: %s: %w: it is one of %d files of a split", m.path, ErrUnsupported, n)
	}
	return g, nil
}

func openedGGUF(m *mapping) (*GGUF, error) {
	g := &GGUF{m: m, tensors: map[string]ggufTensor{}}
	err := m.read(func() (err error) {
		g.header, err = parseGGUF(m.data)
		if err == nil {
			err = g.rename()
		}
		if err != nil {
			err = fmt.Errorf("%s: %w: %w", m.path, ErrFormat, err)
		}
		return err
	})
	if err != nil {
		m.close()
		return nil, fmt.Errorf("open GGUF: %w", err)
	}
	return g, nil
}

// rename fills tensors by Hugging Face name and finds the tensors whose rows are interleaved.
func (g *GGUF) rename() error {
	arch := g.Architecture()
	for _, t := range g.header.tensors {
		name := HuggingFaceName(arch, t.name)
		if other, taken := g.tensors[name]; taken {
			return fmt.Errorf("tensors %q and %q both mean %q", other.name, t.name, name)
		}
		heads, err := interleavedHeads(arch, t.name, g.header.meta)
		if err != nil {
			return err
		}
		if heads > 0 && t.shape[0]%(2*heads) != 0 {
			return fmt.Errorf("tensor %q: %d rows are not %d heads of an even size", t.name, t.shape[0], heads)
		}
		t.heads, t.m = heads, g.m
		g.tensors[name] = t
	}
	return nil
}

// Version returns the file's version of the format.
func (g *GGUF) Version() int { return int(g.header.version) }

// Architecture returns general.architecture, empty where the file has none.
func (g *GGUF) Architecture() string {
	s, _ := g.header.meta["general.architecture"].(string)
	return s
}

// Meta returns the metadata, by key, in Go's types: uint8 … int64, float32, float64, bool, string, slices of these, and
// []any for arrays of arrays. It is shared and must not be changed; it stays valid after Close.
func (g *GGUF) Meta() map[string]any { return g.header.meta }

// NormsIncludeOne reports whether the norm weights (Gemma's) are stored as 1+w; Hugging Face files store w. They are
// returned as stored: multiply by them directly.
func (g *GGUF) NormsIncludeOne() bool { return strings.HasPrefix(g.Architecture(), "gemma") }

// Names lists the tensors, sorted.
func (g *GGUF) Names() []string { return slices.Sorted(maps.Keys(g.tensors)) }

// Info describes a tensor without reading it.
func (g *GGUF) Info(name string) (Info, bool) {
	t, ok := g.tensors[name]
	if !ok {
		return Info{}, false
	}
	return Info{Shape: slices.Clone(t.shape), Format: t.typ.String(), Bytes: int64(t.end - t.begin), File: t.m.path},
		true
}

// Matrix returns a two-dimensional tensor; see quant.DecodeGGML. F32, F16 and BF16 alias the mapping unless their rows
// had to be put in order.
func (g *GGUF) Matrix(name string) (*quant.Matrix, error) {
	t, err := g.find(name, 2)
	if err != nil {
		return nil, err
	}
	var mat *quant.Matrix
	err = t.m.read(func() (err error) {
		mat, err = quant.DecodeGGML(t.typ, g.rows(t), t.shape[0], t.shape[1])
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: tensor %q: %w", t.m.path, name, err)
	}
	return mat, nil
}

// Vector returns a one-dimensional F32, F16, BF16 or F64 tensor as float32.
func (g *GGUF) Vector(name string) ([]float32, error) {
	t, err := g.find(name, 1)
	if err != nil {
		return nil, err
	}
	var out []float32
	err = t.m.read(func() (err error) {
		out, err = floats(t.typ.String(), g.rows(t))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: tensor %q: %w", t.m.path, name, err)
	}
	return out, nil
}

// Bytes calls use with the stored blocks of a tensor, with rows in rotate-half order. use must not keep them; if the
// file is truncated meanwhile the result is ErrChanged.
func (g *GGUF) Bytes(name string, use func(data []byte) error) error {
	t, ok := g.tensors[name]
	if !ok {
		return fmt.Errorf("%s: %w: %q", g.m.path, ErrNoTensor, name)
	}
	return t.m.read(func() error { return use(g.rows(t)) })
}

// Hold runs f, which may read slices obtained from Bytes, on this goroutine only; if the file is truncated meanwhile
// the result is ErrChanged. It is for files of NewGGUF.
func (g *GGUF) Hold(f func() error) error { return g.m.read(f) }

// Release implements Source.
func (g *GGUF) Release(name string) {
	if t, ok := g.tensors[name]; ok {
		forget(t.m.data[t.begin:t.end])
	}
}

// Close unmaps the file, or all files of a split model.
func (g *GGUF) Close() error {
	errs := []error{g.m.close()}
	for _, p := range g.parts {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

func (g *GGUF) find(name string, rank int) (ggufTensor, error) {
	t, ok := g.tensors[name]
	if !ok {
		return t, fmt.Errorf("%s: %w: %q", g.m.path, ErrNoTensor, name)
	}
	if len(t.shape) != rank {
		return t,
			fmt.Errorf("%s: tensor %q: %w: shape %v has not %d dimensions", t.m.path, name, ErrKind, t.shape, rank)
	}
	return t, nil
}

// rows returns the stored bytes of a tensor with its rows in rotate-half order; they alias the mapping if they were
// already in that order.
func (g *GGUF) rows(t ggufTensor) []byte {
	stored := t.m.data[t.begin:t.end:t.end]
	if t.heads == 0 {
		return stored
	}
	out := make([]byte, len(stored))
	rows := t.shape[0]
	size := len(stored) / rows
	for r := range rows {
		copy(out[r*size:][:size], stored[InterleavedRow(r, rows/t.heads)*size:])
	}
	return out
}

// Interleaved reports whether GGUF files of the architecture store the rows of q and k in the interleaved order of
// RoPE.
func Interleaved(architecture string) bool { return architecture == "llama" }

// InterleavedRow returns where GGUF keeps row r of a q or k of heads with headDim rows: rotate-half pairs rows j and
// j+headDim/2 of a head, which the interleaved order stores as 2j and 2j+1.
func InterleavedRow(r, headDim int) int {
	inHead := r % headDim
	half, j := inHead/(headDim/2), inHead%(headDim/2)
	return r - inHead + 2*j + half
}
