package adapters

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"weft/internal/store"
)

// ErrNotListed says that a forced collection needs a dry run first.
var ErrNotListed = errors.New("run `weft adapters gc --dry-run` first and read what it lists: --force deletes that, " +
	"within an hour")

// ErrUnknownFiles says that a collection would delete more than a tenth of the store that this database does not know.
var ErrUnknownFiles = errors.New("too many files that this database does not know")

// GarbageGrace is how long a server keeps files to which no version refers.
const GarbageGrace = 3 * 24 * time.Hour

const (
	garbageBatch = 64 // blobs that are deleted in one transaction, for which uploads must wait
	listedFor    = time.Hour
	maxUnknown   = 10 // a collection stops where more than one of so many blobs is unknown
)

// CollectOptions say what a collection deletes.
type CollectOptions struct {
	// Grace is how long after it was first seen a blob without a version is deleted: a second look is needed, unless
	// Grace is 0, which is for a registry without other users.
	Grace  time.Duration
	DryRun bool // deletes nothing and lists what Force would delete
	// Force takes the store of files over, and deletes what a dry run has listed within the last hour and is still
	// without a version: ErrNotListed.
	Force bool
}

// Garbage counts what a collection found and deleted.
type Garbage struct {
	Stored  int    `json:"stored"`  // blobs in the store
	Garbage int    `json:"garbage"` // of these without a version
	Unknown int    `json:"unknown"` // of these left by no request, command or upload of this database
	Bytes   int64  `json:"bytes"`   // of the garbage
	Blobs   int    `json:"deleted"`
	Folders int    `json:"folders_deleted"`
	Stops   string `json:"stops,omitempty"` // in a dry run: why a collection without Force deletes nothing
}

// String is one line for a person.
func (g Garbage) String() string {
	text := fmt.Sprintf("%d of %d files are unused (%d bytes), %d of them unknown to this database; %d deleted",
		g.Garbage, g.Stored, g.Bytes, g.Unknown, g.Blobs)
	if g.Stops != "" {
		text += "\nwithout --force nothing is deleted: " + g.Stops
	}
	return text
}

// garbage is a blob without a version as the database knows it.
type garbage struct {
	seen, listed int64 // Unix time in nanoseconds; listed 0: in no dry run
	known        bool
}

// GarbageCollect is Collect with a grace alone.
func (r *Registry) GarbageCollect(ctx context.Context, grace time.Duration) (Garbage, error) {
	return r.Collect(ctx, CollectOptions{Grace: grace})
}

// Collect deletes blobs and folders to which no version refers, and what interrupted uploads left behind. It stops and
// deletes nothing where the store of files belongs to another database (ErrForeign), and where more than a tenth of the
// store is without a version although no request, command or upload of this database left it so (ErrUnknownFiles): then
// the database, not the store, is probably the wrong one. Options.Force does not stop there.
func (r *Registry) Collect(ctx context.Context, opt CollectOptions) (g Garbage, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("collect garbage: %w", err)
		}
	}()
	if err := r.endOld(ctx, r.now().Add(-r.claimLife)); err != nil {
		return g, err
	}
	stops := r.own(ctx)
	if stops != nil && (!errors.Is(stops, ErrForeign) || !opt.DryRun && !opt.Force) {
		return g, stops
	}
	notes, err := r.look(ctx, &g)
	if err != nil {
		return g, err
	}
	if stops == nil && g.Unknown*maxUnknown > g.Stored {
		stops = fmt.Errorf("%w: %d of %d: %s", ErrUnknownFiles, g.Unknown, g.Stored, takeOver)
	}
	last := r.now().Add(-opt.Grace).UnixNano()
	due := func(n garbage) bool { return n.seen <= last }
	switch {
	case opt.DryRun:
		if stops != nil {
			g.Stops = stops.Error()
		}
		return g, r.list(ctx, notes)
	case opt.Force:
		if err := r.force(ctx); err != nil {
			return g, err
		}
		due = func(n garbage) bool { return n.listed > 0 }
	case stops != nil:
		return g, stops
	}
	var candidates []string
	for blob, n := range notes {
		if due(n) {
			candidates = append(candidates, blob)
		}
	}
	for first := true; first || len(candidates) > 0; first = false {
		n := min(len(candidates), garbageBatch)
		if err := r.collect(ctx, candidates[:n], &g); err != nil {
			return g, err
		}
		candidates = candidates[n:]
	}
	return g, nil
}

// endOld ends claims and removes work folders from before a time.
func (r *Registry) endOld(ctx context.Context, before time.Time) error {
	err := r.exclusive(ctx, func(tx *store.Tx) error {
		return r.endClaims(ctx, tx, "at_ns <= ?", before.UnixNano())
	})
	if c, ok := r.cfg.Blobs.(cleaner); ok {
		err = errors.Join(err, c.Clean(before))
	}
	return errors.Join(err, r.cleanTmp(before))
}

