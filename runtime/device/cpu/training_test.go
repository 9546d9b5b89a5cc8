//go:build cgo

package cpu

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"weft/internal/numtest"
	"weft/quant"
	"weft/runtime/device"
)

// trainingStep runs every operation of training once and returns all that they wrote.
func trainingStep(t testing.TB, d *cpuDevice) []float32 {
	t.Helper()
	r := rand.New(rand.NewPCG(5, 5))
	const rows, hidden, ffn, heads, kvHeads, dim = 157, 96, 210, 6, 2, 16
	var out []device.Buffer
	in := func(n, m int) device.View { return view(upload(t, d, random(r, n*m)), n, m) }
	result := func(n, m int) device.View {
		v := in(n, m)
		out = append(out, v.Buf)
		return v
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range shapes {
		w := load(t, d, matrixOf(r, s.layout, ffn, hidden, s.group, s.mins, s.half))
		must(d.LinearGrad(device.LinearGradArgs{Parts: []device.LinearGradPart{{W: w, DY: in(rows, ffn)},
			{W: w, DY: in(rows, ffn)}}, DX: result(rows, hidden), Accumulate: s.mins}))
	}
	for form := range 8 {
		a, b := in(rows, ffn), in(ffn, 8+10*form)
		if form&1 != 0 {
			a = in(ffn, rows)
		}
		if form&2 != 0 {
			b = in(8+10*form, ffn)
		}
		must(d.MatMul(device.MatMulArgs{A: a, B: b, TransA: form&1 != 0, TransB: form&2 != 0,
			Out: result(rows, 8+10*form), Alpha: 0.5, Accumulate: form&4 != 0}))
	}
	norm, dnorm := in(1, hidden/4).Buf, result(1, hidden/4).Buf
	must(d.RMSNormGrad(device.RMSNormGradArgs{X: in(rows, hidden), DY: in(rows, hidden), DX: result(rows, hidden),
		Weight: norm, DWeight: dnorm, Parts: 4, Eps: 1e-5}))
	index := make([]int32, rows)
	for i := range index {
		index[i] = int32(i%30) - 1
	}
	must(d.Rotate(device.RotateArgs{X: result(rows, heads*dim), HeadDim: dim, Rot: 12, Table: in(30, 12).Buf,
		TableRows: index, Inverse: true}))
	a := device.SelfAttentionArgs{Q: in(rows, heads*dim), K: in(rows, kvHeads*dim), V: in(rows, kvHeads*dim),
		Out: result(rows, heads*dim), LSE: result(rows, heads), HeadDim: dim,
		Indptr: []int32{0, 20, 150, rows}, Scale: 0.25, Softcap: 20, Window: 100}
	must(d.SelfAttention(a))
	must(d.SelfAttentionGrad(device.SelfAttentionGradArgs{SelfAttentionArgs: a, DOut: in(rows, heads*dim),
		DQ: result(rows, heads*dim), DK: result(rows, kvHeads*dim), DV: result(rows, kvHeads*dim)}))
	for act := range device.GELUErf + 1 {
		must(d.GLUGrad(device.GLUGradArgs{Gate: in(rows, ffn), Up: in(rows, ffn), DOut: in(rows, ffn),
			DGate: result(rows, ffn), DUp: result(rows, ffn), Act: act}))
	}
	for _, softcap := range []float32{0, 30} {
		must(d.CrossEntropy(device.CrossEntropyArgs{Logits: result(rows, 1100), Labels: index, Loss: result(rows, 1),
			Scale: 0.1, Softcap: softcap}))
	}
	for i := range index {
		index[i] = int32(i % 7)
	}
	must(d.EmbedGrad(device.EmbedGradArgs{IDs: index, DY: in(rows, hidden), DTable: result(9, hidden), Scale: 2}))
	must(d.Sync())
	var all []float32
	for _, b := range out {
		all = append(all, host(b)...)
	}
	return all
}

// Training gives the same bits on every instruction set and for any number of threads.
func TestTrainingBits(t *testing.T) {
	var want []float32
	for _, isa := range ISAs() {
		for _, threads := range []int{1, 2, 3} {
			d := open(t, Options{ISA: isa, Threads: threads, Activations: Fast})
			got := trainingStep(t, d)
			if want == nil {
				want = got
			}
			numtest.Equal(t, d.Describe(), got, want)
		}
	}
}

// busy returns the processor time of the calling thread in nanoseconds.
func busy() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err)
	}
	return t.Nano()
}

