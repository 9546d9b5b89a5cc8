// Package cpu is the device with C kernels, chosen at run time by instruction set and run by a pool of threads. Kernels
// (folder kernels) whose source is the same for every instruction set are written once over 16 lanes (NAME_body.h) and
// compiled by bodies_ISA.c over the vectors of vec_ISA.h. The integer kernels of Linear (linear_ISA.c), the
// measurements of peak throughput (peak_ISA.c) and the bf16 products of AVX-512 (product_avx512_amd64.c) are written
// for one instruction set each and have files of their own. table.c collects them.
//
// # Recording
//
// A Device method checks its arguments and appends a record to memory that C can read; no call crosses into C until
// Sync, which runs the whole list in one call. An operation is one or more phases of independent chunks: outputs,
// heads, rows, or key blocks at fixed positions, never other parts of a sum, so that results do not depend on which
// thread computes what. In the steady state recording and running allocate nothing.
//
// # Packed weights
//
// A matrix [N, K] is packed once into panels of 16 output rows, the inner loop running along the outputs:
//
//	F32, F16   [N/16][K][16]
//	BF16       [N/16][ceil(K/2)][16][2]
//	Int8       [N/16][K/32] of [8][16][4] codes; plus 128 for kernels that multiply unsigned by signed (avx512)
//	Int4       [N/16][K/32] of 256 bytes: byte [j][row][i] has the codes of columns 4j+i (low), 16+4j+i (high), j < 4
//	Lookup4    as Int4, the codes being indices
//
// 16 scales (and 16 mins) of a group, binary16 where ScalesF16 allows, lie beside the 32 columns that they belong to
// when groups have 16 or 32 columns, else behind the panel's codes. Rows are padded to 16 and columns to 32 with values
// that contribute nothing.
//
// LoRA A and B matrices stay in the layout of device.LoRAMatrices and in the data type of their file.
//
// # Arithmetic
//
// With Float activations acc = fma(x[k], w[k], acc) for ascending k, one chain per output, w widened or dequantized to
// float32 as quant.Matrix says. With Fast, Int8 and Int4 matrices whose groups are a multiple of 32 columns, 16, or the
// whole row, multiply the codes of quant.QuantizeActs: for each 32 columns, in ascending order, the exact integer sum
// (minus Zero times the sum of q) enters as acc = fma(sum, scale*ascale, acc), then, where there are mins, acc =
// fma(min, ascale*sum(q), acc); groups of 16 do so for each half. Other layouts and group lengths take the float path.
// LoRA: a product with A is 16 sums of fma over the columns (lane = column % 16) and a fixed tree, one with B a chain
// of fma over the rank. All of this gives the same bits on every instruction set, whatever else is in the batch. The
// exception: with Fast on avx512, BF16 matrices use the bf16 dot products of the processor (activations rounded to
// bf16, pairs of products, subnormals flushed), still the same whatever else is in the batch.
//
// # Training
//
// MatMul, LinearGrad, and Linear in precision BF16 are blocked products (product_body.h): a chunk packs DEPTH columns
// of its rows into tiles and, pair by pair, the panels: of a matrix, or of a weight that is dequantized and, for the
// gradient, transposed 16 by 16. Each sum is one chain in ascending order, whatever the blocks. Where the instruction
// set multiplies bf16 (avx512), precision BF16 rounds both operands and adds pairs of products; else it is Float32.
// Everything else is float32, the same bits on every instruction set and for any number of threads. Attention
// (samples_body.h) recomputes blocks of 64 rows in the gradient: once with queries owning the block, for their
// gradient, and once with keys, for the gradients of keys and values; so no sum is shared between threads, at seven
// products instead of five.
package cpu

import "weft/quant"

// Activations is the precision of activations in matrix products.
type Activations uint8

// Activation precisions.
const (
	Float Activations = iota // float32
	// int8 groups for Int8 and Int4 weights, bf16 for BF16 weights where the processor multiplies it
	Fast
)

// String returns the value of the --activations flag.
func (a Activations) String() string {
	if a == Fast {
		return "fast"
	}
	return "float"
}

// Options of New. The zero value takes all usable processors, the best instruction set and float activations, and no
// memory limit.
type Options struct {
	Threads     int         // 0: as many as the process may use
	ISA         string      // "scalar", "avx2", "avx512"; "": $WEFT_ISA, else the best one of the processor
	Activations Activations //
	MemoryLimit int64       // bytes over all purposes; 0: none
	Profile     bool        // measure each operation; see Profiler
}

// Profiler is a device opened with Options.Profile.
type Profiler interface {
	// TakeProfile returns the costs of operations since the last call, the most expensive first. It must not run
	// concurrently with operations.
	TakeProfile() []OpCost
}

// OpCost is the total cost of the operations of one kind and shape.
type OpCost struct {
	Op       string // "linear int8", "attention", …
	Rows     int    // tokens
	In, Out  int    // columns of x, and of all parts of a linear together
	Calls    int
	Nanos    int64
	Bytes    int64   // read and written, each byte once a call
	Ops      float64 // multiplications and additions
	Integers bool    // Ops are integer products
	Halves   bool    // Ops are bf16 products
}

// Integer reports whether Linear, with Fast activations, multiplies m with activations quantized by quant.QuantizeActs:
// Int8 and Int4 with groups of 16 columns, of a multiple of 32, or of the whole row.
func Integer(m *quant.Matrix) bool {
	return (m.Layout == quant.Int8 || m.Layout == quant.Int4) &&
		(m.GroupLen%quant.ActGroup == 0 || m.GroupLen == 16 || m.GroupLen >= m.Cols)
}
