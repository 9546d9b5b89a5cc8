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

func linear(t testing.TB, d *cpuDevice, w device.Weight, x []float32, rows int, bias device.Buffer) []float32 {
	t.Helper()
	xb, out := upload(t, d, x), upload(t, d, make([]float32, rows*w.Rows()))
	if err := d.Linear(device.LinearArgs{X: view(xb, rows, w.Cols()),
		Parts: []device.LinearPart{{W: w, Bias: bias, Out: view(out, rows, w.Rows())}}}); err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	return append([]float32(nil), host(out)...)
}

func load(t testing.TB, d *cpuDevice, m *quant.Matrix) device.Weight {
	t.Helper()
	w, err := d.LoadMatrix(device.Weights, m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Free)
	return w
}

// Every layout against float64, the same bits on every instruction set (bf16 dot products apart), and the same bits in
// a batch as alone.
func TestLinear(t *testing.T) {
	for _, activations := range []Activations{Float, Fast} {
		for _, s := range shapes {
			t.Run(fmt.Sprintf("%v/%v", activations, s), func(t *testing.T) {
				for _, size := range [][3]int{{1, 33, 96}, {13, 17, 50}, {3, 16, 1}, {31, 5, 160}, {2, 48, 33},
					{6, 20, 64}, {9, 16, 31}} {
					r := rand.New(rand.NewPCG(1, uint64(size[0])))
					rows, n, k := size[0], size[1], size[2]
					m, x := matrixOf(r, s.layout, n, k, s.group, s.mins, s.half), random(r, rows*k)
					var first []float32
					for _, isa := range ISAs() {
						d := open(t, Options{ISA: isa, Threads: 2, Activations: activations})
						w := load(t, d, m)
						dots := s.layout == quant.BF16 && activations == Fast && isa == "avx512"
						got := linear(t, d, w, x, rows, nil)
						tolerance := 2e-6
						if dots {
							tolerance = 1e-2
						}
						integer := activations == Fast && w.(*matrix).w.integer != 0
						want, abs := expected(m, x, rows, integer)
						compare(t, isa, got, want, abs, tolerance)
						if first == nil {
							first = got
						} else if !dots {
							numtest.Equal(t, isa+" against scalar", got, first)
						}
						for row := range rows {
							numtest.Equal(t, fmt.Sprintf("%s row %d alone", isa, row),
								linear(t, d, w, x[row*k:][:k], 1, nil), got[row*n:][:n])
						}
					}
				}
			})
		}
	}
}