// benchProducts runs what record records on one thread and reports GFLOP/s and the fraction of the peak of that thread,
// both by its processor time: the machine may do other work too.
func benchProducts(b *testing.B, d *cpuDevice, flops float64, record func() error) {
	b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	run := func() int64 {
		n := max(1, int(3e8/flops))
		at := busy()
		for range n {
			if err := record(); err != nil {
				b.Fatal(err)
			}
			if err := d.Sync(); err != nil {
				b.Fatal(err)
			}
		}
		return max((busy()-at)/int64(n), 1)
	}
	run()
	var shares, rates []float64
	for b.Loop() {
		at := busy()
		done := peakOps(d.isa, 200000)
		peak := float64(done) / float64(max(busy()-at, 1))
		rate := flops / float64(run())
		rates, shares = append(rates, rate), append(shares, 100*rate/peak)
	}
	slices.Sort(shares)
	slices.Sort(rates)
	b.ReportMetric(rates[len(rates)/2], "GFLOP/s")
	b.ReportMetric(shares[len(shares)/2], "%peak")
}

var trainingShapes = [][2]int{{576, 576}, {192, 576}, {1536, 576}, {576, 1536}, {2048, 2048}, {5632, 2048},
	{49152, 576}}

var trainingLayouts = []struct {
	name string
	s    shape
}{
	{"F32", shape{quant.F32, 0, false, false}}, {"F16", shape{quant.F16, 0, false, false}},
	{"BF16", shape{quant.BF16, 0, false, false}}, {"Q8_0", shape{quant.Int8, 32, false, true}},
	{"Q4_1", shape{quant.Int4, 32, true, true}}, {"NF4", shape{quant.Lookup4, 64, false, false}},
}

// BenchmarkLinearTraining is Linear with float activations, and its gradient, over 512 rows.
func BenchmarkLinearTraining(b *testing.B) {
	const rows = 512
	o := Options{ISA: ISAs()[len(ISAs())-1], Threads: 1}
	for _, l := range trainingLayouts {
		for _, s := range trainingShapes {
			n, k := s[0], s[1]
			d := open(b, o)
			r := rand.New(rand.NewPCG(1, 1))
			w := load(b, d, matrixOf(r, l.s.layout, n, k, l.s.group, l.s.mins, l.s.half))
			x, y := view(upload(b, d, random(r, rows*k)), rows, k), view(upload(b, d, random(r, rows*n)), rows, n)
			flops := 2 * float64(rows) * float64(n) * float64(k)
			for name, p := range map[string]device.Precision{"f32": device.Float32, "bf16": device.BF16} {
				b.Run(fmt.Sprintf("forward/%s/%s/%dx%d", name, l.name, n, k), func(b *testing.B) {
					benchProducts(b, d, flops, func() error {
						return d.Linear(device.LinearArgs{X: x, Parts: []device.LinearPart{{W: w, Out: y}},
							Precision: p})
					})
				})
				b.Run(fmt.Sprintf("grad/%s/%s/%dx%d", name, l.name, n, k), func(b *testing.B) {
					benchProducts(b, d, flops, func() error {
						return d.LinearGrad(device.LinearGradArgs{Parts: []device.LinearGradPart{{W: w, DY: y}}, DX: x,
							Precision: p})
					})
				})
			}
		}
	}
}

