package main

import (
	"weft/runtime/device"
	"weft/runtime/device/ref"
)

func openRef(f *stackFlags) (device.Device, error) {
	switch f.Activations {
	case "fast":
		return ref.New(ref.Options{Activations: ref.Int8}), nil
	case "float":
		return ref.New(ref.Options{Activations: ref.Float}), nil
	}
	return nil, usagef("--activations %q: one of fast, float", f.Activations)
}
