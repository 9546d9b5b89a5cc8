//go:build !cgo

package train

import (
	"testing"

	"weft/runtime/device"
	"weft/runtime/device/ref"
)

func newDevice(t *testing.T) device.Device { return deviceOf(t, 1) }

func deviceOf(t *testing.T, _ int) device.Device {
	d := ref.New(ref.Options{Activations: ref.Float})
	t.Cleanup(func() { d.Close() })
	return d
}

func everyDevice(*testing.T) []device.Device { return nil }
