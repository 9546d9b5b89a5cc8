package main

import (
	"fmt"

	"weft/quant"
	"weft/runtime/device"
)

// budgeted is the device as a model loads onto it: what would exceed the memory budget is refused with the numbers, at
// the first matrix too many.
type budgeted struct {
	device.Device
	limit int64
}

func (d budgeted) Alloc(p device.Purpose, bytes int64) (device.Buffer, error) {
	if err := d.room(p, bytes); err != nil {
		return nil, err
	}
	return d.Device.Alloc(p, bytes)
}

func (d budgeted) LoadMatrix(p device.Purpose, m *quant.Matrix) (device.Weight, error) {
	if err := d.room(p, int64(len(m.Data)+4*len(m.Scales)+4*len(m.Mins))); err != nil {
		return nil, err
	}
	return d.Device.LoadMatrix(p, m)
}

func (d budgeted) room(p device.Purpose, bytes int64) error {
	if in := used(d.Device); bytes > d.limit-in {
		return fmt.Errorf(
			"memory budget %s: %w: weights and activations take %s so far, the next %s need %s: raise --memory, or "+
				"lower --max-batch-tokens or --max-seqs",
			formatBytes(d.limit), device.ErrOutOfMemory, formatBytes(in), p, formatBytes(bytes))
	}
	return nil
}
