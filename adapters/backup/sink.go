package backup

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"weft/internal/durable"
)

// sink is a backup that is being written.
type sink interface {
	add(name string, size int64, in io.Reader) error
	// commit syncs the backup and renames it to out.
	commit(out string) error
	// close closes the file, also after an error.
	close() error
}

func newText(text []byte) io.Reader { return bytes.NewReader(text) }

// isTar reports whether a backup of that name is a tar file.
func isTar(path string) bool { return strings.HasSuffix(path, ".tar") }

// newSink writes below the folder work, which lies beside out.
func newSink(out, work string) (sink, error) {
	if !isTar(out) {
		return &folder{work: work, dirs: map[string]bool{work: true}}, nil
	}
	f, err := os.OpenFile(filepath.Join(work, "backup.tar"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &tarFile{f, tar.NewWriter(f)}, nil
}

// folder is the work folder itself.
type folder struct {
	work string
	dirs map[string]bool
}

func (d *folder) add(name string, _ int64, in io.Reader) error {
	path := filepath.Join(d.work, filepath.FromSlash(name))
	if name == databaseName { // the database was copied to this path
		if _, err := io.Copy(io.Discard, in); err != nil {
			return err
		}
		return durable.SyncFile(path)
	}
	for dir := filepath.Dir(path); len(dir) > len(d.work); dir = filepath.Dir(dir) {
		d.dirs[dir] = true
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.CreateFrom(path, in, 0o600)
}

func (d *folder) commit(out string) error {
	for dir := range d.dirs {
		if err := durable.SyncDir(dir); err != nil {
			return err
		}
	}
	if err := os.Rename(d.work, out); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(out))
}

func (d *folder) close() error { return nil }

type tarFile struct {
	f *os.File
	w *tar.Writer
}

func (t *tarFile) add(name string, size int64, in io.Reader) error {
	if err := t.w.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o600, Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err := io.Copy(t.w, in)
	return err
}

func (t *tarFile) commit(out string) error {
	if err := errors.Join(t.w.Close(), t.f.Sync()); err != nil {
		return err
	}
	// a link, since a rename would replace the backup that another process wrote meanwhile
	switch err := os.Link(t.f.Name(), out); {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s: %w", out, ErrExists)
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, fs.ErrPermission): // no hard links on this file system
		if err := os.Rename(t.f.Name(), out); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	return durable.SyncDir(filepath.Dir(out))
}

func (t *tarFile) close() error { return t.f.Close() }
