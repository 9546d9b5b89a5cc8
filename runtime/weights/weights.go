// Package weights reads model files: safetensors (single or sharded) and GGUF, memory-mapped, as named tensors. Parsers
// do not trust files: every count, offset and size is checked against the file before it is used, and allocations are
// bounded by the file's size. Errors name the file, the position and the reason.
package weights

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"weft/quant"
)

// Errors of this package; every error that a file causes wraps one of them.
var (
	// ErrFormat says that a file breaks the rules of its format.
	ErrFormat = errors.New("malformed model file")
	// ErrUnsupported says that a file may be valid but contains something that weft does not read.
	ErrUnsupported = errors.New("unsupported model file")
	// ErrNoTensor says that no tensor has the name.
	ErrNoTensor = errors.New("no such tensor")
	// ErrKind says that a tensor exists but does not have the requested rank or type.
	ErrKind = errors.New("tensor has another kind")
	// ErrChanged says that a file shrank or vanished under its mapping.
	ErrChanged = errors.New("model file changed while in use")
)

// Source is an opened model: a Hugging Face folder or a GGUF file. Tensor names are Hugging Face names
// ("model.layers.0.self_attn.q_proj.weight") whatever the file: prefixes of wrappers are removed (PlainName), and
// GGUF's own names and its row order of llama's q and k are translated, so that RoPE is always rotate-half. Safe for
// concurrent reads; Close unmaps, after which no Matrix that aliases the file may be used.
type Source interface {
	// Names lists the tensors, sorted.
	Names() []string
	// Info describes a tensor without reading it.
	Info(name string) (Info, bool)
	// Matrix returns a two-dimensional tensor in its lossless layout.
	Matrix(name string) (*quant.Matrix, error)
	// Vector returns a one-dimensional tensor widened to float32.
	Vector(name string) ([]float32, error)
	// Release releases the memory of the named tensor's mapping, because it is not needed soon. It may be read again.
	Release(name string)
	Close() error
}

// Info describes a stored tensor.
type Info struct {
	Shape  []int  // outermost first: [Out, In]
	Format string // as spelled in the file: "BF16", "Q4_1", …
	Bytes  int64
	File   string
}

// Open opens a model for reading: a folder with model.safetensors or a sharded set, one .safetensors file, or a GGUF
// file. The type of a file is determined by its first bytes, not by its name. Checkpoints of bitsandbytes (4 bits), AWQ
// and GPTQ are Quantized.
//
// The files are mapped read-only. If one is truncated while it is open, a read inside this package returns ErrChanged;
// a read of a Matrix whose Data aliases the mapping (F32, F16, BF16) by others then ends the process, as any mapping
// does: replace model files by renaming, never in place.
func Open(path string) (Source, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open model: %w", err)
	}
	if st.IsDir() {
		d, err := OpenDir(path)
		if err != nil {
			return nil, err
		}
		return openPlain(d, path)
	}
	gguf, err := isGGUF(path)
	if err != nil {
		return nil, fmt.Errorf("open model: %w", err)
	}
	if gguf {
		g, err := OpenGGUF(path)
		if err != nil {
			return nil, err
		}
		return g, nil
	}
	s, err := OpenSafetensors(path)
	if err != nil {
		return nil, err
	}
	return openPlain(s, filepath.Dir(path))
}

func isGGUF(path string) (bool, error) {
	f, err := openRegular(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var magic [4]byte
	n, _ := f.Read(magic[:])
	return string(magic[:n]) == ggufMagic, nil
}
