//go:build cgo

package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"weft/quant"
	"weft/runtime/device"
	"weft/runtime/tensor"
)

// stepShape is the linear layers of a model.
type stepShape struct {
	name                    string
	layers, hidden, kv, ffn int
}

var stepShapes = []stepShape{{"SmolLM2-135M", 30, 576, 192, 1536}, {"1B", 16, 2048, 512, 8192}}

// linears are the linear layers of a model with their inputs and outputs, and adapters for them.
type linears struct {
	d      *cpuDevice
	groups []stepGroup // of all layers
	a      []device.LoRAPart
}

type stepGroup struct {
	linear   device.LinearArgs
	adapters [][]device.LoRAMatrices // [part][adapter]
}

// newLinears makes Q8_0 matrices, and adapters of rank 16 in f16, each in one block in the order of use.
func newLinears(b *testing.B, s stepShape, rows, adapters, threads int) *linears {
	const rank = 16
	d := open(b, Options{Activations: Fast, Threads: threads})
	r := rand.New(rand.NewPCG(1, 1))
	st := &linears{d: d}
	// in, outs
	shapes := [][]int{{s.hidden, s.hidden, s.kv, s.kv}, {s.hidden, s.hidden}, {s.hidden, s.ffn, s.ffn},
		{s.ffn, s.hidden}}
	var size int64
	for _, g := range shapes {
		for _, n := range g[1:] {
			size += int64(s.layers) * 2 * rank * int64(g[0]+n)
		}
	}
	var blocks []device.Buffer
	for range adapters {
		buf, err := d.Alloc(device.Adapters, size)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(buf.Free)
		copy(buf.Host(), half(r, int(size/2)))
		blocks = append(blocks, buf)
	}
	var at int64
	region := func(buf device.Buffer, off int64) device.Region {
		return device.Region{Buf: buf, Offset: off, DType: tensor.F16}
	}
	for range s.layers {
		for _, g := range shapes {
			group := stepGroup{linear: device.LinearArgs{X: view(upload(b, d, random(r, rows*g[0])), rows, g[0])}}
			for _, n := range g[1:] {
				w := load(b, d, matrixOf(r, quant.Int8, n, g[0], 32, false, true))
				group.linear.Parts = append(group.linear.Parts,
					device.LinearPart{W: w, Out: view(upload(b, d, make([]float32, rows*n)), rows, n)})
				var ms []device.LoRAMatrices
				for _, buf := range blocks {
					ms = append(ms,
						device.LoRAMatrices{A: region(buf, at), B: region(buf, at+2*rank*int64(g[0])), In: g[0], Out: n,
							Rank: rank, Scale: 1})
				}
				at += 2 * rank * int64(g[0]+n)
				group.adapters = append(group.adapters, ms)
			}
			st.groups = append(st.groups, group)
		}
	}
	return st
}

// half is n random values in binary16, of a pattern that repeats.
func half(r *rand.Rand, n int) []byte {
	pattern := matrixOf(r, quant.F16, 1, 4099, 0, false, false).Data
	out := make([]byte, 0, 2*n+len(pattern))
	for len(out) < 2*n {
		out = append(out, pattern...)
	}
	return out[:2*n]
}

// run computes the layers of group i and, if asked, the adapters, each for rows/len(adapters) rows, and returns the
// seconds.
func (st *linears) run(b *testing.B, i int, linear, adapters bool) float64 {
	start := time.Now()
	g := &st.groups[i]
	if linear {
		if err := st.d.Linear(g.linear); err != nil {
			b.Fatal(err)
		}
	}
	if adapters {
		st.a = st.a[:0]
		for p, ms := range g.adapters {
			part := device.LoRAPart{Out: g.linear.Parts[p].Out}
			per := g.linear.X.Rows / len(ms)
			for j := range ms {
				part.Segments = append(part.Segments,
					device.LoRASegment{Begin: j * per, End: (j + 1) * per, Scale: 1, M: &ms[j]})
			}
			st.a = append(st.a, part)
		}
		if err := st.d.LoRA(device.LoRAArgs{X: g.linear.X, Parts: st.a}); err != nil {
			b.Fatal(err)
		}
	}
	if err := st.d.Sync(); err != nil {
		b.Fatal(err)
	}
	return time.Since(start).Seconds()
}

// BenchmarkLoRA is the linear layers of a step with and without adapters of rank 16 in f16 on all of them: 16 tokens of
// as many adapters, and 512 tokens of one. Each time is the sum over the layers of the least of all rounds; base/both
// is the part of the speed that stays.
func BenchmarkLoRA(b *testing.B) {
	for _, s := range stepShapes {
		for _, c := range []struct{ rows, adapters, threads int }{{16, 16, 1}, {16, 16, 2}, {1, 1, 2}, {512, 1, 1},
			{512, 1, 2}} {
			b.Run(fmt.Sprintf("%s/rows=%d/adapters=%d/threads=%d", s.name, c.rows, c.adapters, c.threads),
				func(b *testing.B) {
					st := newLinears(b, s, c.rows, c.adapters, c.threads)
					var bytes int64
					for _, g := range st.groups {
						for _, ms := range g.adapters {
							for _, m := range ms {
								bytes += 2 * int64(m.Rank) * int64(m.In+m.Out)
							}
						}
					}
					modes := [][2]bool{{true, false}, {true, true}, {false, true}}
					least := make([][3]float64, len(st.groups))
					for b.Loop() {
						for mode, m := range modes {
							for i := range st.groups {
								if t, to := st.run(b, i, m[0], m[1]), &least[i][mode]; *to == 0 || t < *to {
									*to = t
								}
							}
						}
					}
					var sum [3]float64
					for _, l := range least {
						for i := range sum {
							sum[i] += l[i]
						}
					}
					b.ReportMetric(sum[0]*1e3, "base-ms")
					b.ReportMetric(sum[1]*1e3, "both-ms")
					b.ReportMetric(sum[2]*1e3, "lora-ms")
					b.ReportMetric(float64(bytes)/sum[2]/1e9, "lora-GB/s")
					b.ReportMetric(sum[0]/sum[1], "base/both")
				})
		}
	}
}
