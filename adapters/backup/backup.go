// Package backup copies the database of tenants, keys, usage and adapters, and the adapters' files, to one folder or
// tar file. The copy is consistent while servers run, and can be restored into another kind of store. A backup contains
// manifest.json, weft.db (always a SQLite database) and blobs/ab/abcdef… (the adapters' files by their SHA-256), and
// nothing of what was captured. The manifest has the size and SHA-256 of every other file.
package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"weft/adapters"
	"weft/internal/durable"
	"weft/internal/names"
	"weft/internal/store"
)

// Errors of this package; test with errors.Is.
var (
	// ErrDamaged says that a backup is incomplete or does not match its manifest.
	ErrDamaged = errors.New("the backup is damaged")
	// ErrExists says that the operation would overwrite existing files or rows.
	ErrExists = errors.New("exists already")
)

// Store is the store to back up or to restore into.
type Store struct {
	DB    *store.DB
	Blobs adapters.Blobs
	Dir   string // the data directory
}

func (s *Store) registry() (*adapters.Registry, error) {
	return adapters.NewRegistry(adapters.RegistryConfig{DB: s.DB, Blobs: s.Blobs, Dir: s.Dir})
}

// File is a file of a backup.
type File struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Manifest lists the files of a backup.
type Manifest struct {
	Format  int       `json:"format"`
	Weft    string    `json:"weft"`    // version of the program that wrote it
	Created time.Time `json:"created"` // when the database was copied
	Schema  int64     `json:"schema"`  // of the database
	Files   []File    `json:"files"`   // weft.db first, then the blobs
}

// Bytes returns the bytes of all files.
func (m *Manifest) Bytes() int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Bytes
	}
	return n
}

const (
	format       = 1
	manifestName = "manifest.json"
	databaseName = "weft.db"
	// renewEvery is how often the hold of the files, which lasts an hour, is renewed.
	renewEvery = 5 * time.Minute
	// attempts is how often a backup is tried where a file was removed in the meantime.
	attempts = 3
)

// transient are the tables that are not copied: the claims of uploads and backups in progress, and what belongs to one
// store of files. What was captured is not in a backup, so that what is forgotten is not kept there.
var transient = []string{"adapter_claims", "adapter_store", "adapter_garbage", "capture_keys", "capture_segments",
	"capture_records", "capture_prefixes", "capture_feedback", "capture_forgotten", "capture_places"}

func blobName(digest string) string { return "blobs/" + digest[:2] + "/" + digest }

// Write writes a backup to out, which must not exist: a tar file where the name ends in .tar, else a folder. The backup
// gets this name when it is complete and synced. ErrExists; adapters.ErrCorrupt where a file of the store is missing or
// damaged.
func Write(ctx context.Context, s Store, out, version string) (m Manifest, err error) {
	if _, err := os.Lstat(out); err == nil {
		return m, fmt.Errorf("%s: %w", out, ErrExists)
	}
	r, err := s.registry()
	if err != nil {
		return m, err
	}
	for i := 1; ; i++ {
		m, err = write(ctx, s, r, out, version)
		if i == attempts || !errors.Is(err, errGone) {
			return m, err
		}
	}
}

// errGone says that a blob that the copied database names is missing. Its adapter was removed between the copy of the
// database and the hold, or the store has lost it.
var errGone = fmt.Errorf("%w: a file of an adapter is missing", adapters.ErrCorrupt)

