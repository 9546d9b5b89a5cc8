package lora

import (
	"weft/quant"
	"weft/runtime/tensor"
)

// Factor is a matrix of an adapter in host memory, row-major, little-endian, in the type in which its file holds it:
// F32, F16 or BF16. Nothing is widened, so that an adapter takes on a device what it takes in its file.
type Factor struct {
	DType      tensor.DType
	Rows, Cols int
	Data       []byte
}

// Module is what an adapter does to one linear layer y = Wx + b:
//
//	y' = Gain ⊙ (y + Scale · B(A x)) + Bias
//
// Gain is absent save for DoRA (Liu et al. 2024, arXiv:2402.09353): there it is m / ‖W + Scale·BA‖ by rows, and as the
// layer's own bias b stays outside of it, Bias holds (1 − Gain) ⊙ b. Bias is also how an adapter's trained bias comes
// in: the difference to the layer's own.
type Module struct {
	A, B  Factor    // A [R, In], B [Out, R]; both empty where only Bias is set
	Scale float32   // alpha/R, or alpha/sqrt(R) for rsLoRA
	Gain  []float32 // [Out] or nil
	Bias  []float32 // [Out] or nil
}

// Rank returns R.
func (m *Module) Rank() int { return m.A.Rows }

// Empty says that the module changes nothing.
func (m *Module) Empty() bool { return m.A.Rows == 0 && m.Bias == nil }

// Adapter is an adapter in host memory, checked against its base: adapters/peft makes it, Load puts it on a device.
type Adapter struct {
	// one entry a decoder block of the base; fused projections (Phi-3) are cut into their parts, which share A
	Layers [][NumTargets]Module

	Embed      Module        // on the embedding: A [R, V], B [H, R]; x' = x + EmbedScale · Scale · B A[:, id]
	EmbedTable *quant.Matrix // [V, H]: replaces the embedding's input side, or nil
	Head       Module        // on the output head, with In = H, Out = V
	HeadTable  *quant.Matrix // [V, H]: replaces the output head, or nil
}
