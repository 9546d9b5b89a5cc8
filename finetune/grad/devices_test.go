package grad

import (
	"strconv"
	"testing"

	"weft/runtime/device"
	"weft/runtime/device/ref"
)

// extraDevices are those of builds with cgo.
var extraDevices = map[string]func(testing.TB) device.Device{}

func forDevices(t *testing.T, name string, f func(t *testing.T, dev device.Device)) {
	devices := map[string]func(testing.TB) device.Device{
		"ref": func(testing.TB) device.Device { return ref.New(ref.Options{Activations: ref.Float}) },
	}
	for n, d := range extraDevices {
		devices[n] = d
	}
	for n, open := range devices {
		t.Run(name+"/"+n, func(t *testing.T) {
			dev := open(t)
			t.Cleanup(func() {
				if err := dev.Close(); err != nil {
					t.Error(err)
				}
			})
			f(t, dev)
		})
	}
}

func itoa(n int) string { return strconv.Itoa(n) }
