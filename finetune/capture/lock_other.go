//go:build !unix

package capture

import (
	"errors"
	"os"
)

// lock is refused: without locks that end with a process, two could write one segment.
func lock(string) (*os.File, error) { return nil, errors.ErrUnsupported }
