package peft

import (
	"fmt"
	"math"
	"runtime"
	"sync"

	"weft/quant"
	"weft/runtime/lora"
)

// gain returns DoRA's m / ‖W + scale·BA‖ by rows (Liu et al. 2024, arXiv:2402.09353, eq. 5). Rows are distributed over
// the cores; sums are in float64 and in a fixed order, so that the result does not depend on the number of cores.
func (b *builder) gain(s *site, magnitude stored, m *lora.Module) ([]float32, error) {
	path := s.path
	if path == headPath && b.base.Config().Tied {
		path = embedPath
	}
	name := path + ".weight"
	w, err := b.base.Matrix(name)
	if err != nil {
		return nil, err
	}
	defer b.base.Release(name)
	if w.Rows != s.out || w.Cols != s.in {
		return nil, fmt.Errorf("the base's %s is [%d %d], expected [%d %d]", name, w.Rows, w.Cols, s.out, s.in)
	}
	mag := make([]float64, s.out)
	if err := b.a.addFloats(mag, magnitude, 1); err != nil {
		return nil, err
	}
	norms := rowNorms(w, m)
	out := make([]float32, s.out)
	for i := range out {
		out[i] = float32(mag[i] / norms[i])
		if v := float64(out[i]); math.IsNaN(v) || math.IsInf(v, 0) {
			b.wrong.add("the training diverged: train again with a smaller learning rate",
				"%s: row %d of W + scale·BA has norm %v and magnitude %v", s.path, i, norms[i], mag[i])
			return out, nil
		}
	}
	return out, nil
}

// rowNorms returns ‖W + scale·BA‖ for each row.
func rowNorms(w *quant.Matrix, m *lora.Module) []float64 {
	a, b := matrix(m.A), matrix(m.B)
	rowsA := make([][]float64, a.Rows) // A in float64, read once for all rows
	row := make([]float32, a.Cols)
	for k := range rowsA {
		a.Row(k, row)
		rowsA[k] = make([]float64, a.Cols)
		for j, v := range row {
			rowsA[k][j] = float64(v)
		}
	}
	norms := make([]float64, w.Rows)
	workers := min(runtime.GOMAXPROCS(0), w.Rows)
	var wg sync.WaitGroup
	for n := range workers {
		wg.Go(func() {
			n := normRows{w: w, b: b, a: rowsA, scale: float64(m.Scale), begin: n * w.Rows / workers,
				end: (n + 1) * w.Rows / workers}
			n.run(norms)
		})
	}
	wg.Wait()
	return norms
}

// normRows computes the norms of rows [begin, end).
type normRows struct {
	w, b       *quant.Matrix
	a          [][]float64
	scale      float64
	begin, end int
}

func (n *normRows) run(norms []float64) {
	row, sum := make([]float32, n.w.Cols), make([]float64, n.w.Cols)
	coefficients := make([]float32, n.b.Cols)
	for i := n.begin; i < n.end; i++ {
		n.w.Row(i, row)
		for j, v := range row {
			sum[j] = float64(v)
		}
		n.b.Row(i, coefficients)
		for k, c := range coefficients {
			axpy(sum, n.scale*float64(c), n.a[k])
		}
		var squares float64
		for _, v := range sum {
			squares += v * v
		}
		norms[i] = math.Sqrt(squares)
	}
}

// axpy adds c·x to sum.
func axpy(sum []float64, c float64, x []float64) {
	x = x[:len(sum)]
	for j := range sum {
		sum[j] += c * x[j]
	}
}
