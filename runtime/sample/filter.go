package sample

import (
	"cmp"
	"math"
	"slices"
)

// Top-p looks for its cut in a histogram of mass over the distance below the largest logit, so that only the tokens of
// one bucket are sorted, never the vocabulary.
const (
	buckets        = 256
	bucketsPerUnit = 8
)

// unfiltered reports whether every token of a vocabulary can be drawn.
func (s *Sampler) unfiltered(vocab int) bool {
	return (s.p.TopK <= 0 || s.p.TopK >= vocab) && s.p.TopP >= 1 && s.p.MinP <= 0 && !s.typical()
}

func (s *Sampler) typical() bool { return s.p.TypicalP > 0 && s.p.TypicalP < 1 }

// filter divides by the temperature and fills w.kept with the tokens that pass top-k, typical, top-p and min-p, at
// least one.
// Only distances below the largest logit are divided: with a tiny temperature they become -Inf, never NaN.
func (s *Sampler) filter(w *workspace) {
	floor := math.Inf(-1)
	if k := s.p.TopK; k > 0 && k < len(w.z) {
		floor = w.kthLargest(k)
	}
	if s.typical() {
		w.typical(s.p.TypicalP, s.p.Temperature, floor)
	}
	if s.p.TopP < 1 {
		w.topP(s.p.TopP, s.p.Temperature, floor)
	} else {
		if s.p.MinP > 0 { // slightly below the exact limit, which the masses decide below
			floor = max(floor, w.max+s.p.Temperature*(math.Log(s.p.MinP)-1e-6))
		}
		w.keep(s.p.Temperature, floor)
	}
	if s.p.MinP > 0 {
		kept := w.kept[:0]
		for _, c := range w.kept {
			if c.mass >= s.p.MinP { // the largest mass is exp(0) = 1
				kept = append(kept, c)
			}
		}
		w.kept = kept
	}
}

// keep fills w.kept with the tokens whose logit is at least floor.
func (w *workspace) keep(temperature, floor float64) {
	w.kept = w.kept[:0]
	for i, z := range w.z {
		if z >= floor && !math.IsInf(z, -1) {
			z = (z - w.max) / temperature
			w.kept = append(w.kept, candidate{z: z, id: int32(i), mass: expNeg(z)})
		}
	}
}

// typical makes the tokens impossible that are not typical: those whose surprise -ln(probability) is farther from the
// entropy, its mean, than that of the tokens that are nearest to it and together have the mass p. Equally far tokens
// stay together. The tokens from floor up are counted.
func (w *workspace) typical(p, temperature, floor float64) {
	w.keep(temperature, floor)
	var total, mean float64
	for _, c := range w.kept {
		if c.mass > 0 { // else z may be -Inf
			total += c.mass
			mean += c.mass * c.z
		}
	}
	mean /= total
	// ln(probability) is z - ln(total), so that the distance to the entropy is |z - mean|.
	var hist [buckets]float64
	for _, c := range w.kept {
		hist[bucket(-math.Abs(c.z-mean))] += c.mass
	}
	cut, sum := 0, 0.0
	for cut < buckets-1 && sum+hist[cut] < p*total {
		sum += hist[cut]
		cut++
	}
	edge := w.edge[:0] // its z are distances
	for _, c := range w.kept {
		z := math.Abs(c.z - mean)
		switch b := bucket(-z); {
		case b == cut:
			edge = append(edge, candidate{z: z, mass: c.mass, id: c.id})
		case b > cut:
			w.z[c.id] = math.Inf(-1)
		}
	}
	w.edge = edge
	slices.SortFunc(edge, func(a, b candidate) int { return cmp.Compare(a.z, b.z) })
	n := 0
	for ; n < len(edge)-1; n++ {
		if sum += edge[n].mass; sum >= p*total {
			break
		}
	}
	for _, c := range edge {
		if c.z > edge[n].z {
			w.z[c.id] = math.Inf(-1)
		}
	}
	w.setMax()
}

// kthLargest returns the k-th largest of w.z, counting equal values separately, with a heap of k.
func (w *workspace) kthLargest(k int) float64 {
	h := append(w.heap[:0], w.z[:k]...)
	for i := k/2 - 1; i >= 0; i-- {
		siftDown(h, i)
	}
	for _, z := range w.z[k:] {
		if z > h[0] {
			h[0] = z
			siftDown(h, 0)
		}
	}
	w.heap = h
	return h[0]
}

// siftDown restores the min-heap h below i.
func siftDown(h []float64, i int) {
	for {
		child := 2*i + 1
		if child >= len(h) {
			return
		}
		if child+1 < len(h) && h[child+1] < h[child] {
			child++
		}
		if h[i] <= h[child] {
			return
		}
		h[i], h[child] = h[child], h[i]
		i = child
	}
}

// bucket of a distance z <= 0 below the largest logit.
func bucket(z float64) int { return int(min(-z*bucketsPerUnit, buckets-1)) }

// topP fills w.kept with the tokens from floor up, less those, from the least probable up, whose cumulative mass does
// not exceed 1-p of the whole; among equal ones the higher id is dropped first.
func (w *workspace) topP(p, temperature, floor float64) {
	var hist [buckets]float64
	var total float64
	for _, z := range w.z {
		if z >= floor {
			z = (z - w.max) / temperature
			mass := expNeg(z)
			hist[bucket(z)] += mass
			total += mass
		}
	}
	limit := (1 - p) * total
	cut, tail := buckets-1, 0.0
	for cut > 0 && tail+hist[cut] <= limit {
		tail += hist[cut]
		cut--
	}
	kept, edge := w.kept[:0], w.edge[:0]
	// nothing below can be in the bucket cut
	least := max(floor, w.max-temperature*(float64(cut+1)/bucketsPerUnit+1e-6))
	if cut == buckets-1 {
		least = floor
	}
	for i, z := range w.z {
		if z < least || math.IsInf(z, -1) {
			continue
		}
		z = (z - w.max) / temperature
		c := candidate{z: z, id: int32(i), mass: expNeg(z)}
		switch b := bucket(z); {
		case b < cut:
			kept = append(kept, c)
		case b == cut:
			edge = append(edge, c)
		}
	}
	slices.SortFunc(edge, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.z, a.z), cmp.Compare(a.id, b.id))
	})
	w.edge = edge
	for n := len(edge) - 1; n >= 0; n-- {
		if len(kept) == 0 && n == 0 {
			break // always keep one
		}
		if tail += edge[n].mass; tail > limit {
			break
		}
		edge = edge[:n]
	}
	w.kept = append(kept, edge...)
}