// Q, K and V of mixed layouts in one call, with biases and strided outputs; the memory between them is unchanged.
func TestLinearParts(t *testing.T) {
	eachISA(t, func(t *testing.T, isa string) {
		d := open(t, Options{ISA: isa, Threads: 3, Activations: Fast})
		r := rand.New(rand.NewPCG(2, 2))
		const rows, k = 200, 64
		x := upload(t, d, random(r, rows*k))
		out := upload(t, d, random(r, rows*100))
		before := append([]float32(nil), host(out)...)
		var args device.LinearArgs
		args.X = view(x, rows, k)
		at := 3
		var ms []*quant.Matrix
		var biases [][]float32
		for i, s := range []shape{{quant.Int4, 32, true, true}, {quant.F32, 0, false, false},
			{quant.Int8, 16, false, false}} {
			m := matrixOf(r, s.layout, 20+i, k, s.group, s.mins, s.half)
			v := device.View{Buf: out, Offset: int64(at), Rows: rows, Cols: 20 + i, Stride: 100, DType: args.X.DType}
			bias := random(r, 20+i)
			args.Parts = append(args.Parts, device.LinearPart{W: load(t, d, m), Bias: upload(t, d, bias), Out: v})
			ms, biases = append(ms, m), append(biases, bias)
			at += 25
		}
		if err := d.Linear(args); err != nil {
			t.Fatal(err)
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		touched := make([]bool, len(before))
		for i, p := range args.Parts {
			want, size := expected(ms[i], host(x), rows, i != 1)
			for j := range want {
				want[j] += float64(biases[i][j%p.W.Rows()])
			}
			got := make([]float32, 0, len(want))
			for row := range rows {
				for c := range p.W.Rows() {
					e := int(p.Out.Offset) + row*100 + c
					got = append(got, host(out)[e])
					touched[e] = true
				}
			}
			compare(t, fmt.Sprintf("part %d", i), got, want, size, 1e-5)
		}
		for i, x := range host(out) {
			if !touched[i] && x != before[i] {
				t.Fatalf("element %d outside the outputs changed", i)
			}
		}
	})
}

func TestEmbed(t *testing.T) {
	for _, s := range shapes {
		t.Run(s.String(), func(t *testing.T) {
			eachISA(t, func(t *testing.T, isa string) {
				d := open(t, Options{ISA: isa, Threads: 2})
				r := rand.New(rand.NewPCG(3, 3))
				m := matrixOf(r, s.layout, 21, 77, s.group, s.mins, s.half)
				ids := []int32{0, 20, 16, 15, 3, 3}
				out := upload(t, d, make([]float32, len(ids)*77))
				if err := d.Embed(device.EmbedArgs{IDs: ids, Table: load(t, d, m), Scale: 1.5,
					Out: view(out, len(ids), 77)}); err != nil {
					t.Fatal(err)
				}
				if err := d.Sync(); err != nil {
					t.Fatal(err)
				}
				want := make([]float32, 77)
				for i, id := range ids {
					m.Row(int(id), want)
					for c := range want {
						want[c] *= 1.5
					}
					numtest.Equal(t, fmt.Sprintf("row %d", id), host(out)[i*77:][:77], want)
				}
			})
		})
	}
}

// The kernels quantize activations by the rule of quant.QuantizeActs, its edges included: with the unit matrix the
// product is the product of the values that the codes mean.
func TestActivationsQuantized(t *testing.T) {
	const n = 64
	m := &quant.Matrix{Layout: quant.Int8, Rows: n, Cols: n, GroupLen: 32, Data: make([]byte, n*n),
		Scales: make([]float32, n*2)}
	for i := range n {
		m.Data[i*n+i] = 1
		m.Scales[2*i], m.Scales[2*i+1] = 1, 1
	}
	r := rand.New(rand.NewPCG(10, 10))
	eachISA(t, func(t *testing.T, isa string) {
		d := open(t, Options{ISA: isa, Threads: 1, Activations: Fast})
		w := load(t, d, m)
		for i, scale := range []float32{1, 0, 0x1p-149, 0x1p-130, 0x1p-122, 0x1p-121, 0x1p-120, 0x1p+100,
			0x1.fffffep+127} {
			x := random(r, n)
			for j := range x {
				x[j] = min(max(x[j]/4, -1), 1) * scale
			}
			x[3], x[40] = scale, -scale
			for j := range 12 { // halves: ties to even
				x[5+j] = scale / 127 * (float32(j) - 5.5)
			}
			q, s, want := make([]int8, n), make([]float32, n/32), make([]float32, n)
			quant.QuantizeActs(x, q, s)
			for j := range want {
				want[j] = float32(q[j]) * s[j/32]
			}
			got := linear(t, d, w, x, 1, nil)
			for j := range want {
				if got[j] != want[j] {
					t.Fatalf("case %d, scale %v: column %d is %v, want %v", i, scale, j, got[j], want[j])
				}
			}
		}
	})
}

// Pairs of the largest products fit in what the integer kernels add them up in, for few tokens and for many.
func TestLargestCodes(t *testing.T) {
	const n, k = 16, 64
	for _, code := range []int8{-128, -127, 127} {
		m := &quant.Matrix{Layout: quant.Int8, Rows: n, Cols: k, GroupLen: 32, Data: make([]byte, n*k),
			Scales: make([]float32, n*2)}
		for i := range m.Data {
			m.Data[i] = byte(code)
		}
		for i := range m.Scales {
			m.Scales[i] = 1
		}
		eachISA(t, func(t *testing.T, isa string) {
			d := open(t, Options{ISA: isa, Threads: 1, Activations: Fast})
			w := load(t, d, m)
			for _, rows := range []int{1, 2, 4, 6, 12} {
				for _, v := range []float32{127, -127} {
					x := make([]float32, rows*k)
					for i := range x {
						x[i] = v
					}
					for i, y := range linear(t, d, w, x, rows, nil) {
						if want := float32(code) * v * k; y != want {
							t.Fatalf("%s, %d rows: output %d is %v, want %v", isa, rows, i, y, want)
						}
					}
				}
			}
		})
	}
}
