package compare

import (
	"os/exec"
	"syscall"
)

const stopSignal = syscall.SIGTERM

// separate keeps a terminal's Ctrl-C from the child, which is asked to stop once, by this process; a child whose parent
// was killed stops too.
func separate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
