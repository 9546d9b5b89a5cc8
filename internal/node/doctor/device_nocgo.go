//go:build !cgo

package doctor

import "weft/internal/limits"

func examineDevice(limits.Limits) []Check {
	return []Check{{What: "device", Found: "ref: pure Go, this build has no cgo",
		Advice: "build with a C compiler (make setup) for the cpu device"}}
}
