//go:build !unix

package train

import (
	"fmt"
	"os"
)

// lockFile creates the file or fails if it exists.
func lockFile(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o666)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: remove the file if no run is under way", path, ErrBusy)
	}
	return func() { f.Close(); os.Remove(path) }, nil
}
