//go:build unix

package optim

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mapScratch maps a new file of the given size in dir. Its blocks are reserved before use, so that a full disk is an
// error here and does not end the process later; the file's name is removed before this returns.
func mapScratch(dir string, bytes int) ([]byte, func() error, error) {
	f, err := os.CreateTemp(dir, ".weft-optimizer-*")
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return nil, nil, err
	}
	if err := reserve(f, int64(bytes)); err != nil {
		return nil, nil, fmt.Errorf("reserve %d bytes in %s: %w", bytes, dir, err)
	}
	data, err := unix.Mmap(int(f.Fd()), 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, err
	}
	return data, func() error { return unix.Munmap(data) }, nil
}

// writeZeros reserves space if the file system has no call for it.
func writeZeros(f *os.File, bytes int64) error {
	zeros := make([]byte, 1<<20)
	var errs error
	for at := int64(0); at < bytes && errs == nil; at += int64(len(zeros)) {
		_, err := f.WriteAt(zeros[:min(int64(len(zeros)), bytes-at)], at)
		errs = errors.Join(errs, err)
	}
	return errs
}
