// Package numtest compares numbers so that a comparison can fail: NaN never passes, and an empty or all-zero reference
// is an error.
package numtest

import (
	"fmt"
	"math"
	"testing"
)

// MaxAbs fails unless every |got-want| <= tol. The reference must be finite and not all zero.
func MaxAbs(t testing.TB, what string, got, want []float32, tol float64) {
	t.Helper()
	if err := maxAbs(got, want, tol); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// Equal fails unless got and want are bitwise equal.
func Equal(t testing.TB, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d values, want %d", what, len(got), len(want))
		return
	}
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Errorf("%s: [%d] = %v (%08x), want %v (%08x)", what, i, got[i], math.Float32bits(got[i]), want[i],
				math.Float32bits(want[i]))
			return
		}
	}
}

// RelRMS returns |got-want| / |want| over all values (relative root mean square error); NaN if anything is.
func RelRMS(got, want []float32) float64 {
	if len(got) != len(want) {
		return math.NaN()
	}
	var d, w float64
	for i := range got {
		e := float64(got[i]) - float64(want[i])
		d += e * e
		w += float64(want[i]) * float64(want[i])
	}
	return math.Sqrt(d / w)
}

func maxAbs(got, want []float32, tol float64) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d values, want %d", len(got), len(want))
	}
	if len(want) == 0 {
		return nil
	}
	worst, at, largest := 0.0, -1, 0.0
	for i := range want {
		w := float64(want[i])
		if math.IsNaN(w) || math.IsInf(w, 0) {
			return fmt.Errorf("reference [%d] is %v", i, w)
		}
		largest = max(largest, math.Abs(w))
		e := math.Abs(float64(got[i]) - w)
		if !(e <= worst) {
			worst, at = e, i
		}
	}
	if largest == 0 {
		return fmt.Errorf("the reference is all zero: it proves nothing")
	}
	if !(worst <= tol) {
		return fmt.Errorf("[%d] = %v, want %v: off by %.3g, allowed %.3g", at, got[at], want[at], worst, tol)
	}
	return nil
}
