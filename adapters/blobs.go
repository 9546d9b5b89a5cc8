package adapters

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"weft/internal/bounded"
	"weft/internal/durable"
)

// Blobs stores files under the SHA-256 of their bytes. Implementations are safe for concurrent use, also by several
// processes.
type Blobs interface {
	// Put stores the file at path, which has that digest and is synced; it may move the file. A blob that exists is no
	// error.
	Put(ctx context.Context, digest, path string) error
	// Open reads a blob; fs.ErrNotExist where there is none. The caller checks the digest of what it reads.
	Open(ctx context.Context, digest string) (io.ReadCloser, error)
	// Delete removes a blob; an absent one is no error.
	Delete(ctx context.Context, digest string) error
	// All lists the blobs.
	All(ctx context.Context) iter.Seq2[Blob, error]
	// Owner returns the identity of the database to which the store belongs, "" for none.
	Owner(ctx context.Context) (string, error)
	// SetOwner replaces it.
	SetOwner(ctx context.Context, identity string) error
}

// ownerName is the name of the file or object with the owner's identity, and maxOwner the most bytes of it.
const (
	ownerName = "weft-database"
	maxOwner  = 256
)

// Blob is an entry of a blob store.
type Blob struct {
	Digest string
	Bytes  int64
}

// linker is a blob store on the same file system as the data directory, so that a version's folder needs no second
// copy.
type linker interface {
	Link(digest, path string) error
}

// cleaner is a blob store in which a Put that is killed leaves a file that is no blob.
type cleaner interface {
	// Clean removes such files from before a time.
	Clean(before time.Time) error
}

// FolderBlobs keeps blobs as files ROOT/ab/abcdef…, written elsewhere and renamed into place. ROOT may be a link,
// also to another disk.
type FolderBlobs struct {
	root   string
	rename func(from, to string) error // os.Rename
}

// NewFolderBlobs returns the blob store in the folder root, which is created at the first Put.
func NewFolderBlobs(root string) *FolderBlobs { return &FolderBlobs{root, os.Rename} }

func (b *FolderBlobs) path(digest string) string {
	return filepath.Join(b.root, digest[:2], digest)
}

// errNoFolder says that the whole store is missing, as where its disk is not mounted: its blobs are not lost.
var errNoFolder = errors.New("the folder of the adapters' files is missing")

// Put renames path into place, or copies it from another disk. An existing blob is replaced, so that adding an adapter
// again repairs a damaged one.
func (b *FolderBlobs) Put(ctx context.Context, digest, path string) error {
	to := b.path(digest)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o400); err != nil {
		return err
	}
	err := b.rename(path, to)
	if errors.Is(err, syscall.EXDEV) {
		err = copyTo(ctx, path, to)
	}
	if err != nil {
		return err
	}
	return errors.Join(durable.SyncDir(filepath.Dir(to)), durable.SyncDir(b.root))
}

// copyTo replaces the blob at to with a copy of the file at path.
func copyTo(ctx context.Context, path, to string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	err = durable.Replace(to, func(w io.Writer) error {
		_, err := io.Copy(w, durable.Reader(ctx, in))
		return err
	})
	if err != nil {
		return err
	}
	return os.Chmod(to, 0o400)
}

// Clean removes copies that were not finished.
func (b *FolderBlobs) Clean(before time.Time) error {
	copies, err := filepath.Glob(filepath.Join(b.root, "??", ".*"))
	for _, path := range copies {
		if st, e := os.Lstat(path); e == nil && st.ModTime().Before(before) {
			err = errors.Join(err, os.Remove(path))
		}
	}
	return err
}

// Open opens a blob's file.
func (b *FolderBlobs) Open(_ context.Context, digest string) (io.ReadCloser, error) {
	f, err := os.Open(b.path(digest))
	if errors.Is(err, fs.ErrNotExist) {
		if _, gone := os.Stat(b.root); gone != nil {
			return nil, errNoFolder
		}
	}
	return f, err
}

// Link makes path a hard link to a blob.
func (b *FolderBlobs) Link(digest, path string) error { return os.Link(b.path(digest), path) }

// Delete removes a blob's file.
func (b *FolderBlobs) Delete(_ context.Context, digest string) error {
	if err := os.Remove(b.path(digest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// All walks the folder; files that are not blobs are skipped.
func (b *FolderBlobs) All(ctx context.Context) iter.Seq2[Blob, error] {
	return func(yield func(Blob, error) bool) {
		root, err := filepath.EvalSymlinks(b.root) // WalkDir follows no link
		if errors.Is(err, fs.ErrNotExist) {
			return // nothing stored yet
		}
		if err != nil {
			yield(Blob{}, fmt.Errorf("list blobs: %w", err))
			return
		}
		err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil // deleted meanwhile
			case err != nil:
				return err
			case ctx.Err() != nil:
				return ctx.Err()
			case !d.Type().IsRegular() || len(d.Name()) != 64 || !isDigestPrefix(d.Name()):
				return nil
			}
			info, err := d.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if !yield(Blob{Digest: d.Name(), Bytes: info.Size()}, nil) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield(Blob{}, fmt.Errorf("list blobs: %w", err))
		}
	}
}

// Owner reads ROOT/weft-database.
func (b *FolderBlobs) Owner(context.Context) (string, error) {
	text, err := bounded.ReadFileNoLink(filepath.Join(b.root, ownerName), maxOwner)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(text)), err
}

// SetOwner writes ROOT/weft-database.
func (b *FolderBlobs) SetOwner(_ context.Context, identity string) error {
	if err := os.MkdirAll(b.root, 0o700); err != nil {
		return err
	}
	return durable.Replace(filepath.Join(b.root, ownerName), func(w io.Writer) error {
		_, err := io.WriteString(w, identity+"\n")
		return err
	})
}
