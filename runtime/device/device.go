// Package device is the contract between the models and the machines they run on: about a dozen batched operations with
// one argument struct each, buffers, weights and KV caches.
//
// # Order and completion
//
// Operations are recorded in the order in which they are called and behave as if executed in that order. A device may
// run them late: their results are visible to Buffer.Read and Buffer.Host only after Sync. Slices inside argument
// structs (ids, positions, page tables) are copied by the call; Buffers and Weights must live until Sync. An argument
// error (ErrShape) is returned by the call itself and records nothing. A Device is used by one goroutine at a time,
// except for Alloc, LoadMatrix, Free and InUse, which any goroutine may call.
//
// # Arithmetic
//
// Activations are F32 views on ref and cpu. Each output element is a sum taken in an order that depends only on the
// element's own row, never on the number of rows, the threads, the page length or the other sequences in the batch: so
// the results for a token are bitwise the same however it is batched, chunked or cached.
package device

import (
	"errors"

	"weft/quant"
	"weft/runtime/tensor"
)

// Errors of every device. They are wrapped with the operation and its sizes; test with errors.Is.
var (
	ErrShape       = errors.New("shapes do not fit")
	ErrOutOfMemory = errors.New("out of device memory")
	ErrUnsupported = errors.New("not supported by this device")
	ErrClosed      = errors.New("device is closed")
)

// Purpose is what memory is used for; each device counts bytes per purpose.
type Purpose uint8

// Purposes of memory, in the order of the gauges.
const (
	Weights Purpose = iota
	KV
	Activations
	Adapters
	Scratch
	NumPurposes
)

// String returns the label value used in metrics.
func (p Purpose) String() string {
	return [...]string{"weights", "kv", "activations", "adapters", "scratch", "invalid"}[min(p, NumPurposes)]
}

// Buffer is device memory, 64-byte aligned and zeroed when allocated. The owner frees it once.
type Buffer interface {
	Bytes() int64
	// Write copies p to the buffer at byte offset off; Read copies from it. Both wait for recorded operations.
	Write(off int64, p []byte) error
	Read(off int64, p []byte) error
	// Host returns the memory itself where the host can address it, else nil. Valid until Free.
	Host() []byte
	Free()
}

// Weight is a matrix [Rows=Out, Cols=In] in the device's own packing of a layout.
type Weight interface {
	Rows() int
	Cols() int
	Layout() quant.Layout
	Bytes() int64
	Free()
}

// View is a matrix of elements inside a Buffer: element (r, c) lies at Offset + r*Stride + c, in elements. A zero View
// (Buf nil) means "absent" where an argument is optional.
type View struct {
	Buf        Buffer
	Offset     int64
	Rows, Cols int
	Stride     int
	DType      tensor.DType // F32 on ref and cpu
}

// KVConfig describes a paged KV cache. Page 0..NumPages-1 of every layer holds PageLen consecutive positions.
type KVConfig struct {
	Layers, KVHeads, HeadDim int
	PageLen                  int // a multiple of 16
	NumPages                 int
	DType                    tensor.DType // F16, BF16 or F32
}

// PageBytes returns the bytes of one page over all layers, K and V together.
func (c KVConfig) PageBytes() int64 {
	return 2 * int64(c.Layers) * int64(c.KVHeads) * int64(c.HeadDim) * int64(c.PageLen) * int64(c.DType.Size())
}

// KVCache is the storage of keys and values; runtime/kv decides which sequence a page belongs to.
type KVCache interface {
	Config() KVConfig
	Bytes() int64
	Free()
}

// EmbedArgs: Out[t] = Scale * row IDs[t] of Table, dequantized. Out [T, H]. Ids must lie in [0, Table.Rows()).
type EmbedArgs struct {
	IDs   []int32
	Table Weight
	Scale float32 // 1 for most; sqrt(H) for Gemma
	Out   View
}

// RMSNormArgs: y = x / sqrt(mean(x^2) + Eps) * Weight for every part of every row (Zhang & Sennrich 2019,
// arXiv:1910.07467).
//
//	X      [T, Parts*D]  D = len(Weight)/4; each row is Parts runs of D, normalized separately (q/k norm); Parts 0: 1
//	Add    optional [T, Parts*D]: X[t] += Add[t] first, and X keeps the sum (the residual stream)
//	Rows   optional: Out row i is computed from X row Rows[i]; Out then has len(Rows) rows. Not together with Add.
//	Out    may be X itself when Rows is nil
type RMSNormArgs struct {
	X, Add, Out View
	Weight      Buffer // F32 [D]; for Gemma the loader has added 1
	Parts       int
	Eps         float32
	Rows        []int32
}

// Precision is the precision in which the products of a matrix are computed; sums are float32 or better.
type Precision uint8

// Precisions.
const (
	Own     Precision = iota // as the device was opened; gradients as Float32
	Float32                  // both operands as float32
	BF16                     // both rounded to bfloat16 where the device multiplies that, else Float32
)

