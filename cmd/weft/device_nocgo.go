//go:build !cgo

package main

import "weft/runtime/device"

// openDevice opens the ref device: this build has no cgo and so no C kernels.
func openDevice(f *stackFlags) (device.Device, error) {
	if f.Device != "ref" && f.Device != "auto" {
		return nil, usagef("--device %q: this build has no cgo; only ref is there", f.Device)
	}
	return openRef(f)
}

const haveCgo = false

// readBandwidth is 0: this build cannot measure it.
func readBandwidth(int) float64 { return 0 }

func examineDevice() []check {
	return []check{{What: "device", Found: "ref: pure Go, this build has no cgo",
		Advice: "build with a C compiler (make setup) for the cpu device"}}
}
