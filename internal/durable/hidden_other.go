//go:build !linux

package durable

import (
	"errors"
	"os"
)

func hidden(string) (*os.File, error) { return nil, errors.ErrUnsupported }

func name(*os.File, string) error { return errors.ErrUnsupported }

func noHidden(error) bool { return true }

// Release gives the space of n bytes of a file back to the system, where the file system can.
func Release(*os.File, int64, int64) error { return nil }
