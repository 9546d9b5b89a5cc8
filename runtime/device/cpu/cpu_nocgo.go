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

// HugePages returns "unknown": this program was built without cgo.
func HugePages() string { return "unknown" }
