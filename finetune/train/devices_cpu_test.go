//go:build cgo

package train

import (
	"testing"

	"weft/runtime/device"
	"weft/runtime/device/cpu"
)

func newDevice(t *testing.T) device.Device { return deviceOf(t, 2) }

func deviceOf(t *testing.T, threads int) device.Device {
	t.Helper()
	d, err := cpu.New(cpu.Options{Threads: threads, Activations: cpu.Float})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// everyDevice are those beside ref.
func everyDevice(t *testing.T) (out []device.Device) {
	t.Helper()
	for _, isa := range cpu.ISAs() {
		d, err := cpu.New(cpu.Options{Threads: 2, ISA: isa, Activations: cpu.Float})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		out = append(out, d)
	}
	return out
}
