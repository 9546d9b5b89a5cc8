// Package lora says what LoRA means in one batch: slots that hold an adapter's matrices on a device, and segments
// that map runs of tokens to slots (Hu et al. 2021, arXiv:2106.09685; segments as in Punica, arXiv:2310.18547). No I/O.
package lora

import "weft/runtime/device"

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

// Weights is one adapter on a device: Layers[l][target]; a Rank of 0 means untouched. It is read-only while any batch refers to it.
type Weights struct {
	Layers [][NumTargets]device.LoRAMatrices
}

// Segment applies an adapter to the tokens [Begin, End) of a batch. Segments are sorted by Begin; several with the same bounds are a mix, added in their order.
type Segment struct {
	Begin, End int
	Weights    *Weights // never nil: tokens of the base model are in no segment
	Scale      float32  // factor on the adapter's own scale; 1 where it is used as it was trained
}

// Use is an adapter as a request wants it: Scale is a factor on the adapter's own scale, 1 where it is used as it was trained.
type Use struct {
	Weights *Weights
	Scale   float32
}
