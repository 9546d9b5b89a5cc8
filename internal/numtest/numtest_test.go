package numtest

import (
	"math"
	"testing"
)

func TestMaxAbs(t *testing.T) {
	nan := float32(math.NaN())
	for _, c := range []struct {
		name      string
		got, want []float32
		ok        bool
	}{
		{"equal", []float32{1, 2}, []float32{1, 2}, true},
		{"within", []float32{1.05}, []float32{1}, true},
		{"off", []float32{1.2}, []float32{1}, false},
		{"nan", []float32{nan}, []float32{1}, false},
		{"nan reference", []float32{1}, []float32{nan}, false},
		{"zero reference", []float32{0}, []float32{0}, false},
		{"length", []float32{1}, []float32{1, 2}, false},
	} {
		if err := maxAbs(c.got, c.want, 0.1); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestRelRMS(t *testing.T) {
	if got := RelRMS([]float32{3, 0}, []float32{0, 4}); math.Abs(got-1.25) > 1e-12 {
		t.Errorf("RelRMS = %v, want 1.25", got)
	}
	if got := RelRMS([]float32{float32(math.NaN())}, []float32{1}); !math.IsNaN(got) {
		t.Errorf("RelRMS of NaN = %v", got)
	}
}
