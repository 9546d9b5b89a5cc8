package model

import (
	"fmt"

	"weft/runtime/device"
	"weft/runtime/lora"
)

// Frozen is the part of a loaded model that a trainer uses: the weights that are served, in their layouts. They are
// read-only and valid until the model is closed.
type Frozen struct {
	Config      *Config
	Embed, Head device.Weight // one weight if the model is tied
	Norm        device.Buffer
	Blocks      []Block
}

// Block is one decoder block; absent norms and biases are nil.
type Block struct {
	AttnNorm, MLPNorm, PostAttn, PostMLP, QNorm, KNorm device.Buffer
	Linear                                             [lora.NumTargets]device.Weight
	Bias                                               [lora.NumTargets]device.Buffer
}

// Frozen implements Model.
func (d *decoder) Frozen() *Frozen {
	f := &Frozen{Config: d.cfg, Embed: d.embed, Head: d.head, Norm: d.finalNorm, Blocks: make([]Block, len(d.layers))}
	for i := range d.layers {
		y := &d.layers[i]
		f.Blocks[i] = Block{
			AttnNorm: y.attnNorm, MLPNorm: y.mlpNorm, PostAttn: y.postAttn, PostMLP: y.postMLP, QNorm: y.qNorm,
			KNorm:  y.kNorm,
			Linear: [lora.NumTargets]device.Weight{y.q, y.k, y.v, y.o, y.gate, y.up, y.down},
			Bias: [lora.NumTargets]device.Buffer{y.qBias, y.kBias, y.vBias, y.oBias, y.gateBias, y.upBias,
				y.downBias},
		}
	}
	return f
}

// RopeTables are the cosines and sines of every kind of a configuration's RoPE for samples of up to Length tokens.
type RopeTables struct {
	Length int
	cfg    *Config
	tables []ropeTable
}

// NewRopeTables fills tables on dev.
func NewRopeTables(dev device.Device, c *Config, length int) (*RopeTables, error) {
	t := &RopeTables{Length: length, cfg: c, tables: make([]ropeTable, len(c.Ropes))}
	for i := range c.Ropes {
		table := &t.tables[i]
		if err := table.allocate(dev, &c.Ropes[i], length); err != nil {
			t.Free()
			return nil, fmt.Errorf("RoPE tables of %d positions: %w", length, err)
		}
		for v := range table.variants() {
			if err := table.grow(v, length-1, length); err != nil {
				t.Free()
				return nil, err
			}
		}
	}
	return t, nil
}

// Table returns the table of a kind: rows of cosines, then sines.
func (t *RopeTables) Table(kind int) device.Buffer { return t.tables[kind].buf }

// First returns the table row of position 0 in a sample of the given length, at most Length; its other positions
// follow.
func (t *RopeTables) First(kind, length int) int32 {
	if r := &t.cfg.Ropes[kind]; r.Long != nil && length > r.Original {
		return int32(t.Length)
	}
	return 0
}

// Free releases the tables' memory.
func (t *RopeTables) Free() {
	for i := range t.tables {
		if b := t.tables[i].buf; b != nil {
			b.Free()
		}
	}
}
