//go:build cgo

package main

import (
	"fmt"
	"runtime"
	"strings"

	"weft/runtime/device"
	"weft/runtime/device/cpu"
)

// openDevice opens the device that the flags name; auto is the cpu device.
func openDevice(f *stackFlags) (device.Device, error) {
	switch f.Device {
	case "ref":
		return openRef(f)
	case "cpu", "auto":
	default:
		return nil, usagef("--device %q: one of auto, cpu, ref", f.Device)
	}
	opt := cpu.Options{Threads: numThreads(f), ISA: f.ISA, Profile: f.profile}
	switch f.Activations {
	case "fast":
		opt.Activations = cpu.Fast
	case "float":
		opt.Activations = cpu.Float
	default:
		return nil, usagef("--activations %q: one of fast, float", f.Activations)
	}
	return cpu.New(opt)
}

const haveCgo = true

// readBandwidth measures the bytes a second that the threads can read from memory.
func readBandwidth(threads int) float64 {
	return cpu.MeasureReadBandwidth(threads, 256<<20, bandwidthTime) * 1e9
}

func examineDevice() []check {
	isas := cpu.ISAs()
	dev, err := cpu.New(cpu.Options{Activations: cpu.Fast})
	if err != nil {
		return []check{{What: "device", Found: err.Error(), Advice: "unset WEFT_ISA, or use --device ref"}}
	}
	using := dev.Describe()
	dev.Close()
	isa := check{What: "instructions", Found: strings.Join(isas, ", "), OK: len(isas) > 1}
	if !isa.OK {
		isa.Advice = "only portable kernels run here; expect a tenth of the speed of AVX2"
	}
	threads := runtime.GOMAXPROCS(0)
	return []check{
		{What: "device", Found: "cpu: " + using, OK: true}, isa,
		{What: "huge pages", Found: cpu.HugePages(), OK: cpu.HugePages() != "never"},
		{What: "read bandwidth",
			Found: fmt.Sprintf("%.1f GB/s with 1 thread, %.1f GB/s with %d", readBandwidth(1)/1e9,
				readBandwidth(threads)/1e9, threads), OK: true},
	}
}
