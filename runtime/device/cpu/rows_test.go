//go:build cgo

package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"weft/internal/numtest"
	"weft/runtime/device"
	"weft/runtime/tensor"
)

// rowsCase records one operation on x [rows, cols] and returns its float64 result.
type rowsCase struct {
	name string
	run  func(d *cpuDevice, x, y, out device.View) error
	want func(x, y []float64, c int) float64
	tol  float64
	at   string // which of x, out holds the result
}

var rowsCases = []rowsCase{
	{"silu", func(d *cpuDevice, x, y, out device.View) error {
		return d.GLU(device.GLUArgs{Gate: x, Up: y, Out: out, Act: device.SiLU})
	}, func(x, y []float64, c int) float64 { return x[c] / (1 + math.Exp(-x[c])) * y[c] }, 1e-6, "out"},
	{"gelu tanh", func(d *cpuDevice, x, y, out device.View) error {
		return d.GLU(device.GLUArgs{Gate: x, Up: y, Out: out, Act: device.GELUTanh})
	}, func(x, y []float64, c int) float64 {
		v := x[c]
		return 0.5 * v * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v))) * y[c]
	}, 2e-6, "out"},
	{"gelu erf", func(d *cpuDevice, x, y, out device.View) error {
		return d.GLU(device.GLUArgs{Gate: x, Up: y, Out: out, Act: device.GELUErf})
	}, func(x, y []float64, c int) float64 { return 0.5 * x[c] * math.Erfc(-x[c]/math.Sqrt2) * y[c] }, 1e-6, "out"},
	{"add", func(d *cpuDevice, x, y, out device.View) error { return d.Add(device.AddArgs{X: x, Y: y}) },
		func(x, y []float64, c int) float64 { return x[c] + y[c] }, 1e-7, "x"},
	{"softcap", func(d *cpuDevice, x, y, out device.View) error { return d.Softcap(device.SoftcapArgs{X: x, Cap: 2}) },
		func(x, y []float64, c int) float64 { return 2 * math.Tanh(x[c]/2) }, 5e-7, "x"},
	{"logsoftmax", func(d *cpuDevice, x, y, out device.View) error {
		return d.LogSoftmax(device.LogSoftmaxArgs{X: x, Out: out})
	}, func(x, y []float64, c int) float64 {
		var sum float64
		for _, v := range x {
			sum += math.Exp(v)
		}
		return x[c] - math.Log(sum)
	}, 1e-6, "out"},
}

