//go:build !cgo

package bench

import "weft/internal/limits"

// ReadBandwidth measures the bytes a second that the threads can read from memory; 0 where this build cannot.
func ReadBandwidth(int, limits.Limits) float64 { return 0 }
