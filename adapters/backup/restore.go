package backup

import (
	"archive/tar"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"weft/adapters"
	"weft/internal/durable"
	"weft/internal/names"
	"weft/internal/store"
)

// maxManifest limits the manifest, which has about 200 bytes per file.
const maxManifest = 256 << 20

// walk reads a backup and calls with for every file but the manifest: in the manifest's order for a folder, in the
// archive's for a tar. The readers check the files against the manifest. ErrDamaged where a file is missing, unknown or
// damaged.
func walk(ctx context.Context, path string, with func(f File, in io.Reader) error) (m Manifest, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return m, err
	}
	file, err := os.Open(path)
	if err != nil {
		return m, err
	}
	defer file.Close()
	if st.IsDir() {
		return walkFolder(ctx, path, with)
	}
	return walkTar(ctx, tar.NewReader(file), with)
}

func walkFolder(ctx context.Context, path string, with func(f File, in io.Reader) error) (m Manifest, err error) {
	text, err := os.Open(filepath.Join(path, manifestName))
	if err != nil {
		return m, fmt.Errorf("%w: %s has no %s: it is not a backup, or not a complete one", ErrDamaged, path,
			manifestName)
	}
	defer text.Close()
	if m, err = readManifest(text); err != nil {
		return m, err
	}
	for _, f := range m.Files {
		in, err := os.Open(filepath.Join(path, filepath.FromSlash(f.Name)))
		if errors.Is(err, fs.ErrNotExist) {
			return m, fmt.Errorf("%w: %s is missing", ErrDamaged, f.Name)
		}
		if err != nil {
			return m, err
		}
		if err := errors.Join(read(ctx, f, in, with), in.Close()); err != nil {
			return m, err
		}
	}
	return m, nil
}

func walkTar(ctx context.Context, in *tar.Reader, with func(f File, in io.Reader) error) (m Manifest, err error) {
	head, err := in.Next()
	if err != nil || head.Name != manifestName {
		return m, fmt.Errorf("%w: it does not begin with %s: it is not a tar file of weft backup, or was cut off",
			ErrDamaged, manifestName)
	}
	if m, err = readManifest(in); err != nil {
		return m, err
	}
	left := make(map[string]File, len(m.Files))
	for _, f := range m.Files {
		left[f.Name] = f
	}
	for {
		head, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return m, fmt.Errorf("%w: it is cut off or not a tar file: %w", ErrDamaged, err)
		}
		f, ok := left[head.Name]
		if !ok || head.Typeflag != tar.TypeReg {
			return m, fmt.Errorf("%w: it contains %s, which its manifest does not name", ErrDamaged,
				names.Quote(head.Name))
		}
		delete(left, head.Name)
		if err := read(ctx, f, in, with); err != nil {
			return m, err
		}
	}
	for _, f := range m.Files {
		if _, missing := left[f.Name]; missing {
			return m, fmt.Errorf("%w: %s is missing; %d files are missing in all", ErrDamaged, f.Name, len(left))
		}
	}
	return m, nil
}

// read calls with for a file and reads what it left unread, so that the file is checked to its end.
func read(ctx context.Context, f File, in io.Reader, with func(f File, in io.Reader) error) error {
	c := check(ctx, in, f)
	if err := with(f, c); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, c)
	return err
}

func readManifest(in io.Reader) (m Manifest, err error) {
	text, err := io.ReadAll(io.LimitReader(in, maxManifest+1))
	if err != nil || len(text) > maxManifest {
		return m, fmt.Errorf("%w: %s cannot be read", ErrDamaged, manifestName)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("%w: %s: %w", ErrDamaged, manifestName, err)
	}
	if m.Format > format {
		return m, fmt.Errorf("the backup has format %d, this program reads up to %d: use the version of weft that "+
			"wrote it (%s), or a later one", m.Format, format, names.Quote(m.Weft))
	}
	if len(m.Files) == 0 || m.Files[0].Name != databaseName {
		return m, fmt.Errorf("%w: %s does not name %s", ErrDamaged, manifestName, databaseName)
	}
	for _, f := range m.Files[1:] {
		if len(f.SHA256) != 64 || !filepath.IsLocal(f.SHA256) || f.Name != blobName(f.SHA256) {
			return m, fmt.Errorf("%w: %s names %s", ErrDamaged, manifestName, names.Quote(f.Name))
		}
	}
	return m, nil
}

// Backup is a verified backup; Close it.
type Backup struct {
	Manifest
	path string
	work string    // a temporary folder with the database
	db   *store.DB // migrated to the current schema
}

// Open reads all of a backup and checks that every file exists and has its SHA-256, that the database can be opened and
// that it names no other file. ErrDamaged, store.ErrNewer.
func Open(ctx context.Context, path string) (b *Backup, err error) {
	b = &Backup{path: path}
	if b.work, err = os.MkdirTemp("", "weft-restore-"); err != nil {
		return nil, err
	}
	if err := b.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), b.Close())
	}
	return b, nil
}

