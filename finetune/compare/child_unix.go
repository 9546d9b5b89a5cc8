//go:build unix && !linux

package compare

import (
	"os/exec"
	"syscall"
)

const stopSignal = syscall.SIGTERM

// separate keeps a terminal's Ctrl-C from the child, which is asked to stop once, by this process.
func separate(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