func widen(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

// Each operation over rows against float64 and with the same bits on every instruction set and in every batch.
func TestRows(t *testing.T) {
	for _, c := range rowsCases {
		t.Run(c.name, func(t *testing.T) {
			for _, size := range [][2]int{{1, 1}, {3, 15}, {5, 16}, {2, 35}, {1, 9001}, {40, 257}} {
				rows, cols := size[0], size[1]
				r := rand.New(rand.NewPCG(5, uint64(cols)))
				x, y := random(r, rows*cols), random(r, rows*cols)
				for i := range x {
					x[i] *= 3
				}
				var first []float32
				for _, isa := range ISAs() {
					d := open(t, Options{ISA: isa, Threads: 2})
					xb, yb, ob := upload(t, d, x), upload(t, d, y), upload(t, d, make([]float32, len(x)))
					if err := c.run(d, view(xb, rows, cols), view(yb, rows, cols), view(ob, rows, cols)); err != nil {
						t.Fatal(err)
					}
					if err := d.Sync(); err != nil {
						t.Fatal(err)
					}
					got := host(ob)
					if c.at == "x" {
						got = host(xb)
					}
					var wideX, wideY []float64
					for i := range got {
						if i%cols == 0 {
							wideX, wideY = widen(x[i:i+cols]), widen(y[i:i+cols])
						}
						want := c.want(wideX, wideY, i%cols)
						if !(math.Abs(float64(got[i])-want) <= c.tol*(1+math.Abs(want))) {
							t.Fatalf("%s [%d, %d]: element %d of %v is %v, want %v", isa, rows, cols, i, x[i], got[i],
								want)
						}
						if i > 500 && c.name == "logsoftmax" {
							break
						}
					}
					if first == nil {
						first = append(first, got...)
					}
					numtest.Equal(t, isa, got, first)
				}
			}
		})
	}
}

// exp keeps its accuracy over its range, is 0 and infinity at the ends, and propagates NaN: tested through silu of
// large negative values.
func TestGateExtremes(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	eachISA(t, func(t *testing.T, isa string) {
		d := open(t, Options{ISA: isa, Threads: 1})
		x := []float32{0, -87, -88.5, -103, -200, 88.7, 200, inf, nan}
		one := []float32{1, 1, 1, 1, 1, 1, 1, 1, 1}
		g, u := upload(t, d, x), upload(t, d, one)
		if err := d.GLU(device.GLUArgs{Gate: view(g, 1, 9), Up: view(u, 1, 9), Out: view(g, 1, 9)}); err != nil {
			t.Fatal(err)
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		for i, got := range host(g) {
			want := float64(x[i]) / (1 + math.Exp(-float64(x[i])))
			if i == 8 && got == got || i < 7 && math.Abs(float64(got)-want) > 1e-6*math.Abs(want)+1e-37 || i == 7 &&
				got != inf {
				t.Errorf("silu(%v) is %v, want %v", x[i], got, want)
			}
		}
	})
}

func TestRMSNorm(t *testing.T) {
	for _, size := range [][3]int{{1, 1, 16}, {3, 2, 20}, {33, 1, 576}, {2, 5, 1}} {
		rows, parts, width := size[0], size[1], size[2]
		r := rand.New(rand.NewPCG(6, uint64(width)))
		x, add, weight := random(r, rows*parts*width), random(r, rows*parts*width), random(r, width)
		for _, mode := range []string{"plain", "add", "rows"} {
			var first []float32
			for _, isa := range ISAs() {
				t.Run(fmt.Sprintf("%v/%s/%s", size, mode, isa), func(t *testing.T) {
					d := open(t, Options{ISA: isa, Threads: 2})
					xb, ab, ob := upload(t, d, x), upload(t, d, add), upload(t, d, make([]float32, len(x)))
					args := device.RMSNormArgs{X: view(xb, rows, parts*width), Out: view(ob, rows, parts*width),
						Weight: upload(t, d, weight), Parts: parts, Eps: 1e-5}
					index := make([]int32, rows)
					for i := range index {
						index[i] = int32(i)
					}
					switch mode {
					case "add":
						args.Add = view(ab, rows, parts*width)
					case "rows":
						for i := range index {
							index[i] = int32(rows - 1 - i)
						}
						args.Rows = index
					}
					if err := d.RMSNorm(args); err != nil {
						t.Fatal(err)
					}
					if err := d.Sync(); err != nil {
						t.Fatal(err)
					}
					for i, got := range host(ob) {
						row, part, c := i/(parts*width), i/width%parts, i%width
						var sum, mine float64
						for j := range width {
							at := int(index[row])*parts*width + part*width + j
							v := float64(x[at])
							if mode == "add" {
								v = float64(x[at] + add[at])
							}
							sum += v * v
							if j == c {
								mine = v
							}
						}
						want := mine / math.Sqrt(sum/float64(width)+1e-5) * float64(weight[c])
						if !(math.Abs(float64(got)-want) < 2e-6) {
							t.Fatalf("element %d is %v, want %v", i, got, want)
						}
					}
					if mode == "add" && host(xb)[0] != x[0]+add[0] {
						t.Error("x does not keep the sum")
					}
					if first == nil {
						first = append(first, host(ob)...)
					}
					numtest.Equal(t, isa, host(ob), first)
				})
			}
		}
	}
}

func TestRoPE(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	const rows, heads, kvHeads, dim, rot = 5, 3, 1, 20, 12
	q, k, v, table := random(r, rows*heads*dim), random(r, rows*kvHeads*dim), random(r, rows*kvHeads*dim),
		random(r, 4*rot)
	tableRows := []int32{0, 3, -1, 2, 1}
	eachISA(t, func(t *testing.T, isa string) {
		d := open(t, Options{ISA: isa, Threads: 2})
		kv, err := d.NewKVCache(device.KVConfig{Layers: 1, KVHeads: kvHeads, HeadDim: dim, PageLen: 16, NumPages: 2,
			DType: tensor.F32})
		if err != nil {
			t.Fatal(err)
		}
		defer kv.Free()
		qb, kb, vb := upload(t, d, q), upload(t, d, k), upload(t, d, v)
		if err := d.RoPE(device.RoPEArgs{
			Q: view(qb, rows, heads*dim), K: view(kb, rows, kvHeads*dim), V: view(vb, rows, kvHeads*dim), HeadDim: dim,
			Rot:   rot,
			Table: upload(t, d, table), TableRows: tableRows, Cache: kv, Slots: []int32{3, 31, 0, 16, 5},
		}); err != nil {
			t.Fatal(err)
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		for i, got := range host(qb) {
			row, c := i/(heads*dim), i%dim
			want := float64(q[i])
			if tr := tableRows[row]; tr >= 0 && c < rot {
				j := c % (rot / 2)
				cos, sin := float64(table[int(tr)*rot+j]), float64(table[int(tr)*rot+rot/2+j])
				if c < rot/2 {
					want = float64(q[i])*cos - float64(q[i+rot/2])*sin
				} else {
					want = float64(q[i])*cos + float64(q[i-rot/2])*sin
				}
			}
			if math.Abs(float64(got)-want) > 1e-6 {
				t.Fatalf("q element %d is %v, want %v", i, got, want)
			}
		}
	})
}
