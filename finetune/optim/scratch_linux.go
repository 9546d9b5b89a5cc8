package optim

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

func reserve(f *os.File, bytes int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, bytes)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return writeZeros(f, bytes)
	}
	return err
}
