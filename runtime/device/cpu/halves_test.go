//go:build cgo

package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"weft/internal/numtest"
	"weft/quant"
	"weft/runtime/device"
)

// With precision BF16 both operands are rounded to bfloat16 where the instruction set multiplies that, else neither is.
// Precision Float32 overrides Fast activations.
func TestPrecision(t *testing.T) {
	round := func(x []float32) []float32 {
		out := make([]float32, len(x))
		for i, v := range x {
			out[i] = quant.BF16ToF32(quant.F32ToBF16(v))
		}
		return out
	}
	eachISA(t, func(t *testing.T, isa string) {
		for _, s := range shapes {
			for _, size := range [][3]int{{1, 1, 1}, {5, 17, 33}, {13, 50, 257}, {30, 33, 64}} {
				rows, n, k := size[0], size[1], size[2]
				r := rand.New(rand.NewPCG(6, uint64(k)))
				m, x, bias := matrixOf(r, s.layout, n, k, s.group, s.mins, s.half), random(r, rows*k), random(r, n)
				var first [2][]float32
				for _, threads := range []int{1, 3} {
					d := open(t, Options{ISA: isa, Threads: threads, Activations: Fast})
					w := load(t, d, m)
					for _, p := range []device.Precision{device.Float32, device.BF16} {
						plain, xs := &quant.Matrix{Layout: quant.F32, Rows: n, Cols: k}, x
						values := make([]float32, n*k)
						for i := range n {
							m.Row(i, values[i*k:])
						}
						if p == device.BF16 && isa == "avx512" {
							values, xs = round(values), round(x)
						}
						plain.Data = bytesOf(values)
						xb, out := upload(t, d, x), upload(t, d, make([]float32, rows*n))
						a := device.LinearArgs{X: view(xb, rows, k),
							Parts:     []device.LinearPart{{W: w, Bias: upload(t, d, bias), Out: view(out, rows, n)}},
							Precision: p}
						if err := d.Linear(a); err != nil {
							t.Fatal(err)
						}
						dy := random(rand.New(rand.NewPCG(7, 7)), rows*n)
						dx := upload(t, d, make([]float32, rows*k))
						g := device.LinearGradArgs{Parts: []device.LinearGradPart{{W: w,
							DY: view(upload(t, d, dy), rows, n)}}, DX: view(dx, rows, k), Precision: p}
						if err := d.LinearGrad(g); err != nil {
							t.Fatal(err)
						}
						product := upload(t, d, make([]float32, rows*n))
						mm := device.MatMulArgs{A: view(xb, rows, k), B: view(upload(t, d, values), n, k), TransB: true,
							Out: view(product, rows, n), Alpha: 1, Precision: p}
						if err := d.MatMul(mm); err != nil {
							t.Fatal(err)
						}
						if err := d.Sync(); err != nil {
							t.Fatal(err)
						}
						for i := range host(product) {
							host(product)[i] += bias[i%n]
						}
						want, abs := expected(plain, xs, rows, false)
						for i := range want {
							want[i] += float64(bias[i%n])
							abs[i] += 1 + minsOf(m)
						}
						what := fmt.Sprintf("%v %v precision %d", s, size, p)
						compare(t, what, host(out), want, abs, 4e-6)
						compare(t, what+" matmul", host(product), want, abs, 4e-6)
						if p == device.BF16 && isa == "avx512" {
							dy = round(dy)
						}
						back := &quant.Matrix{Layout: quant.F32, Rows: k, Cols: n}
						flipped := make([]float32, n*k)
						for i := range n {
							for c := range k {
								flipped[c*n+i] = values[i*k+c]
							}
						}
						back.Data = bytesOf(flipped)
						want, abs = expected(back, dy, rows, false)
						for i := range abs {
							abs[i] += minsOf(m)
						}
						compare(t, what+" gradient", host(dx), want, abs, 4e-6)
						both := append(append([]float32(nil), host(out)...), host(dx)...)
						if first[p-1] == nil {
							first[p-1] = both
						}
						numtest.Equal(t, what+" on other threads", both, first[p-1])
					}
				}
			}
		}
	})
}

// minsOf is what sums may lose where a min cancels against its code.
func minsOf(m *quant.Matrix) float64 {
	if m.Mins != nil {
		return float64(m.Cols)
	}
	return 0
}
