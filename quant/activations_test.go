package quant

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestQuantizeActs(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{0, 1, 31, 32, 33, 100} {
		x, q, s := make([]float32, n), make([]int8, n), make([]float32, (n+31)/32)
		for i := range x {
			x[i] = float32(r.NormFloat64() * math.Exp(20*r.Float64()-10))
		}
		QuantizeActs(x, q, s)
		for i := range x {
			if e := math.Abs(float64(s[i/32])*float64(q[i]) - float64(x[i])); !(e <= float64(s[i/32])*0.50001) {
				t.Fatalf("n %d: [%d] = %v has the code %v * %d, off by %v", n, i, x[i], s[i/32], q[i], e)
			}
		}
	}
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	for _, c := range []struct {
		name  string
		x     []float32
		q     []int8
		scale float32
	}{
		{"largest is 127", []float32{-254, 1, 3, 5}, []int8{-127, 0, 2, 2}, 2}, // 0.5, 1.5 and 2.5 go to even
		{"zero", []float32{0, 0}, []int8{0, 0}, 0},
		{"subnormal", []float32{0x1p-127, 0}, []int8{0, 0}, 0},
		{"too small", []float32{0x1.fffffep-122, 0}, []int8{0, 0}, 0},
		{"smallest", []float32{0x1p-121, -0x1p-122, 0}, []int8{127, -64, 0}, float32(0x1p-121) / 127},
		{"largest", []float32{math.MaxFloat32, 1}, []int8{127, 0}, math.MaxFloat32 / 127},
		{"nan", []float32{1, nan}, []int8{0, 0}, nan},
		{"infinity", []float32{1, inf}, []int8{0, 0}, nan},
	} {
		q, s := []int8{9, 9, 9, 9}[:len(c.x)], []float32{9}
		QuantizeActs(c.x, q, s)
		for i := range q {
			if q[i] != c.q[i] {
				t.Errorf("%s: codes %v, want %v", c.name, q, c.q)
				break
			}
		}
		if s[0] != c.scale && (s[0] == s[0] || c.scale == c.scale) {
			t.Errorf("%s: scale %v, want %v", c.name, s[0], c.scale)
		}
	}
}

func BenchmarkQuantizeActs(b *testing.B) {
	x, q, s := make([]float32, 576), make([]int8, 576), make([]float32, 18)
	for i := range x {
		x[i] = float32(i%17) - 8
	}
	b.SetBytes(4 * 576)
	for b.Loop() {
		QuantizeActs(x, q, s)
	}
}
