package adapters

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// polite gives the calling goroutine less of the cores than the threads that compute tokens. It keeps its thread to
// itself; both end together.
func polite() {
	runtime.LockOSThread()
	const nice = 10                                              // a tenth of the share of a thread that computes
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), nice) // of this thread; advice only
}
