//go:build cgo

package bench

import "weft/runtime/device/cpu"

// ReadBandwidth measures the bytes a second that the threads can read from memory; 0 where this build cannot.
func ReadBandwidth(threads int) float64 {
	return cpu.MeasureReadBandwidth(threads, 256<<20, bandwidthTime) * 1e9
}
