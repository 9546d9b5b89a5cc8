//go:build !cgo

package bench

// ReadBandwidth measures the bytes a second that the threads can read from memory; 0 where this build cannot.
func ReadBandwidth(int) float64 { return 0 }
