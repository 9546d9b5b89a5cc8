package device

import (
	"fmt"

	"weft/internal/bytesize"
	"weft/quant"
)

// TotalInUse returns the bytes allocated on d, for all purposes together.
func TotalInUse(d Device) int64 {
	var n int64
	for p := range NumPurposes {
		n += d.InUse(p)
	}
	return n
}

// Limited is a device with a memory limit for loading a model: an allocation or a matrix that would take the device
// above Bytes is refused with an error that states the sizes. KV caches and the scratch memory of operations are not
// counted before they are allocated. Closing Limited does not close the Device.
type Limited struct {
	Device
	Bytes int64
}

// Alloc is the device's, or ErrOutOfMemory.
func (d Limited) Alloc(p Purpose, bytes int64) (Buffer, error) {
	if err := d.room(p, bytes); err != nil {
		return nil, err
	}
	return d.Device.Alloc(p, bytes)
}

// LoadMatrix is the device's, or ErrOutOfMemory.
func (d Limited) LoadMatrix(p Purpose, m *quant.Matrix) (Weight, error) {
	if err := d.room(p, int64(len(m.Data)+4*len(m.Scales)+4*len(m.Mins))); err != nil {
		return nil, err
	}
	return d.Device.LoadMatrix(p, m)
}

func (d Limited) room(p Purpose, bytes int64) error {
	if in := TotalInUse(d.Device); bytes > d.Bytes-in {
		return fmt.Errorf(
			"memory budget %s: %w: weights and activations take %s so far, the next %s need %s: raise --memory, or "+
				"lower --max-batch-tokens or --max-seqs",
			bytesize.Format(d.Bytes), ErrOutOfMemory, bytesize.Format(in), p, bytesize.Format(bytes))
	}
	return nil
}