// look compares the store with the database, notes garbage that it sees for the first time, and returns all of it.
func (r *Registry) look(ctx context.Context, g *Garbage) (map[string]garbage, error) {
	began := r.now().UnixNano()
	blobs, used, err := r.storedBlobs(ctx)
	if err != nil {
		return nil, err
	}
	found := make(map[string]garbage)
	err = r.exclusive(ctx, func(tx *store.Tx) error {
		*g = Garbage{Stored: len(blobs)}
		clear(found)
		notes, err := readNotes(ctx, tx, r.now())
		if err != nil {
			return err
		}
		for _, b := range blobs {
			n, noted := notes[b.Digest]
			delete(notes, b.Digest)
			if used[b.Digest] {
				continue
			}
			if !noted {
				n.seen = began
				if _, err := tx.Exec(ctx, "INSERT INTO adapter_garbage (blob, seen_ns, known, listed_ns) "+
					"VALUES (?, ?, 0, 0)", b.Digest, n.seen); err != nil {
					return err
				}
			}
			found[b.Digest] = n
			g.Garbage++
			g.Bytes += b.Bytes
			if !n.known {
				g.Unknown++
			}
		}
		for blob, n := range notes { // of blobs that are no longer in the store
			if n.seen < began {
				if _, err := tx.Exec(ctx, "DELETE FROM adapter_garbage WHERE blob = ?", blob); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return found, err
}

// readNotes returns the notes of garbage. Those of blobs that are in use again are removed; the time of one from the
// future, which a wrong clock wrote, is corrected.
func readNotes(ctx context.Context, tx *store.Tx, now time.Time) (notes map[string]garbage, err error) {
	if _, err := tx.Exec(ctx, "DELETE FROM adapter_garbage WHERE EXISTS (SELECT 1 FROM adapter_files f WHERE f.blob = "+
		"adapter_garbage.blob)"); err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, "UPDATE adapter_garbage SET seen_ns = ? WHERE seen_ns > ?", now.UnixNano(),
		now.UnixNano()); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, "SELECT blob, seen_ns, known, listed_ns FROM adapter_garbage")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	notes = map[string]garbage{}
	for rows.Next() {
		var blob string
		var known int64
		var n garbage
		if err := rows.Scan(&blob, &n.seen, &known, &n.listed); err != nil {
			return nil, err
		}
		n.known = known != 0
		notes[blob] = n
	}
	return notes, rows.Err()
}

// list marks garbage as listed by a dry run, in this store.
func (r *Registry) list(ctx context.Context, found map[string]garbage) error {
	owner, err := r.cfg.Blobs.Owner(ctx)
	if err != nil {
		return err
	}
	now := r.now().UnixNano()
	return r.exclusive(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE adapter_store SET listed_ns = ?, listed_owner = ? WHERE id = 1", now,
			owner); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE adapter_garbage SET listed_ns = 0"); err != nil {
			return err
		}
		for blob := range found {
			if _, err := tx.Exec(ctx, "UPDATE adapter_garbage SET listed_ns = ? WHERE blob = ?", now,
				blob); err != nil {
				return err
			}
		}
		return nil
	})
}

// force takes the store over if a dry run has listed its garbage within the last hour, and it had the same owner then.
func (r *Registry) force(ctx context.Context) error {
	id, err := r.identity(ctx)
	if err != nil {
		return err
	}
	owner, err := r.cfg.Blobs.Owner(ctx)
	if err != nil {
		return err
	}
	var listed int64
	var of string
	if err := r.cfg.DB.QueryRow(ctx, "SELECT listed_ns, listed_owner FROM adapter_store WHERE id = 1").Scan(&listed,
		&of); err != nil {
		return err
	}
	if age := r.now().Sub(time.Unix(0, listed)); listed == 0 || age > listedFor || age < 0 || of != owner {
		return ErrNotListed
	}
	if owner == id {
		return nil
	}
	return r.takeStore(ctx, id)
}

// collect deletes those of the blobs that are still noted as garbage, that no version refers to and no upload claims,
// and folders without a version, in a transaction in which no claim can be made.
func (r *Registry) collect(ctx context.Context, blobs []string, g *Garbage) error {
	var done Garbage
	err := r.exclusive(ctx, func(tx *store.Tx) error {
		done = Garbage{}
		for _, b := range blobs {
			var uses, notes int64
			if err := tx.QueryRow(ctx, "SELECT (SELECT COUNT(*) FROM adapter_files WHERE blob = ?) + (SELECT COUNT(*) "+
				"FROM adapter_claims WHERE blob = ?), (SELECT COUNT(*) FROM adapter_garbage WHERE blob = ?)",
				b, b, b).Scan(&uses, &notes); err != nil {
				return err
			}
			if uses > 0 || notes == 0 {
				continue
			}
			if err := r.cfg.Blobs.Delete(ctx, b); err != nil {
				return err
			}
			r.step("blob deleted")
			done.Blobs++
			if _, err := tx.Exec(ctx, "DELETE FROM adapter_garbage WHERE blob = ?", b); err != nil {
				return err
			}
		}
		return r.collectFolders(ctx, tx, &done)
	})
	g.Blobs += done.Blobs
	g.Folders += done.Folders
	return err
}

// collectFolders removes the folders of versions that are no longer in the registry.
func (r *Registry) collectFolders(ctx context.Context, tx *store.Tx, g *Garbage) error {
	entries, err := os.ReadDir(filepath.Join(r.cfg.Dir, "versions"))
	if err != nil {
		return err
	}
	manifests, err := column(ctx, tx, "SELECT DISTINCT manifest FROM adapter_versions")
	if err != nil {
		return err
	}
	used := make(map[string]bool, len(manifests))
	for _, m := range manifests {
		used[m] = true
	}
	for _, e := range entries {
		if used[e.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(r.cfg.Dir, "versions", e.Name())); err != nil {
			return err
		}
		r.step("folder deleted")
		g.Folders++
	}
	return nil
}

// cleanTmp removes what processes that were killed left in DIR/tmp.
func (r *Registry) cleanTmp(before time.Time) error {
	tmp := filepath.Join(r.cfg.Dir, "tmp")
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return err
	}
	for _, e := range entries {
		st, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if st.ModTime().After(before) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(tmp, e.Name())); err != nil {
			return err
		}
		r.step("work folder deleted")
	}
	return nil
}
