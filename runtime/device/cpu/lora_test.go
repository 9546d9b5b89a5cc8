//go:build cgo

package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"weft/internal/numtest"
	"weft/runtime/device"
	"weft/runtime/tensor"
)

// randomLoRA returns random LoRA matrices of a data type for one layer, in one buffer.
func randomLoRA(t testing.TB, d *cpuDevice, r *rand.Rand, in, n, rank int, dtype tensor.DType, gain,
	bias bool) device.LoRAMatrices {
	t.Helper()
	size := int64(dtype.Size())
	m := device.LoRAMatrices{In: in, Out: n, Rank: rank, Scale: 0.5}
	aBytes, bBytes := (int64(rank*in)*size+63)&^63, (device.LoRABBytes(n, rank, dtype)+63)&^63
	buf, err := d.Alloc(device.Adapters, aBytes+bBytes+8*int64(n))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(buf.Free)
	fill := func(to []byte) {
		for i := 0; i+int(size) <= len(to); i += int(size) {
			copy(to[i:], matrixBytes(r, dtype))
		}
	}
	raw := make([]byte, int64(n*rank)*size)
	fill(raw)
	fill(buf.Host()[:int64(rank*in)*size])
	device.PackLoRAB(buf.Host()[aBytes:], raw, n, rank, int(size))
	m.A, m.B = device.Region{Buf: buf, DType: dtype}, device.Region{Buf: buf, Offset: aBytes, DType: dtype}
	vectors := host(buf)[(aBytes+bBytes)/4:]
	copy(vectors, random(r, 2*n))
	if gain {
		m.Gain = device.Region{Buf: buf, Offset: aBytes + bBytes, DType: tensor.F32}
	}
	if bias {
		m.Bias = device.Region{Buf: buf, Offset: aBytes + bBytes + 4*int64(n), DType: tensor.F32}
	}
	return m
}

// Adapters of every type and of mixed ranks: the same bits on every instruction set, with 1 to 3 threads, and for every
// row by itself.
func TestLoRA(t *testing.T) {
	const rows = 140
	for _, size := range [][2]int{{37, 45}, {576, 192}, {1, 16}, {300, 520}} {
		in, n := size[0], size[1]
		x, out := random(rand.New(rand.NewPCG(8, 8)), rows*in), random(rand.New(rand.NewPCG(9, 9)), rows*n)
		bounds := [][2]int{{0, 1}, {1, 2}, {2, 2}, {3, 5}, {6, 11}, {11, 137}, {138, 139}, {139, 140}}
		var first []float32
		for _, isa := range ISAs() {
			for threads := 1; threads <= 3; threads++ {
				t.Run(fmt.Sprintf("%v/%s/threads=%d", size, isa, threads), func(t *testing.T) {
					d := open(t, Options{ISA: isa, Threads: threads})
					r := rand.New(rand.NewPCG(8, 9))
					var ms []device.LoRAMatrices
					for i, rank := range []int{1, 8, 3, 13, 16, 33, 64, 256} {
						ms = append(ms,
							randomLoRA(t, d, r, in, n, rank, []tensor.DType{tensor.F32, tensor.F16, tensor.BF16}[i%3],
								i%4 == 1, i%4 > 1))
					}
					run := func(begin, end int) []float32 {
						xb, ob := upload(t, d, x[begin*in:end*in]), upload(t, d, out[begin*n:end*n])
						p := device.LoRAPart{Out: view(ob, end-begin, n)}
						for i, s := range bounds {
							if lo, hi := max(s[0], begin)-begin, min(s[1], end)-begin; lo <= hi {
								p.Segments = append(p.Segments,
									device.LoRASegment{Begin: lo, End: hi, Scale: 1, M: &ms[i]})
							}
						}
						if err := d.LoRA(device.LoRAArgs{X: view(xb, end-begin, in),
							Parts: []device.LoRAPart{p}}); err != nil {
							t.Fatal(err)
						}
						if err := d.Sync(); err != nil {
							t.Fatal(err)
						}
						return append([]float32(nil), host(ob)...)
					}
					got := run(0, rows)
					if first == nil {
						first = got
					}
					numtest.Equal(t, isa, got, first)
					for _, row := range []int{0, 1, 4, 7, 12, 44, 136, 137, 138, 139} {
						numtest.Equal(t, fmt.Sprintf("%s row %d alone", isa, row), run(row, row+1),
							got[row*n:(row+1)*n])
					}
					numtest.Equal(t, isa+" some rows", run(9, 100), got[9*n:100*n])
				})
			}
		}
	}
}
