//go:build unix

package train

import (
	"bytes"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// peakRSS returns the peak resident memory of the process, in bytes. On Linux getrusage's would contain that of the
// process that started this one.
func peakRSS() int64 {
	if text, err := os.ReadFile("/proc/self/status"); err == nil {
		_, rest, _ := bytes.Cut(text, []byte("\nVmHWM:"))
		if fields := bytes.Fields(rest); len(fields) > 0 {
			if n, err := strconv.ParseInt(string(fields[0]), 10, 64); err == nil {
				return n << 10
			}
		}
	}
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	if runtime.GOOS == "darwin" {
		return u.Maxrss
	}
	return u.Maxrss << 10
}
