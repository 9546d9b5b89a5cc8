package durable

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
)

// Scratch opens a new file in dir that has no name any more: the system removes it when it is closed, also by a kill.
func Scratch(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".weft-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Draft is a file that is written before it has its name. Where the file system allows it, it has no name at all until
// then, so that nothing remains of it after a kill.
type Draft struct {
	*os.File
	path, temporary string // temporary is "" while it has no name
}

// NewDraft opens a draft of the file at path.
func NewDraft(path string) (*Draft, error) { return NewDraftIn(filepath.Dir(path), path) }

// NewDraftIn opens a draft in the folder dir of a file at a path whose folder, in the same file system, need not exist
// yet.
func NewDraftIn(dir, path string) (*Draft, error) {
	f, err := hidden(dir)
	if err == nil {
		return &Draft{File: f, path: path}, nil
	}
	if !noHidden(err) {
		return nil, err
	}
	if f, err = os.CreateTemp(dir, "."+filepath.Base(path)+".*"); err != nil {
		return nil, err
	}
	return &Draft{File: f, path: path, temporary: f.Name()}, nil
}

// Publish syncs the draft, closes it and gives it its name, in place of an older file. After an error the older file is
// as it was. The folder is not synced: a caller that writes several files syncs it once.
func (d *Draft) Publish() error { return d.PublishAs(d.path) }

// PublishAs is Publish under another path.
func (d *Draft) PublishAs(path string) error {
	d.path = path
	err := errors.Join(d.Chmod(0o644), d.Sync())
	if err == nil && d.temporary == "" {
		d.temporary = filepath.Join(filepath.Dir(d.path), "."+filepath.Base(d.path)+"."+rand.Text())
		err = name(d.File, d.temporary)
	}
	if err = errors.Join(err, d.Close()); err == nil {
		err = os.Rename(d.temporary, d.path)
	}
	if err != nil {
		return errors.Join(err, d.Discard())
	}
	d.temporary = ""
	return nil
}

// Discard closes the draft and removes it. After Publish it does nothing.
func (d *Draft) Discard() error {
	err := d.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	if d.temporary != "" {
		if gone := os.Remove(d.temporary); !errors.Is(gone, os.ErrNotExist) {
			err = errors.Join(err, gone)
		}
		d.temporary = ""
	}
	return err
}
