// Package lora says what LoRA means in one batch: adapters on a device, and segments that map runs of tokens to them
// (Hu et al. 2021, arXiv:2106.09685; segments as in Punica, arXiv:2310.18547). No I/O.
package lora

import (
	"errors"
	"fmt"

	"weft/runtime/device"
)

// Target names a linear layer of a decoder block that an adapter may change.
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

// Weights is one adapter on a device, as Load makes it. It is read-only while any batch refers to it; whoever loaded it
// frees it afterwards.
type Weights struct {
	Layers     [][NumTargets]device.LoRAMatrices // empty ones are untouched
	Embed      Embedding
	EmbedTable device.Weight // [V, H] that replaces the embedding, or nil
	Head       device.LoRAMatrices
	HeadTable  device.Weight // [V, H] that replaces the output head, or nil

	block   device.Buffer // all factors, gains and biases
	bytes   int64
	unmixed string // why it cannot be part of a combination of adapters, "" where it can
}

// Embedding is LoRA on the embedding: M has no A, its input are the rows of Table that belong to the tokens.
type Embedding struct {
	Table device.Weight // [V, Rank], A transposed; nil: none
	M     device.LoRAMatrices
}

// ErrNotCombinable is returned for adapters that cannot be added to others or scaled by a request.
var ErrNotCombinable = errors.New("adapter cannot be mixed or scaled")

// Combinable says, as nil, that several segments may cover tokens together with this adapter and that a segment's scale
// may differ from 1. DoRA and replaced tables are not sums: they can be used alone only.
func (w *Weights) Combinable() error {
	if w.unmixed != "" {
		return fmt.Errorf("%w: %s; use it alone with scale 1", ErrNotCombinable, w.unmixed)
	}
	return nil
}

// Bytes returns what the adapter takes on the device.
func (w *Weights) Bytes() int64 { return w.bytes }

// Segment applies an adapter to the tokens [Begin, End) of a batch. Segments are sorted by Begin; several with the same
// bounds are a combination of adapters, added in their order.
type Segment struct {
	Begin, End int
	Weights    *Weights // never nil: tokens of the base model are in no segment
	Scale      float32  // factor on the adapter's own scale; 1 where it is used as it was trained
}

// Use is an adapter as a request wants it: Scale is a factor on the adapter's own scale, 1 where it is used as it was
// trained.
type Use struct {
	Weights *Weights
	Scale   float32
}
