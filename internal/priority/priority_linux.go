// Package priority lets work wait for the threads that compute tokens.
package priority

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Lower locks the calling goroutine to its thread and gives that thread a lower priority than the threads that
// compute tokens. The thread ends with the goroutine.
func Lower() {
	runtime.LockOSThread()
	const nice = 10                                              // a tenth of the CPU time of a thread that computes
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), nice) // of this thread only; an error is ignored
}
