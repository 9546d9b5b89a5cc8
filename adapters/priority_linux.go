package adapters

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// lowerPriority locks the calling goroutine to its thread and gives that thread a lower priority than the threads that
// compute tokens. The thread ends with the goroutine.
func lowerPriority() {
	runtime.LockOSThread()
	const nice = 10                                              // a tenth of the CPU time of a thread that computes
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), nice) // of this thread only; an error is ignored
}
