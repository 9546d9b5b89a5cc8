//go:build !cgo

package cpu

import (
	"fmt"
	"time"

	"weft/runtime/device"
)

// New returns device.ErrUnsupported: this program was built without cgo.
func New(Options) (device.Device, error) {
	return nil, fmt.Errorf("cpu: %w: built without cgo, use the ref device", device.ErrUnsupported)
}

// ISAs returns nothing: this program was built without cgo.
func ISAs() []string { return nil }

// MeasureReadBandwidth returns 0: this program was built without cgo.
func MeasureReadBandwidth(threads int, bytes int64, d time.Duration) float64 { return 0 }

// Peaks are zero: this program was built without cgo.
type Peaks struct{ Float, Int8, BF16 float64 }

// MeasurePeaks returns device.ErrUnsupported: this program was built without cgo.
func MeasurePeaks(isa string, threads int, d time.Duration) (Peaks, error) {
	return Peaks{}, fmt.Errorf("cpu: %w: built without cgo", device.ErrUnsupported)
}

// HugePages returns "unknown": this program was built without cgo.
func HugePages() string { return "unknown" }
