//go:build cgo

package cpu

import (
	"fmt"
	"testing"

	"weft/quant"
	"weft/runtime/device"
	"weft/runtime/device/devicetest"
)

// The suite that every device passes, for each instruction set, number of threads and precision of activations.
func TestDevice(t *testing.T) {
	for _, isa := range ISAs() {
		for _, threads := range []int{1, 2, 3} {
			for _, activations := range []Activations{Float, Fast} {
				if testing.Short() && threads != 2 {
					continue
				}
				t.Run(fmt.Sprintf("%s/threads=%d/%v", isa, threads, activations), func(t *testing.T) {
					o := Options{ISA: isa, Threads: threads, Activations: activations}
					suite := devicetest.Options{
						Limited: func(t *testing.T, bytes int64) device.Device {
							limited := o
							limited.MemoryLimit = bytes
							return start(t, limited)
						},
					}
					if activations == Fast {
						suite.Integer = Integer
						suite.BF16Dots = isa == "avx512"
					}
					devicetest.Run(t, func(t *testing.T) device.Device { return start(t, o) }, suite)
				})
			}
		}
	}
}

func start(t *testing.T, o Options) device.Device {
	t.Helper()
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What Integer promises is what loading decides.
func TestInteger(t *testing.T) {
	d := open(t, Options{Threads: 1})
	for _, s := range shapes {
		m := &quant.Matrix{Layout: s.layout, Rows: 1, Cols: 96, GroupLen: s.group, Data: make([]byte, 96*4)}
		if s.layout >= quant.Int8 {
			if s.group == 0 {
				m.GroupLen = 96
			}
			m.Data, m.Scales = m.Data[:96], make([]float32, m.Groups())
		} else if s.layout != quant.F32 {
			m.Data = m.Data[:192]
		}
		if s.layout == quant.Lookup4 {
			m.Codes = new([16]float32)
		}
		if got := load(t, d, m).(*matrix).w.integer != 0; got != Integer(m) {
			t.Errorf("%v: loaded for integer products %v, Integer says %v", s, got, Integer(m))
		}
	}
}
