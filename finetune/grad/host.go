package grad

import (
	"math/bits"
	"runtime"
	"sync"

	"weft/internal/rng"
	"weft/runtime/device"
)

// row is one row of a view; results of recorded operations are in it after Sync.
func row(v device.View, i int) []float32 {
	return floats(v.Buf)[v.Offset+int64(i)*int64(v.Stride):][:v.Cols]
}

// rows calls f for every row in turn.
func rows(v device.View, f func(i int, r []float32)) {
	for i := range v.Rows {
		f(i, row(v, i))
	}
}

// parallel calls f for disjoint ranges of [0, n), on all processors.
func parallel(n int, f func(begin, end int)) {
	workers := min(runtime.GOMAXPROCS(0), n)
	if workers <= 1 {
		f(0, n)
		return
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() { f(w*n/workers, (w+1)*n/workers) })
	}
	wg.Wait()
}

func add(to, from []float32) {
	for i, v := range from[:len(to)] {
		to[i] += v
	}
}

func copyRows(to, from device.View) {
	for i := range from.Rows {
		copy(row(to, i), row(from, i))
	}
}

func zero(v device.View) {
	for i := range v.Rows {
		clear(row(v, i))
	}
}

// uniform returns a value in [0, 2³²) computed from a seed and a position, the same on every machine.
func uniform(seed, place uint64) uint32 {
	z := seed ^ bits.RotateLeft64(place*rng.Golden, 32) + place*0xbf58476d1ce4e5b9
	return uint32(rng.Mix(z) >> 32)
}

// drop returns the dropout probability of a layer's LoRA input: 0 without training.
func (m *Model) drop(l *linear) float32 {
	if !m.training || l.lora == nil {
		return 0
	}
	return l.lora.Dropout
}

// dropped returns the LoRA input of a layer: x itself, or a copy with dropout applied.
func (m *Model) dropped(x device.View, l *linear) (device.View, error) {
	if m.drop(l) == 0 {
		return x, nil
	}
	if err := m.dev.Sync(); err != nil {
		return x, err
	}
	out := view(m.dropBuf, x.Rows, x.Cols)
	m.mask(l, out, x)
	return out, nil
}

// mask writes from to out with the layer's dropout: a function of the seed, the micro-batch, the layer and the position
// only.
func (m *Model) mask(l *linear, out, from device.View) {
	p := m.drop(l)
	limit, keep := uint32(float64(p)*(1<<32)), 1/(1-p)
	seed := m.seed ^ uint64(l.index+1)*0x94d049bb133111eb
	parallel(from.Rows, func(begin, end int) {
		for i := begin; i < end; i++ {
			in, to := row(from, i), row(out, i)
			for j, v := range in {
				if uniform(seed, uint64(l.firstRow+i)<<32|uint64(j)) < limit {
					to[j] = 0
				} else {
					to[j] = v * keep
				}
			}
		}
	})
}
