//go:build !unix

package durable

import (
	"fmt"
	"os"
)

// Lock creates the file or fails if it exists.
func Lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o666)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: remove the file if no program works there", path, ErrLocked)
	}
	return func() { f.Close(); os.Remove(path) }, nil
}
