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

// FolderBlobs keeps blobs as files ROOT/ab/abcdef…, written elsewhere and renamed into place.
type FolderBlobs struct{ root string }

// NewFolderBlobs returns the blob store in the folder root, which is created at the first Put.
func NewFolderBlobs(root string) *FolderBlobs { return &FolderBlobs{root} }

func (b *FolderBlobs) path(digest string) string {
	return filepath.Join(b.root, digest[:2], digest)
}

// Put renames path into place. An existing blob is replaced, so that adding an adapter again repairs a damaged one.
func (b *FolderBlobs) Put(_ context.Context, digest, path string) error {
	to := b.path(digest)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o400); err != nil {
		return err
	}
	if err := os.Rename(path, to); err != nil {
		return err
	}
	return errors.Join(durable.SyncDir(filepath.Dir(to)), durable.SyncDir(b.root))
}

// Open opens a blob's file.
func (b *FolderBlobs) Open(_ context.Context, digest string) (io.ReadCloser, error) {
	return os.Open(b.path(digest))
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
		err := filepath.WalkDir(b.root, func(path string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil // nothing stored yet, or deleted meanwhile
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
