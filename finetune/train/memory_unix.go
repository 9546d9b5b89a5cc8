//go:build unix

package train

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// peakRSS returns the peak resident memory of the process, in bytes.
func peakRSS() int64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	if runtime.GOOS == "darwin" {
		return u.Maxrss
	}
	return u.Maxrss << 10
}
