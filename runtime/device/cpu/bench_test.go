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

// BenchmarkLinear reports the GB/s of weights read and the GOP/s of products; a stack of matrices larger than the
// caches, as a model's layers are.
func BenchmarkLinear(b *testing.B) {
	for _, isa := range ISAs()[min(1, len(ISAs())-1):] {
		for _, f := range []struct {
			name string
			s    shape
		}{
			{"Q4_0", shape{quant.Int4, 32, false, true}}, {"Q4_1", shape{quant.Int4, 32, true, true}},
			{"Q8_0", shape{quant.Int8, 32, false, true}},
			{"Q6_K", shape{quant.Int8, 16, false, false}}, {"BF16", shape{quant.BF16, 0, false, false}},
			{"F32", shape{quant.F32, 0, false, false}},
		} {
			const rows, cols, bytes = 2048, 2048, 100 << 20
			var weights []device.Weight
			d := open(b, Options{ISA: isa, Activations: Fast})
			r := rand.New(rand.NewPCG(1, 1))
			m := matrixOf(r, f.s.layout, rows, cols, f.s.group, f.s.mins, f.s.half)
			var each int64
			for size := int64(0); size < bytes; size += each {
				w := load(b, d, m)
				weights, each = append(weights, w), w.Bytes()
			}
			for _, tokens := range []int{1, 4, 16, 512} {
				b.Run(fmt.Sprintf("%s/%s/T=%d", isa, f.name, tokens), func(b *testing.B) {
					x, out := upload(b, d, random(r, tokens*cols)), upload(b, d, make([]float32, tokens*rows))
					parts := []device.LinearPart{{Out: view(out, tokens, rows)}}
					i := 0
					for b.Loop() {
						n := 1
						if tokens < 100 {
							n = len(weights)
						}
						for range n {
							parts[0].W = weights[i%len(weights)]
							i++
							if err := d.Linear(device.LinearArgs{X: view(x, tokens, cols), Parts: parts}); err != nil {
								b.Fatal(err)
							}
						}
						if err := d.Sync(); err != nil {
							b.Fatal(err)
						}
					}
					seconds := b.Elapsed().Seconds()
					b.ReportMetric(float64(i)*float64(each)/seconds/1e9, "GB/s")
					b.ReportMetric(float64(i)*2*rows*cols*float64(tokens)/seconds/1e9, "GOP/s")
				})
			}
		}
	}
}

// BenchmarkAttention is one layer of a model with 32 heads of 64 over 8 KV heads.
func BenchmarkAttention(b *testing.B) {
	const heads, kvHeads, dim = 32, 8, 64
	for _, isa := range ISAs()[min(1, len(ISAs())-1):] {
		for _, c := range []struct{ rows, context int }{{1, 4096}, {512, 512}} {
			b.Run(fmt.Sprintf("%s/rows=%d/context=%d", isa, c.rows, c.context), func(b *testing.B) {
				d := open(b, Options{ISA: isa})
				r := rand.New(rand.NewPCG(1, 1))
				kv, err := d.NewKVCache(device.KVConfig{Layers: 1, KVHeads: kvHeads, HeadDim: dim, PageLen: 16,
					NumPages: c.context / 16, DType: tensor.F16})
				if err != nil {
					b.Fatal(err)
				}
				defer kv.Free()
				q, out := upload(b, d, random(r, c.rows*heads*dim)), upload(b, d, make([]float32, c.rows*heads*dim))
				var table, positions []int32
				for i := range c.context / 16 {
					table = append(table, int32(i))
				}
				for i := range c.rows {
					positions = append(positions, int32(c.context-c.rows+i))
				}
				n := 0
				for b.Loop() {
					if err := d.Attention(device.AttentionArgs{Q: view(q, c.rows, heads*dim),
						Out: view(out, c.rows, heads*dim), HeadDim: dim, Cache: kv,
						Indptr: []int32{0,
							int32(c.rows)}, Positions: positions, PageTables: [][]int32{table},
						Scale: 0.1}); err != nil {
						b.Fatal(err)
					}
					if err := d.Sync(); err != nil {
						b.Fatal(err)
					}
					n++
				}
				keys := 0
				for _, p := range positions {
					keys += int(p) + 1
				}
				b.ReportMetric(4*float64(keys)*heads*dim*float64(n)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}

// BenchmarkPhase is the cost of a phase: a list of operations with hardly any work.
func BenchmarkPhase(b *testing.B) {
	for _, threads := range []int{1, 2} {
		for _, rows := range []int{1, 64} {
			b.Run(fmt.Sprintf("threads=%d/rows=%d", threads, rows), func(b *testing.B) {
				d := open(b, Options{Threads: threads})
				const n = 200
				x := upload(b, d, make([]float32, rows*1024))
				for b.Loop() {
					for range n {
						if err := d.Softcap(device.SoftcapArgs{X: view(x, rows, 1024), Cap: 1}); err != nil {
							b.Fatal(err)
						}
					}
					if err := d.Sync(); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/phase")
			})
		}
	}
}

func BenchmarkReadBandwidth(b *testing.B) {
	for _, threads := range []int{1, 2} {
		b.Run(fmt.Sprintf("threads=%d", threads), func(b *testing.B) {
			var best float64
			for b.Loop() {
				best = max(best, MeasureReadBandwidth(threads, 256<<20, 100*time.Millisecond))
			}
			b.ReportMetric(best, "GB/s")
		})
	}
}

func BenchmarkPeaks(b *testing.B) {
	for _, isa := range ISAs() {
		b.Run(isa, func(b *testing.B) {
			var p Peaks
			for b.Loop() {
				p, _ = MeasurePeaks(isa, 1, 100*time.Millisecond)
			}
			b.ReportMetric(p.Float, "GFLOP/s")
			b.ReportMetric(p.Int8, "int8-GOP/s")
			b.ReportMetric(p.BF16, "bf16-GFLOP/s")
		})
	}
}
