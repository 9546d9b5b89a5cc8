//go:build cgo

package doctor

import (
	"fmt"
	"runtime"
	"strings"

	"weft/internal/limits"
	"weft/internal/node/bench"
	"weft/runtime/device/cpu"
)

func examineDevice(l limits.Limits) []Check {
	isas := cpu.ISAs()
	dev, err := cpu.New(cpu.Options{Activations: cpu.Fast})
	if err != nil {
		return []Check{{What: "device", Found: err.Error(), Advice: "unset WEFT_ISA, or use --device ref"}}
	}
	using := dev.Describe()
	dev.Close()
	isa := Check{What: "instructions", Found: strings.Join(isas, ", "), OK: len(isas) > 1}
	if !isa.OK {
		isa.Advice = "only portable kernels run here; expect a tenth of the speed of AVX2"
	}
	threads := runtime.GOMAXPROCS(0)
	bandwidth := "not measured: too little memory"
	if one := bench.ReadBandwidth(1, l); one > 0 {
		bandwidth = fmt.Sprintf("%.1f GB/s with 1 thread, %.1f GB/s with %d", one/1e9,
			bench.ReadBandwidth(threads, l)/1e9, threads)
	}
	return []Check{
		{What: "device", Found: "cpu: " + using, OK: true}, isa,
		{What: "huge pages", Found: cpu.HugePages(), OK: cpu.HugePages() != "never"},
		{What: "read bandwidth", Found: bandwidth, OK: true},
	}
}
