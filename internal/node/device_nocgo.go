//go:build !cgo

package node

import "weft/runtime/device"

// OpenDevice opens the ref device: this build has no cgo and so no C kernels. The caller closes it.
func OpenDevice(c DeviceConfig) (device.Device, error) {
	if c.Device != "ref" && c.Device != "auto" {
		return nil, refusef("device %q: this build has no cgo and so only ref", c.Device)
	}
	return openRef(c)
}

// HaveCPU says whether this build has the cpu device.
const HaveCPU = false
