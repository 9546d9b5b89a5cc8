//go:build cgo

package bench

import (
	"weft/internal/limits"
	"weft/runtime/device/cpu"
)

// ReadBandwidth measures the bytes a second that the threads can read from memory; 0 where this build cannot, or where
// l leaves less than twice the memory that this takes.
func ReadBandwidth(threads int, l limits.Limits) float64 {
	const bytes = 256 << 20 // beyond the caches
	if l.Memory < 2*bytes {
		return 0
	}
	return cpu.MeasureReadBandwidth(threads, bytes, bandwidthTime) * 1e9
}
