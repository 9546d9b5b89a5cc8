package rng

import (
	"math"
	"testing"
)

// The first outputs of SplitMix64 for seed 1234567, as published with the reference implementation.
func TestEqualsReference(t *testing.T) {
	s := New(1234567)
	for i, want := range []uint64{6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431,
		16408922859458223821} {
		if got := s.Uint64(); got != want {
			t.Errorf("output %d is %d, want %d", i, got, want)
		}
	}
}

func TestStreamsDiffer(t *testing.T) {
	seen := map[uint64]bool{}
	for _, s := range []*Source{New(1), New(2), New(1, 0), New(1, 1), New(1, 0, 0), New(1, 0, 1), New(1, 1, 0)} {
		seen[s.Uint64()] = true
	}
	if len(seen) != 7 {
		t.Errorf("%d different first outputs of 7 streams", len(seen))
	}
}

func TestDistributions(t *testing.T) {
	const n = 1 << 16
	s, counts := New(3), [5]int{}
	var sum, squares float64
	for range n {
		counts[s.Below(5)]++
		if u := s.Float64(); u < 0 || u >= 1 {
			t.Fatalf("%v lies outside of [0, 1)", u)
		}
		v := s.Normal()
		sum, squares = sum+v, squares+v*v
	}
	for i, c := range counts {
		if math.Abs(float64(c)-n/5) > 5*math.Sqrt(n/5) {
			t.Errorf("%d came %d times of %d", i, c, n)
		}
	}
	if mean, variance := sum/n, squares/n; math.Abs(mean) > 5/math.Sqrt(n) || math.Abs(variance-1) > 0.05 {
		t.Errorf("mean %v, variance %v", mean, variance)
	}
}
