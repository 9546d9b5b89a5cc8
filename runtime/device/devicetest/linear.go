package devicetest

import (
	"math"
	"slices"
	"testing"

	"weft/internal/invariant"
	"weft/quant"
	"weft/runtime/device"
)

// linearShapes are [T, N, K]: nothing, one, around the widths of vectors and panels, primes, one of a real model.
var linearShapes = [][3]int{
	{0, 17, 33}, {1, 1, 1}, {1, 17, 31}, {2, 16, 32}, {3, 15, 33}, {5, 7, 97}, {13, 13, 50}, {33, 33, 128}, {4, 5, 16},
	{1, 2, 15}, {6, 0, 32}, {17, 3, 64}, {4, 576, 1536},
}

func testLinear(b *bench) {
	for _, f := range forms {
		b.sub(f.String(), func(b *bench) {
			for _, s := range linearShapes {
				if (testing.Short() || invariant.Race) && s[1] > 500 {
					continue
				}
				b.linearCase(f, s[0], s[1], s[2])
				b.release()
			}
		})
	}
}

func (b *bench) linearCase(f form, rows, n, k int) {
	b.Helper()
	what := name(f, " [", rows, ", ", k, "] to ", n)
	m := b.matrix(f, n, k)
	copied := *m
	copied.Data, copied.Scales, copied.Mins = slices.Clone(m.Data), slices.Clone(m.Scales), slices.Clone(m.Mins)
	w := b.load(&copied)
	for i := range copied.Data { // the device keeps no reference
		copied.Data[i] = 3
	}
	clear(copied.Scales)
	clear(copied.Mins)
	x := b.normal(rows * k)
	if rows > 3 { // a row of zeros, one of tiny and one of large values
		clear(x[k : 2*k])
		for i := range k {
			x[2*k+i] *= 0x1p-125
			x[3*k+i] *= 0x1p90
		}
	}
	run := func(begin, end int) []float32 {
		b.Helper()
		xv, out := b.view(x[begin*k:end*k], end-begin, k), b.out(end-begin, n)
		b.ran(b.d.Linear(device.LinearArgs{X: xv, Parts: []device.LinearPart{{W: w, Out: out}}}))
		b.same(what+": x", b.values(what, xv), x[begin*k:end*k])
		return b.values(what, out)
	}
	got := run(0, rows)
	want, tol := b.product(m, x, rows, nil)
	for i := range tol {
		tol[i] += float64(k) * 0x1p-126 * 8 // subnormal products may be flushed
	}
	b.near(what, got, want, tol)
	if rows == 0 || n == 0 {
		return
	}
	for _, s := range b.splits(rows) {
		b.same(name(what, ": rows ", s, " apart"), run(s[0], s[1]), got[s[0]*n:s[1]*n])
	}
}

// testLinearParts: parts of several layouts with and without biases write into columns of one wide buffer.
func testLinearParts(b *bench) {
	for _, rows := range []int{1, 7, 40} {
		const k = 96
		sizes := []int{33, 16, 5, 50}
		total := 0
		for _, n := range sizes {
			total += n + 3
		}
		x := b.normal(rows * k)
		wide := b.out(rows, total)
		args := device.LinearArgs{X: b.view(x, rows, k)}
		var ms []*quant.Matrix
		var biases [][]float32
		at := 2
		for i, n := range sizes {
			f := []form{{layout: quant.Int4, group: 32, mins: true, half: true}, {layout: quant.F32},
				{layout: quant.Int8, group: 32, half: true}, {layout: quant.BF16}}[i]
			m := b.matrix(f, n, k)
			p := device.LinearPart{W: b.load(m), Out: wide}
			p.Out.Offset += int64(at)
			p.Out.Cols = n
			var bias []float32
			if i != 2 {
				bias = b.normal(n)
				p.Bias = b.buffer(device.Weights, bias)
			}
			args.Parts = append(args.Parts, p)
			ms, biases = append(ms, m), append(biases, bias)
			at += n + 3
		}
		b.ran(b.d.Linear(args))
		all := b.values("parts", wide)
		at = 2
		for i, n := range sizes {
			var got []float32
			for t := range rows {
				row := all[t*total+at:][:n]
				got = append(got, row...)
				for c := range row {
					row[c] = guard
				}
			}
			want, tol := b.product(ms[i], x, rows, biases[i])
			b.near(name("part ", i, " of ", rows, " rows"), got, want, tol)

			alone := b.out(rows, n)
			p := args.Parts[i]
			p.Out = alone
			b.ran(b.d.Linear(device.LinearArgs{X: args.X, Parts: []device.LinearPart{p}}))
			b.same(name("part ", i, " by itself"), b.values("part", alone), got)
			at += n + 3
		}
		for i, v := range all {
			if math.Float32bits(v) != math.Float32bits(guard) {
				b.Fatalf("column %d between the parts was overwritten with %v", i%total, v)
			}
		}
		b.release()
	}
}

// testLinearNonFinite: a row with a NaN or an infinity gives no finite value, and the other rows are unchanged.
func testLinearNonFinite(b *bench) {
	const rows, n, k = 5, 19, 64
	for _, f := range forms {
		m := b.matrix(f, n, k)
		w := b.load(m)
		x := b.normal(rows * k)
		run := func() []float32 {
			out := b.out(rows, n)
			b.ran(b.d.Linear(device.LinearArgs{X: b.view(x, rows, k), Parts: []device.LinearPart{{W: w, Out: out}}}))
			return b.values(f.String(), out)
		}
		clean := run()
		x[1*k+40], x[3*k+7] = float32(math.NaN()), float32(math.Inf(-1))
		for i, got := range run() {
			if row := i / n; row == 1 || row == 3 {
				if !math.IsNaN(float64(got)) && !math.IsInf(float64(got), 0) {
					b.Errorf("%v: row %d with a NaN or an infinity gives %v", f, row, got)
				}
			} else if math.Float32bits(got) != math.Float32bits(clean[i]) {
				b.Errorf("%v: row %d is changed by a NaN in another row", f, row)
			}
		}
		b.release()
	}
}

func testEmbed(b *bench) {
	for _, f := range forms {
		for _, cols := range []int{1, 33, 64, 160} {
			m := b.matrix(f, 21, cols)
			w := b.load(m)
			scale := []float32{1, float32(math.Sqrt(576))}[b.r.IntN(2)]
			ids := []int32{0, 20, 16, 15, 3, 3, 17}
			want := make([]float32, len(ids)*cols)
			for i, id := range ids {
				m.Row(int(id), want[i*cols:])
			}
			for i := range want {
				want[i] *= scale
			}
			for _, s := range append(b.splits(len(ids)), [2]int{0, len(ids)}, [2]int{0, 0}) {
				out := b.out(s[1]-s[0], cols)
				b.ran(b.d.Embed(device.EmbedArgs{IDs: ids[s[0]:s[1]], Table: w, Scale: scale, Out: out}))
				b.same(name(f, " ids ", ids[s[0]:s[1]]), b.values("embed", out), want[s[0]*cols:s[1]*cols])
			}
			b.release()
		}
	}
}
