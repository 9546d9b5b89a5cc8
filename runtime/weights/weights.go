// Package weights reads model files: safetensors (single or sharded) and GGUF, memory-mapped, as named tensors.
// Parsers trust nothing: every count, offset and size is checked against the file before it is used, and nothing is allocated that the file's
// size does not justify. Errors name the file, the place and the reason.
package weights

import "weft/quant"

// Source is an opened model: a Hugging Face folder or a GGUF file. Tensor names are Hugging Face names
// ("model.layers.0.self_attn.q_proj.weight") whatever the file; GGUF's own names and its row order of llama's q and k are translated, so that
// RoPE is always rotate-half. Safe for concurrent reads; Close unmaps, after which no Matrix that aliases the file may be used.
type Source interface {
	// Names lists the tensors, sorted.
	Names() []string
	// Info describes a tensor without reading it.
	Info(name string) (Info, bool)
	// Matrix returns a two-dimensional tensor in its lossless layout.
	Matrix(name string) (*quant.Matrix, error)
	// Vector returns a one-dimensional tensor widened to float32.
	Vector(name string) ([]float32, error)
	Close() error
}

// Info describes a stored tensor.
type Info struct {
	Shape  []int  // outermost first: [Out, In]
	Format string // as the file spells it: "BF16", "Q4_1", …
	Bytes  int64
	File   string
}
