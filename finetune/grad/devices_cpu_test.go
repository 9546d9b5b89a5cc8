package grad

import (
	"testing"

	"weft/runtime/device"
	"weft/runtime/device/cpu"
)

func init() {
	for _, isa := range cpu.ISAs() {
		extraDevices["cpu-"+isa] = func(t testing.TB) device.Device {
			d, err := cpu.New(cpu.Options{Threads: 2, ISA: isa, Activations: cpu.Float})
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
	}
}