// LinearPart is one product of a LinearArgs.
type LinearPart struct {
	W    Weight // [N, In]
	Bias Buffer // F32 [N] or nil
	Out  View   // [T, N]; must not alias X
}

// LinearArgs: Out = X * Wᵀ + Bias for each part; the parts share X [T, In], which is quantized once where the device
// computes in integers.
type LinearArgs struct {
	X         View
	Parts     []LinearPart
	Precision Precision
}

// RoPEArgs rotates Q and K in place in the rotate-half convention (Su et al. 2021, arXiv:2104.09864; first half with
// second half of the rotated part, the rest of the head untouched) and writes K and V to the cache.
//
//	Q [T, Hq*D]  K, V [T, Hkv*D]
//	Table  F32 [rows, 2*(Rot/2)]: cos then sin of each rotated pair
//	TableRows [T]: the row of Table for each token; -1: no rotation
//	Slots [T]: page*PageLen + offset in the cache of Layer
type RoPEArgs struct {
	Q, K, V   View
	HeadDim   int
	Rot       int // rotated width of a head, even, <= HeadDim; 0: only write K and V
	Table     Buffer
	TableRows []int32
	Cache     KVCache
	Layer     int
	Slots     []int32
}

// AttentionArgs: causal attention of ragged sequences over their pages, grouped-query (query head h reads KV head
// h/(Hq/Hkv)).
//
//	Q, Out [T, Hq*D]
//	Indptr [S+1]: sequence s owns the rows [Indptr[s], Indptr[s+1]); it may be empty
//	Positions [T]: row t sees the keys of positions [0, Positions[t]] of its own sequence (consecutive in it)
//	PageTables [S]: the pages that hold positions [0, last] of the sequence, in order
//	Window > 0: position j is visible to i only if i-j < Window; Softcap > 0: c*tanh(s/c) on scaled scores (Gemma 2)
type AttentionArgs struct {
	Q, Out     View
	HeadDim    int
	Cache      KVCache
	Layer      int
	Indptr     []int32
	Positions  []int32
	PageTables [][]int32
	Scale      float32
	Softcap    float32
	Window     int
}

// Activation of a gated feed-forward.
type Activation uint8

// Activations.
const (
	SiLU     Activation = iota // x*sigmoid(x): SwiGLU (Shazeer 2020, arXiv:2002.05202)
	GELUTanh                   // the tanh approximation: GeGLU of Gemma
	GELUErf                    // exact
)

// GLUArgs: Out = act(Gate) * Up, all [T, F]; Out may be Gate or Up.
type GLUArgs struct {
	Gate, Up, Out View
	Act           Activation
}

// AddArgs: X += Y, both [T, N].
type AddArgs struct{ X, Y View }

// SoftcapArgs: X = Cap*tanh(X/Cap) in place (Gemma 2's final logits).
type SoftcapArgs struct {
	X   View
	Cap float32
}

// LogSoftmaxArgs: Out[t] = log softmax(X[t]); Out may be X.
type LogSoftmaxArgs struct{ X, Out View }

// Device runs batched operations. Implementations: device/ref (pure Go, the reference), device/cpu (C kernels).
type Device interface {
	// Name is "ref", "cpu", …; Describe adds what is in use (ISA, threads, activation precision) for logs and doctor.
	Name() string
	Describe() string

	// Alloc returns zeroed memory or ErrOutOfMemory.
	Alloc(p Purpose, bytes int64) (Buffer, error)
	// LoadMatrix packs m; it keeps no reference to m.Data after it returns, whatever the layout.
	LoadMatrix(p Purpose, m *quant.Matrix) (Weight, error)
	NewKVCache(c KVConfig) (KVCache, error)
	// CopyPages copies whole pages of all layers, src[i] to dst[i]; used for copy on write.
	CopyPages(c KVCache, dst, src []int32) error
	// InUse returns the bytes now allocated for a purpose.
	InUse(p Purpose) int64

	Embed(EmbedArgs) error
	RMSNorm(RMSNormArgs) error
	Linear(LinearArgs) error
	LoRA(LoRAArgs) error
	RoPE(RoPEArgs) error
	Attention(AttentionArgs) error
	GLU(GLUArgs) error
	Add(AddArgs) error
	Softcap(SoftcapArgs) error
	LogSoftmax(LogSoftmaxArgs) error

	// Sync runs the recorded operations and returns their first error.
	Sync() error
	// Close frees the device; buffers still alive are an error that lists bytes per purpose.
	Close() error
}

// PageReleaser is a device that can return memory of a KV cache to the system while the cache is in use.
type PageReleaser interface {
	// ReleasePages returns the memory of the pages [begin, end) of c to the system, as whole system pages. The content
	// of the pages is lost; they may be used again at any time. No recorded operation may refer to them; operations on
	// other pages may run meanwhile.
	ReleasePages(c KVCache, begin, end int) error
}
