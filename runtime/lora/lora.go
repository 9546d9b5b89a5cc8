// Package lora is LoRA in one batch: adapters on a device, and segments that map consecutive tokens to them (Hu et al.
// 2021, arXiv:2106.09685; segments as in Punica, arXiv:2310.18547). No I/O.
package lora

import (
	"errors"
	"fmt"

	"weft/runtime/device"
)

// Target is a target module: a linear layer of a decoder block that an adapter may change.
type Target uint8

// The linear layers, in the order in which they run.
const (
	QProj Target = iota
	KProj
	VProj
	OProj
	GateProj
	UpProj
	DownProj
	NumTargets
)

// Weights is one adapter on a device, as Load makes it. It is read-only while any batch refers to it; the caller of
// Load frees it afterwards.
type Weights struct {
	Layers     [][NumTargets]device.LoRAMatrices // empty: the layer is unchanged
	Embed      Embedding
	EmbedTable device.Weight // [V, H] that replaces the embedding, or nil
	Head       device.LoRAMatrices
	HeadTable  device.Weight             // [V, H] that replaces the output head, or nil
	Norms      [][NumNorms]device.Buffer // that replace those of a block, nil: unchanged; nil where none is replaced
	FinalNorm  device.Buffer             // that replaces the norm before the head, or nil

	block         device.Buffer // all A and B matrices, gains and biases
	norms         []device.Buffer
	bytes         int64
	notCombinable string // why it cannot be combined with others, "" where it can
}

// Embedding is LoRA on the embedding: M has no A, its input is the rows of Table for the tokens.
type Embedding struct {
	Table device.Weight // [V, Rank], A transposed; nil: none
	M     device.LoRAMatrices
}

// ErrNotCombinable is returned for adapters that cannot be part of a LoRA combination or be scaled by a request.
var ErrNotCombinable = errors.New("adapter cannot be combined or scaled")

// Combinable returns nil if the adapter can be part of a LoRA combination and a segment's scale may differ from 1, else
// ErrNotCombinable. The changes of DoRA and of replaced tables are not sums: such an adapter is used alone.
func (w *Weights) Combinable() error {
	if w.notCombinable != "" {
		return fmt.Errorf("%w: %s; use it alone with scale 1", ErrNotCombinable, w.notCombinable)
	}
	return nil
}

// Bytes returns the adapter's size on the device.
func (w *Weights) Bytes() int64 { return w.bytes }

// Segment applies an adapter to the tokens [Begin, End) of a batch. Segments are sorted by Begin; several with the same
// bounds are a LoRA combination, added in their order.
type Segment struct {
	Begin, End int
	Weights    *Weights // never nil: tokens of the base model belong to no segment
	Scale      float32  // multiplies the adapter's own scale; 1 as it was trained
}

// Use is an adapter in a request: Scale multiplies the adapter's own scale, 1 as it was trained.
type Use struct {
	Weights *Weights
	Scale   float32
}