func write(ctx context.Context, s Store, r *adapters.Registry, out, version string) (m Manifest, err error) {
	work, err := os.MkdirTemp(filepath.Dir(out), filepath.Base(out)+".partial-*")
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	// Hold the existing files, copy the rows, then hold the files that were added in between.
	hold, err := r.Hold(ctx)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, hold.Release(context.WithoutCancel(ctx))) }()
	defer renew(ctx, hold)()
	db := filepath.Join(work, databaseName)
	m = Manifest{Format: format, Weft: version, Created: time.Now().UTC()}
	if m.Schema, err = s.DB.Version(ctx); err != nil {
		return m, err
	}
	if err := s.DB.CopyTo(ctx, db, transient...); err != nil {
		return m, fmt.Errorf("copy the database: %w", err)
	}
	blobs, err := storedFiles(ctx, db)
	if err != nil {
		return m, err
	}
	first, err := describe(ctx, db)
	if err != nil {
		return m, err
	}
	m.Files = []File{first}
	for _, b := range blobs {
		m.Files = append(m.Files, File{blobName(b.Digest), b.Bytes, b.Digest})
	}
	if err := hold.Add(ctx, digests(m.Files[1:])...); err != nil {
		return m, err
	}
	to, err := newSink(out, work)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, to.close()) }()
	if err := writeFiles(ctx, s, m, db, blobs, to); err != nil {
		return m, err
	}
	return m, to.commit(out)
}

// renew renews a hold until the function that it returns is called.
func renew(ctx context.Context, hold *adapters.Hold) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(renewEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				_ = hold.Renew(ctx) // tried again; if a file is removed nevertheless, reading it fails
			}
		}
	}()
	return func() { cancel(); <-done }
}

// storedFiles lists the blobs that a copied database names.
func storedFiles(ctx context.Context, path string) (files []adapters.File, err error) {
	db, err := store.OpenExisting(ctx, path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return adapters.StoredFiles(ctx, db)
}

func digests(files []File) []string {
	out := make([]string, len(files))
	for i, f := range files {
		out[i] = f.SHA256
	}
	return out
}

// describe returns a file's size and SHA-256.
func describe(ctx context.Context, path string) (File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return File{}, err
	}
	sum, err := durable.SHA256(ctx, path)
	return File{filepath.Base(path), st.Size(), sum}, err
}

func writeFiles(ctx context.Context, s Store, m Manifest, db string, blobs []adapters.File, to sink) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := to.add(manifestName, int64(len(text)), newText(text)); err != nil {
		return err
	}
	in, err := os.Open(db)
	if err != nil {
		return err
	}
	if err := errors.Join(to.add(databaseName, m.Files[0].Bytes, check(ctx, in, m.Files[0])), in.Close()); err != nil {
		return err
	}
	for i, b := range blobs {
		in, err := s.Blobs.Open(ctx, b.Digest)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %s: add the adapter again or remove it", errGone, names.Quote(b.Name))
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", names.Quote(b.Name), err)
		}
		f := m.Files[i+1]
		err = errors.Join(to.add(f.Name, f.Bytes, check(ctx, in, f)), in.Close())
		if errors.Is(err, ErrDamaged) {
			return fmt.Errorf("%w: %s: add the adapter again or remove it", adapters.ErrCorrupt, names.Quote(b.Name))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checked reads a file and returns ErrDamaged in the place of io.EOF where its length or digest is wrong.
type checked struct {
	ctx  context.Context //nolint:containedctx // of the one copy that it reads
	in   io.Reader
	want File
	sum  hash.Hash
	n    int64
}

func check(ctx context.Context, in io.Reader, want File) *checked {
	return &checked{ctx: ctx, in: in, want: want, sum: sha256.New()}
}

func (c *checked) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.in.Read(p)
	c.sum.Write(p[:n])
	c.n += int64(n)
	switch {
	case c.n > c.want.Bytes:
		return 0, fmt.Errorf("%w: %s is longer than the %d bytes that it should have", ErrDamaged, c.want.Name,
			c.want.Bytes)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF) && c.n < c.want.Bytes:
		return n, fmt.Errorf("%w: %s ends after %d of %d bytes", ErrDamaged, c.want.Name, c.n, c.want.Bytes)
	case errors.Is(err, io.EOF) && hex.EncodeToString(c.sum.Sum(nil)) != c.want.SHA256:
		return n, fmt.Errorf("%w: %s has SHA-256 %x, not %s", ErrDamaged, c.want.Name, c.sum.Sum(nil), c.want.SHA256)
	}
	return n, err
}
