package adapters

import (
	"syscall"
	"testing"
)

// mountSmall mounts a file system of 2 MiB at dir until the test ends.
func mountSmall(t *testing.T, dir string) error {
	if err := syscall.Mount("weft-test", dir, "tmpfs", 0, "size=2m"); err != nil {
		return err
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return nil
}
