package model

import (
	"weft/runtime/device"
	"weft/runtime/lora"
)

// Batch is one step's work: ragged, without padding. Sequence s owns the tokens [Indptr[s], Indptr[s+1]).
type Batch struct {
	IDs       []int32 // [T]
	Positions []int32 // [T], consecutive within a sequence
	Indptr    []int32 // [S+1]
	// Lens [S] is the number of known tokens of each sequence (prompt and output so far, beyond this chunk too). It
	// picks the RoPE table where a model has two (Phi-3's longrope), so that it does not depend on chunking.
	Lens       []int32
	PageTables [][]int32 // [S], pages that hold positions [0, last of this chunk]
	// LoRA are the segments of tokens with adapters, ascending. Several segments in a row with the same bounds are a
	// LoRA combination, whose changes are added in this order; all of them must be lora.Weights.Combinable, as must an
	// adapter with a scale other than 1. Every adapter fits the model (CheckAdapter).
	LoRA []lora.Segment
}

// Tokens returns T.
func (b *Batch) Tokens() int { return len(b.IDs) }

// Model is a loaded decoder. It is used by one goroutine at a time.
type Model interface {
	Config() *Config
	// KVConfig returns the cache that the model needs; the caller sets PageLen, NumPages and DType.
	KVConfig() device.KVConfig
	// RopeSwitch returns the sequence length above which every position must be recomputed with another RoPE table, or
	// 0.
	RopeSwitch() int
	// Forward computes the final hidden states of b (kept on the device until the next Forward) and writes K and V to
	// cache.
	Forward(b *Batch, cache device.KVCache) error
	// Logits returns the logits of the given tokens (indices into the last batch) as [len(rows), V], F32, valid until
	// the next call. At most MaxLogitRows rows.
	Logits(rows []int32) ([]float32, error)
	MaxBatchTokens() int
	MaxLogitRows() int
	// Bytes returns the resident bytes of the weights by layout, as quant.Layout prints it ("int4", "f32", …).
	Bytes() map[string]int64
	// GatheredBytes is the part of Bytes in tables of which a step reads only the rows of its tokens: the embedding,
	// unless it is the head too.
	GatheredBytes() int64
	// Frozen returns the weights for a trainer, which only reads them.
	Frozen() *Frozen
	Close() error
}
