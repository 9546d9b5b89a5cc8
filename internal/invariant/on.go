//go:build invariants || race

package invariant

import "fmt"

// Enabled says whether checks run.
const Enabled = true

// Check panics unless ok.
func Check(ok bool, format string, args ...any) {
	if !ok {
		panic("invariant: " + fmt.Sprintf(format, args...))
	}
}
