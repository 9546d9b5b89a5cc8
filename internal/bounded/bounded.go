// Package bounded reads files and streams into memory, up to a limit.
package bounded

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Errors; test with errors.Is. Their texts name the limit and the file, without its folder.
var (
	ErrTooLong    = errors.New("too long")
	ErrNotRegular = errors.New("not a regular file")
)

// Read returns all of r, which may have at most limit bytes, else ErrTooLong.
func Read(r io.Reader, limit int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(text)) > limit {
		return nil, tooLong(limit)
	}
	return text, err
}

func tooLong(limit int64) error { return fmt.Errorf("%w: more than %d bytes", ErrTooLong, limit) }

// ReadFile returns a file of at most limit bytes. It follows links and refuses everything but regular files: opening a
// named pipe would wait for a writer. ErrTooLong, ErrNotRegular, or os.Open's error.
func ReadFile(path string, limit int64) ([]byte, error) { return read(path, limit, os.Stat) }

// ReadFileNoLink is ReadFile, except that a symbolic link is ErrNotRegular: for folders from untrusted sources.
func ReadFileNoLink(path string, limit int64) ([]byte, error) { return read(path, limit, os.Lstat) }

func read(path string, limit int64, stat func(string) (os.FileInfo, error)) ([]byte, error) {
	info, err := stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", filepath.Base(path), ErrNotRegular)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	err = tooLong(limit)
	if info.Size() <= limit { // else it is too long without reading it
		var text []byte
		if text, err = Read(f, limit); err == nil {
			return text, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
}
