//go:build !race

package invariant

// Race is true where the race detector is on: sync.Pool then drops values, and allocation counts mean nothing.
const Race = false
