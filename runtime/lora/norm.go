package lora

import (
	"encoding/binary"
	"fmt"
	"math"

	"weft/runtime/device"
)

// Norm is an RMSNorm of a decoder block that an adapter may replace, by transformers' names.
type Norm uint8

// The norms of a block. Without the norms around attention and MLP of Gemma, PostAttentionNorm is the one before the
// MLP.
const (
	InputNorm Norm = iota
	PostAttentionNorm
	PreMLPNorm  // pre_feedforward_layernorm
	PostMLPNorm // post_feedforward_layernorm
	QNorm
	KNorm
	NumNorms
)

// NormWidths returns the weights of each norm in a block of the hidden size and head width, 0 where a block without
// Gemma's sandwich of norms, or without norms of heads, has none.
func NormWidths(hidden, headDim int, sandwich, heads bool) (w [NumNorms]int) {
	w[InputNorm], w[PostAttentionNorm] = hidden, hidden
	if sandwich {
		w[PreMLPNorm], w[PostMLPNorm] = hidden, hidden
	}
	if heads {
		w[QNorm], w[KNorm] = headDim, headDim
	}
	return w
}

// eachNorm calls f with the replaced norms of an adapter in a fixed order.
func (a *Adapter) eachNorm(f func(v []float32)) {
	for l := range a.Norms {
		for _, v := range a.Norms[l] {
			if v != nil {
				f(v)
			}
		}
	}
	if a.FinalNorm != nil {
		f(a.FinalNorm)
	}
}

func (a *Adapter) replacesNorms() bool {
	n := 0
	a.eachNorm(func([]float32) { n++ })
	return n > 0
}

// loadNorms copies the replaced norms to dev, each in a buffer of its own.
func (w *Weights) loadNorms(dev device.Device, a *Adapter) error {
	load := func(v []float32) (device.Buffer, error) {
		if v == nil {
			return nil, nil
		}
		b, err := dev.Alloc(device.Adapters, int64(4*len(v)))
		if err != nil {
			return nil, err
		}
		w.norms = append(w.norms, b)
		w.bytes += b.Bytes()
		data := make([]byte, 0, 4*len(v))
		for _, x := range v {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(x))
		}
		return b, b.Write(0, data)
	}
	if a.Norms != nil {
		w.Norms = make([][NumNorms]device.Buffer, len(a.Norms))
	}
	var err error
	for l := range a.Norms {
		for n, v := range a.Norms[l] {
			if w.Norms[l][n], err = load(v); err != nil {
				return err
			}
		}
	}
	w.FinalNorm, err = load(a.FinalNorm)
	return err
}

func (a *Adapter) checkNorms() error {
	if a.Norms != nil && len(a.Norms) != len(a.Layers) {
		return fmt.Errorf("%w: norms of %d layers, expected %d", ErrAdapter, len(a.Norms), len(a.Layers))
	}
	return nil
}
