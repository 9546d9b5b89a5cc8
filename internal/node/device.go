package node

import (
	"weft/runtime/device"
	"weft/runtime/device/ref"
)

// DeviceConfig says on which device a model runs.
type DeviceConfig struct {
	Device string // cpu, ref or auto
	// ISA is the instruction set of the cpu device: scalar, avx2, avx512; "": what WEFT_ISA names, else the best.
	ISA         string
	Threads     int    // of the cpu device; 0: see NumThreads
	Activations string // fast: int8 or bf16 beside such weights; float: everything in float32
	Profile     bool   // the cpu device measures each operation
}

func openRef(c DeviceConfig) (device.Device, error) {
	switch c.Activations {
	case "fast":
		return ref.New(ref.Options{Activations: ref.Int8}), nil
	case "float":
		return ref.New(ref.Options{Activations: ref.Float}), nil
	}
	return nil, refusef("activations %q: one of fast, float", c.Activations)
}