// Close removes the temporary files.
func (b *Backup) Close() error {
	var err error
	if b.db != nil {
		err = b.db.Close()
	}
	return errors.Join(err, os.RemoveAll(b.work))
}

// HasKeys reports whether the backup has API keys, also revoked ones.
func (b *Backup) HasKeys(ctx context.Context) (bool, error) {
	var n int64
	err := b.db.QueryRow(ctx, "SELECT COUNT(*) FROM tenant_keys").Scan(&n)
	return n > 0, err
}

func (b *Backup) open(ctx context.Context) (err error) {
	file := filepath.Join(b.work, databaseName)
	b.Manifest, err = walk(ctx, b.path, func(f File, in io.Reader) error {
		if f.Name != databaseName {
			return nil // read and checked
		}
		return durable.CreateFrom(file, in, 0o600)
	})
	if err != nil {
		return err
	}
	if b.db, err = store.Open(ctx, file); err != nil {
		return err
	}
	have := make(map[string]int64, len(b.Files))
	for _, f := range b.Files[1:] {
		have[f.SHA256] = f.Bytes
	}
	blobs, err := adapters.StoredFiles(ctx, b.db)
	for _, f := range blobs {
		if n, ok := have[f.Digest]; !ok || n != f.Bytes {
			err = fmt.Errorf("%w: the file of %s is missing", ErrDamaged, names.Quote(f.Name))
		}
	}
	return err
}

// Restore puts the files into the store, then the rows, in one transaction. If the process is killed, the store keeps
// its rows, and garbage collection removes the files to which no row refers. Without replace a store with tenants,
// keys, adapters or usage is refused with ErrExists; with replace all of its rows are removed. ErrDamaged where the
// backup has changed since Open.
func (b *Backup) Restore(ctx context.Context, s Store, replace bool) (err error) {
	if err := mayReplace(ctx, s.DB, replace); err != nil {
		return err
	}
	r, err := s.registry()
	if err != nil {
		return err
	}
	hold, err := r.Hold(ctx)
	if err != nil {
		return err
	}
	defer func() {
		end := hold.Release
		if err != nil {
			end = hold.GiveUp
		}
		err = errors.Join(err, end(context.WithoutCancel(ctx)))
	}()
	defer renew(ctx, hold)()
	if err := hold.Add(ctx, digests(b.Files[1:])...); err != nil {
		return err
	}
	_, err = walk(ctx, b.path, func(f File, in io.Reader) error {
		if f.Name == databaseName {
			return nil
		}
		return put(ctx, s, f, in)
	})
	if err != nil {
		return fmt.Errorf("restore the files of adapters: %w", err)
	}
	if err := replaceRows(ctx, s.DB, b.db, replace); err != nil {
		return fmt.Errorf("restore the database: %w", err)
	}
	return r.AdoptFolder(ctx)
}

// put puts a blob into the store after its digest was verified.
func put(ctx context.Context, s Store, f File, in io.Reader) error {
	path := filepath.Join(s.Dir, "tmp", "restore-"+f.SHA256)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // left by a process that was killed
		return err
	}
	defer os.Remove(path)
	if err := durable.CreateFrom(path, in, 0o600); err != nil {
		return err
	}
	return s.Blobs.Put(ctx, f.SHA256, path)
}

// counters are polled by servers. A restore increments the store's own counters, so that every server notices the
// change.
var counters = []struct{ table, column string }{{"adapter_changes", "n"}, {"tenant_changes", "counter"}}

// replaceRows replaces the rows of the store in one transaction.
func replaceRows(ctx context.Context, to, from *store.DB, replace bool) error {
	leaveOut := slices.Clone(transient)
	for _, c := range counters {
		leaveOut = append(leaveOut, c.table)
	}
	return to.Replace(ctx, from, func(tx *store.Tx) error {
		if err := mayReplace(ctx, tx, replace); err != nil { // the store may have changed in the meantime
			return err
		}
		if err := adapters.NoteGarbage(ctx, tx, time.Now(), "adapter_files WHERE 1 = 1"); err != nil {
			return err
		}
		for _, c := range counters {
			if _, err := tx.Exec(ctx,
				"UPDATE "+c.table+" SET "+c.column+" = "+c.column+" + 1 WHERE id = 1"); err != nil {
				return err
			}
		}
		return nil
	}, leaveOut...)
}

// mayReplace returns ErrExists where a database has tenants, keys, adapters or usage and replace is false.
func mayReplace(ctx context.Context, db interface {
	QueryRow(ctx context.Context, query string, args ...any) *sql.Row
}, replace bool) error {
	if replace {
		return nil
	}
	for _, t := range []struct{ table, what string }{
		{"tenants WHERE name <> 'default'", "tenants"}, {"tenant_keys", "keys"}, {"adapter_versions", "adapters"},
		{"tenant_days", "usage"},
	} {
		var n int64
		if err := db.QueryRow(ctx, "SELECT COUNT(*) FROM "+t.table).Scan(&n); err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("%w: the store to restore into has %s", ErrExists, t.what)
		}
	}
	return nil
}
