//go:build cgo

package node

import (
	"weft/runtime/device"
	"weft/runtime/device/cpu"
)

// OpenDevice opens the device that the settings name; auto is the cpu device. The caller closes it.
func OpenDevice(c DeviceConfig) (device.Device, error) {
	switch c.Device {
	case "ref":
		return openRef(c)
	case "cpu", "auto":
	default:
		return nil, refusef("device %q: one of auto, cpu, ref", c.Device)
	}
	opt := cpu.Options{Threads: c.NumThreads(), ISA: c.ISA, Profile: c.Profile}
	switch c.Activations {
	case "fast":
		opt.Activations = cpu.Fast
	case "float":
		opt.Activations = cpu.Float
	default:
		return nil, refusef("activations %q: one of fast, float", c.Activations)
	}
	return cpu.New(opt)
}

// HaveCPU says whether this build has the cpu device.
const HaveCPU = true
