package lora

import (
	"weft/quant"
	"weft/runtime/tensor"
)

// Matrix is a LoRA A or B matrix in host memory, row-major, little-endian, in the data type of its file: F32, F16 or
// BF16. It is not widened, so that an adapter takes as many bytes on a device as in its file.
type Matrix struct {
	DType      tensor.DType
	Rows, Cols int
	Data       []byte
}

// Module is the change of an adapter to one linear layer y = Wx + b:
//
//	y' = Gain ⊙ (y + Scale · B(A x)) + Bias
//
// Gain is nil except for DoRA (Liu et al. 2024, arXiv:2402.09353): there it is m / ‖W + Scale·BA‖ by rows; because it
// must not multiply the layer's own bias b, Bias is (1 − Gain) ⊙ b. An adapter's trained bias is in Bias too, as the
// difference to the layer's own.
type Module struct {
	A, B  Matrix    // A [R, In], B [Out, R]; both empty where only Bias is set
	Scale float32   // alpha/R, or alpha/sqrt(R) for rsLoRA
	Gain  []float32 // [Out] or nil
	Bias  []float32 // [Out] or nil
}

// Rank returns R.
func (m *Module) Rank() int { return m.A.Rows }

// Empty reports whether the module changes nothing.
func (m *Module) Empty() bool { return m.A.Rows == 0 && m.Bias == nil }

// Adapter is an adapter in host memory, checked against its base: adapters/peft reads it, Load copies it to a device.
type Adapter struct {
	// one entry per decoder block of the base; fused projections (Phi-3) are split into their parts, which have the
	// same A
	Layers [][NumTargets]Module

	Embed      Module        // on the embedding: A [R, V], B [H, R]; x' = x + EmbedScale · Scale · B A[:, id]
	EmbedTable *quant.Matrix // [V, H]: replaces the embedding's input side, or nil
	Head       Module        // on the output head, with In = H, Out = V
	HeadTable  *quant.Matrix // [V, H]: replaces the output head, or nil

	// weights that replace those of a block's norms; nil: none, and nil in it: unchanged
	Norms     [][NumNorms][]float32
	FinalNorm []float32 // [H]: replaces the norm before the head, or nil
}
