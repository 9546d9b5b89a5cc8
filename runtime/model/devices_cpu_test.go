package model

import (
	"testing"

	"weft/runtime/device"
	"weft/runtime/device/cpu"
)

// Without cgo the list is empty.
func init() {
	for _, isa := range cpu.ISAs() {
		extraDevices["cpu-"+isa] = func(t testing.TB) device.Device { return newCPU(t, isa, 2, cpu.Float) }
	}
}

// newCPU returns a cpu device that is closed, and checked for leaks, with its test. isa "" is the best, or WEFT_ISA.
func newCPU(t testing.TB, isa string, threads int, activations cpu.Activations) device.Device {
	t.Helper()
	d, err := cpu.New(cpu.Options{Threads: threads, ISA: isa, Activations: activations})
	if err != nil {
		t.Skip(err)
	}
	return closing(t, d)
}