// BenchmarkMatMul is what adapters of rank 8 and 64, and full finetuning, multiply over 512 rows.
func BenchmarkMatMul(b *testing.B) {
	o := Options{ISA: ISAs()[len(ISAs())-1], Threads: 1}
	for _, c := range []struct {
		name           string
		m, n, k        int
		transA, transB bool
	}{
		{"low", 512, 8, 576, false, true}, {"low", 512, 64, 2048, false, true}, {"dlow", 512, 8, 1536, false, false},
		{"dlow", 512, 64, 2048, false, false},
		{"dA", 8, 576, 512, true, false}, {"dA", 64, 2048, 512, true, false}, {"dB", 576, 8, 512, true, false},
		{"dB", 2048, 64, 512, true, false},
		{"dx", 512, 576, 8, false, false}, {"dx", 512, 2048, 64, false, false}, {"dW", 576, 576, 512, true, false},
		{"dW", 2048, 2048, 512, true, false}, {"dW", 49152, 576, 512, true, false},
	} {
		b.Run(fmt.Sprintf("%s/%dx%dx%d", c.name, c.m, c.n, c.k), func(b *testing.B) {
			d := open(b, o)
			turn := func(trans bool, rows, cols int) device.View {
				buf := upload(b, d, make([]float32, rows*cols))
				for i := range host(buf) {
					host(buf)[i] = float32(i%13) - 6
				}
				if trans {
					return view(buf, cols, rows)
				}
				return view(buf, rows, cols)
			}
			a := device.MatMulArgs{A: turn(c.transA, c.m, c.k), B: turn(c.transB, c.k, c.n), Out: turn(false, c.m, c.n),
				TransA: c.transA, TransB: c.transB, Alpha: 1}
			benchProducts(b, d, 2*float64(c.m)*float64(c.n)*float64(c.k), func() error { return d.MatMul(a) })
		})
	}
}

// BenchmarkSelfAttention counts the visible pairs only.
func BenchmarkSelfAttention(b *testing.B) {
	o := Options{ISA: ISAs()[len(ISAs())-1], Threads: 1}
	for _, c := range []struct{ heads, kvHeads, dim, doc, samples int }{{9, 3, 64, 64, 8}, {9, 3, 64, 512, 1},
		{32, 8, 64, 512, 1}, {9, 3, 64, 4096, 1}} {
		rows := c.doc * c.samples
		d := open(b, o)
		r := rand.New(rand.NewPCG(1, 1))
		in := func(cols int) device.View { return view(upload(b, d, random(r, rows*cols)), rows, cols) }
		a := device.SelfAttentionArgs{Q: in(c.heads * c.dim), K: in(c.kvHeads * c.dim), V: in(c.kvHeads * c.dim),
			Out: in(c.heads * c.dim), LSE: in(c.heads), HeadDim: c.dim, Scale: 0.125}
		for i := range c.samples + 1 {
			a.Indptr = append(a.Indptr, int32(i*c.doc))
		}
		g := device.SelfAttentionGradArgs{SelfAttentionArgs: a, DOut: in(c.heads * c.dim), DQ: in(c.heads * c.dim),
			DK: in(c.kvHeads * c.dim), DV: in(c.kvHeads * c.dim)}
		pairs := float64(c.samples) * float64(c.doc) * float64(c.doc+1) / 2 * float64(c.heads*c.dim)
		b.Run(fmt.Sprintf("forward/%d of %dx%d", c.samples, c.doc, c.heads), func(b *testing.B) {
			benchProducts(b, d, 4*pairs, func() error { return d.SelfAttention(a) })
		})
		b.Run(fmt.Sprintf("grad/%d of %dx%d", c.samples, c.doc, c.heads), func(b *testing.B) {
			benchProducts(b, d, 10*pairs, func() error { return d.SelfAttentionGrad(g) })
		})
	}
}

// BenchmarkTrainingRows is one call of the operations over rows.
func BenchmarkTrainingRows(b *testing.B) {
	const rows = 512
	d := open(b, Options{})
	r := rand.New(rand.NewPCG(1, 1))
	in := func(rows, cols int) device.View { return view(upload(b, d, random(r, rows*cols)), rows, cols) }
	norm, gate, up, dgate, logits, labels := in(1, 576).Buf, in(rows, 1536), in(rows, 1536), in(rows, 1536),
		in(64, 49152), make([]int32, 64)
	x, dy, loss := in(rows, 576), in(rows, 576), in(64, 1)
	for name, f := range map[string]func() error{
		"rmsnorm/576": func() error {
			return d.RMSNormGrad(device.RMSNormGradArgs{X: x, DY: dy, DX: dy,
				Weight: norm})
		},
		"glu/1536": func() error {
			return d.GLUGrad(device.GLUGradArgs{Gate: gate, Up: gate, DOut: gate, DGate: dgate, DUp: up})
		},
		"cross entropy/49152": func() error {
			return d.CrossEntropy(device.CrossEntropyArgs{Logits: logits, Labels: labels, Loss: loss, Scale: 1})
		},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
				if err := d.Sync(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
