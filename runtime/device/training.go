package device

// Training is the optional interface of a device that can compute gradients. Its operations are recorded and ordered
// like those of Device, on F32 views; batches are ragged without pages. Sums run in an order that does not depend on
// the number of threads; a gradient's terms are added in the order of the batch's rows.
//
// The gradients are those of the forward operation of the same name, differentiated by hand; each comment gives the
// formula.
type Training interface {
	Device

	MatMul(MatMulArgs) error
	LinearGrad(LinearGradArgs) error
	RMSNormGrad(RMSNormGradArgs) error
	Rotate(RotateArgs) error
	SelfAttention(SelfAttentionArgs) error
	SelfAttentionGrad(SelfAttentionGradArgs) error
	GLUGrad(GLUGradArgs) error
	CrossEntropy(CrossEntropyArgs) error
	EmbedGrad(EmbedGradArgs) error
}

// MatMulArgs: Out = Alpha · op(A) op(B) + (Accumulate ? Out : 0), where op transposes if TransA or TransB is set. Out
// [M, N], op(A) [M, K], op(B) [K, N]. The gradients of LoRA A and B and of whole matrices are computed with it: dA =
// s·(dY B)ᵀ X, dB = s·dYᵀ (X Aᵀ), dW = dYᵀ X. Out must not overlap A or B.
type MatMulArgs struct {
	A, B, Out      View
	TransA, TransB bool
	Alpha          float32
	Accumulate     bool
	Precision      Precision
}

// LinearGradPart is one product whose input gradient is wanted: with a weight, or with a matrix that is trained.
type LinearGradPart struct {
	W      Weight // [N, In], any layout; nil: Matrix
	Matrix View   // [N, In]
	DY     View   // [T, N]
}

// LinearGradArgs: DX = Σ over parts of DY · W, plus DX itself where Accumulate is set. Only the gradient of the input
// is computed. The values of W are those that quant.Matrix defines, whatever the device's activations are; with
// Precision BF16 they, those of Matrix and DY are rounded to bfloat16. DX overlaps no Matrix.
type LinearGradArgs struct {
	Parts      []LinearGradPart
	DX         View // [T, In]; must not overlap any DY
	Accumulate bool
	Precision  Precision
}

// RMSNormGradArgs is RMSNorm backward: X, Weight, Parts, Eps as forward (X is the sum that RMSNorm normalized). DX =
// gradient for X, plus DX itself where Accumulate is set; DX may be DY. DWeight [D], where given, is added to.
type RMSNormGradArgs struct {
	X, DY, DX  View
	Weight     Buffer
	DWeight    Buffer // or nil
	Parts      int
	Eps        float32
	Accumulate bool
}

// RotateArgs rotates X [T, heads*HeadDim] in place as RoPEArgs does, without a cache; Inverse rotates back, which is
// the gradient.
type RotateArgs struct {
	X         View
	HeadDim   int
	Rot       int
	Table     Buffer
	TableRows []int32
	Inverse   bool
}

// SelfAttentionArgs is causal attention within samples: rows [Indptr[d], Indptr[d+1]) see only their own sample's rows
// up to themselves, and where Prefix[d] >= 0 first all rows of that sample, which d continues: so samples with the same
// prefix store it once. A prefix comes before the samples that continue it and continues no other sample. Q, Out [T,
// Hq*D], K, V [T, Hkv*D]; LSE F32 [T, Hq] receives log Σ exp of each row's scores (after scale and softcap), which the
// gradient needs. A window counts the rows of the prefix too.
type SelfAttentionArgs struct {
	Q, K, V, Out View
	LSE          View
	HeadDim      int
	Indptr       []int32
	Prefix       []int32 // by sample; nil: nothing is continued
	Scale        float32
	Softcap      float32
	Window       int
}

// SelfAttentionGradArgs: DQ, DK, DV are overwritten. Out and LSE are those of the forward pass (FlashAttention 2,
// arXiv:2307.08691, algorithm 2, without its tiling across devices).
type SelfAttentionGradArgs struct {
	SelfAttentionArgs
	DOut, DQ, DK, DV View
}

// GLUGradArgs: Gate, Up as forward, DOut [T, F]; DGate and DUp are overwritten and may be Gate, Up or DOut.
type GLUGradArgs struct {
	Gate, Up, DOut, DGate, DUp View
	Act                        Activation
}

// CrossEntropyArgs: Loss[t] = −log softmax(Logits[t])[Labels[t]] and Logits[t] becomes its gradient times Scale, in
// place (softmax − one-hot); a label below 0 gives loss 0 and gradient 0. Loss F32 [T, 1]. Softcap c > 0: the logits
// were c·tanh(z/c) of z, and the gradient is that for z.
type CrossEntropyArgs struct {
	Logits  View
	Labels  []int32
	Loss    View
	Scale   float32
	Softcap float32
}

// EmbedGradArgs: DTable[IDs[t]] += Scale · DY[t], in the order of t. DTable [V, H].
type EmbedGradArgs struct {
	IDs        []int32
	DY, DTable View
	Scale      float32
}
