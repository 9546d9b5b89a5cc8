//go:build unix

package weights

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func mapFile(f *os.File, size int) ([]byte, func() error, error) {
	data, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, err
	}
	return data, func() error { return unix.Munmap(data) }, nil
}

// forget releases the whole pages within data: they stay in the system's file cache and are mapped again on use.
func forget(data []byte) {
	page := uintptr(os.Getpagesize())
	at := uintptr(unsafe.Pointer(unsafe.SliceData(data)))
	skip := (page - at%page) % page
	if n := uintptr(len(data)); n > skip {
		if n = (n - skip) / page * page; n > 0 {
			_ = unix.Madvise(data[skip:skip+n], unix.MADV_DONTNEED) // advice only
		}
	}
}
