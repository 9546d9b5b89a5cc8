//go:build !linux

package durable

import (
	"errors"
	"os"
)

func hidden(string) (*os.File, error) { return nil, errors.ErrUnsupported }

func name(*os.File, string) error { return errors.ErrUnsupported }

func noHidden(error) bool { return true }
