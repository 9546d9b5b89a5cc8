//go:build unix && !linux

package optim

import "os"

func reserve(f *os.File, bytes int64) error { return writeZeros(f, bytes) }
