package ref

import (
	"testing"

	"weft/quant"
	"weft/runtime/device"
	"weft/runtime/device/devicetest"
)

func TestDevice(t *testing.T) {
	for name, activations := range map[string]Activations{"float": Float, "int8": Int8} {
		t.Run(name, func(t *testing.T) {
			o := devicetest.Options{
				Unit: 0x1p-53,
				Limited: func(t *testing.T, bytes int64) device.Device {
					return New(Options{Activations: activations, MemoryLimit: bytes})
				},
			}
			if activations == Int8 {
				o.Integer = func(*quant.Matrix) bool { return true }
			}
			devicetest.Run(t, func(t *testing.T) device.Device { return New(Options{Activations: activations}) }, o)
		})
	}
}
