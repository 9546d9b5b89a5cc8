package model

import (
	"testing"

	"weft/runtime/device"
	"weft/runtime/device/ref"
)

// extraDevices are those of builds with cgo.
var extraDevices = map[string]func(testing.TB) device.Device{}

// floatDevices returns constructors of every device with float activations; each closes, and checks for leaks, with its
// test.
func floatDevices(testing.TB) map[string]func(testing.TB) device.Device {
	out := map[string]func(testing.TB) device.Device{"ref": func(t testing.TB) device.Device {
		return closing(t, ref.New(ref.Options{Activations: ref.Float}))
	}}
	for name, f := range extraDevices {
		out[name] = f
	}
	return out
}

func closing(t testing.TB, d device.Device) device.Device {
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}
