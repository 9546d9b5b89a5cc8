package adapters

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"weft/internal/store"
)

// ErrForeign says that the store of adapter files does not belong to this database, or does not have the files that it
// should have: nothing is deleted in it or added to it.
var ErrForeign = errors.New("the store of adapter files does not belong to this database")

// takeOver tells an operator how to give a store to a database.
const takeOver = "start with the database that it belongs to, or give this one a store of its own; to take it over, " +
	"run `weft adapters gc --dry-run`, read what would be deleted, and run `weft adapters gc --force`"

// identity returns the random text that names this database in the store of files.
func (r *Registry) identity(ctx context.Context) (id string, err error) {
	const read = "SELECT identity FROM adapter_store WHERE id = 1"
	if err := r.cfg.DB.QueryRow(ctx, read).Scan(&id); err == nil {
		return id, nil
	}
	if _, err := r.cfg.DB.Exec(ctx, "INSERT INTO adapter_store (id, identity, listed_ns, listed_owner) "+
		"VALUES (1, ?, 0, '') ON CONFLICT DO NOTHING", rand.Text()); err != nil {
		return "", err
	}
	return id, r.cfg.DB.QueryRow(ctx, read).Scan(&id)
}

// own returns nil where the store of files belongs to this database, else ErrForeign with the reason. A store without
// an owner, as earlier versions of weft left it, is adopted where this database refers to more than half of its files,
// or both are empty.
func (r *Registry) own(ctx context.Context) error {
	id, err := r.identity(ctx)
	if err != nil {
		return err
	}
	owner, err := r.cfg.Blobs.Owner(ctx)
	if err != nil || owner == id {
		return err
	}
	if owner != "" {
		return fmt.Errorf("%w: it belongs to another one: %s", ErrForeign, takeOver)
	}
	if err := r.knowsMost(ctx); err != nil {
		return err
	}
	return r.takeStore(ctx, id)
}

// knowsMost returns ErrForeign unless this database refers to more than half of the files in the store, or neither has
// any.
func (r *Registry) knowsMost(ctx context.Context) error {
	blobs, used, err := r.storedBlobs(ctx)
	if err != nil {
		return err
	}
	known := 0
	for _, b := range blobs {
		if used[b.Digest] {
			known++
		}
	}
	if len(blobs) == 0 {
		stored, err := column(ctx, r.cfg.DB, "SELECT DISTINCT blob FROM adapter_files")
		if err == nil && len(stored) > 0 {
			err = fmt.Errorf("%w: it is empty, and this database refers to %d files: if they are on a disk that is "+
				"not mounted, mount it; else %s", ErrForeign, len(stored), takeOver)
		}
		return err
	}
	if 2*known <= len(blobs) {
		return fmt.Errorf("%w: it has %d files, and this database refers to %d of them: %s", ErrForeign, len(blobs),
			known, takeOver)
	}
	return nil
}

// takeStore writes the database's identity to the store of files. Of two databases that do so at once the last one has
// it, and the other is told.
func (r *Registry) takeStore(ctx context.Context, id string) error {
	if err := r.cfg.Blobs.SetOwner(ctx, id); err != nil {
		return fmt.Errorf("mark the store of adapter files: %w", err)
	}
	owner, err := r.cfg.Blobs.Owner(ctx)
	if err == nil && owner != id {
		err = fmt.Errorf("%w: another one has just taken it", ErrForeign)
	}
	return err
}

// AdoptFolder gives the folder of files in the data directory to the database that was restored there, where it refers
// to most of the files. A bucket may belong to a database that is in use: it is left to the operator.
func (r *Registry) AdoptFolder(ctx context.Context) error {
	if _, folder := r.cfg.Blobs.(linker); !folder {
		return nil
	}
	id, err := r.identity(ctx)
	if err == nil {
		err = r.knowsMost(ctx)
	}
	if errors.Is(err, ErrForeign) {
		return nil // the collector says so
	}
	if err != nil {
		return err
	}
	return r.takeStore(ctx, id)
}

// storedBlobs lists the blobs in the store, and the digests to which versions, uploads and backups refer. They are read
// after the blobs: what an upload puts is claimed before.
func (r *Registry) storedBlobs(ctx context.Context) (blobs []Blob, used map[string]bool, err error) {
	for b, err := range r.cfg.Blobs.All(ctx) {
		if err != nil {
			return nil, nil, err
		}
		blobs = append(blobs, b)
	}
	digests, err := column(ctx, r.cfg.DB, "SELECT blob FROM adapter_files UNION SELECT blob FROM adapter_claims")
	used = make(map[string]bool, len(digests))
	for _, d := range digests {
		used[d] = true
	}
	return blobs, used, err
}

// NoteGarbage notes, in a transaction, the blobs of the rows "from": a command, a request or a failed upload no longer
// needs them, so that they do not count as unknown files. The collector drops the note of a blob that is in use.
func NoteGarbage(ctx context.Context, tx *store.Tx, now time.Time, from string, args ...any) error {
	_, err := tx.Exec(ctx, "INSERT INTO adapter_garbage (blob, seen_ns, known, listed_ns) SELECT DISTINCT blob, "+
		"CAST(? AS BIGINT), 1, 0 FROM "+from+" ON CONFLICT (blob) DO UPDATE SET seen_ns = excluded.seen_ns, "+
		"known = 1, listed_ns = 0", append([]any{now.UnixNano()}, args...)...)
	return err
}
