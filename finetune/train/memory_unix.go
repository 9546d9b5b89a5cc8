//go:build unix

package train

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// peakRSS is the largest that the process was, in bytes.
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
