// Package durable writes files so that after a crash a reader sees the old file or the complete new one, and computes
// digests of files.
package durable

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// ErrLocked says that another process has the lock.
var ErrLocked = errors.New("another process has the lock")

// Replace replaces the file at path with what fill writes: it writes a temporary file in the same folder, syncs and
// renames it, and syncs the folder. Until then an older file stays; after an error the temporary file is removed.
func Replace(path string, fill func(w io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it has been renamed
	err = fill(f)
	if err == nil {
		err = errors.Join(f.Chmod(0o644), f.Sync())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Create writes a new file and syncs it; a file that exists is an error. The folder is not synced: a caller that
// writes several files syncs it once.
func Create(path string, data []byte, mode os.FileMode) error {
	return CreateFrom(path, bytes.NewReader(data), mode)
}

// CreateFrom is Create with the bytes of r. After an error of r the file may exist, without all of them.
func CreateFrom(path string, r io.Reader, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err = io.Copy(f, r); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// SyncFile writes a file's data to the disk.
func SyncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// SyncDir makes the names in a folder durable. File systems that cannot sync a folder are no error.
func SyncDir(dir string) error {
	err := SyncFile(dir)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

// SHA256 returns the hexadecimal SHA-256 of the bytes of the files, one after the other. It ends with ctx.
func SHA256(ctx context.Context, paths ...string) (string, error) {
	h := sha256.New()
	for _, path := range paths {
		in, err := os.Open(path)
		if err != nil {
			return "", err
		}
		_, err = io.Copy(h, Reader(ctx, in))
		if err = errors.Join(err, in.Close()); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Reader returns a reader of r that fails with the context's error once ctx ends.
func Reader(ctx context.Context, r io.Reader) io.Reader { return &reader{ctx.Err, r} }

type reader struct {
	ended func() error
	r     io.Reader
}

func (c *reader) Read(p []byte) (int, error) {
	if err := c.ended(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
