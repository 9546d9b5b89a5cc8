//go:build race

package invariant

// Race says that the race detector is on, under which sync.Pool forgets and allocation counts mean nothing.
const Race = true
