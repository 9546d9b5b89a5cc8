// Package durable writes files that survive a crash, and digests files: a reader sees the old file or the whole new
// one, never a part.
package durable

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// Replace puts what fill writes in the place of path: a temporary file in the same folder, synced, renamed, and the
// folder synced. An older file stands until the new one is whole; after an error the temporary file is gone.
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
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// SyncDir makes the names in a folder durable. File systems that cannot sync a folder are no error.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, d.Close())
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
