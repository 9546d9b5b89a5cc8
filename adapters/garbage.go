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

// Garbage counts what GarbageCollect removed.
type Garbage struct {
	Blobs   int `json:"blobs"`
	Folders int `json:"folders"`
}

// garbageBatch limits the blobs that are deleted in one transaction, for which uploads must wait.
const garbageBatch = 64

// GarbageCollect removes blobs and folders to which no version refers, and what interrupted uploads left behind, if
// they are older than grace. An upload that takes longer than grace fails and must be repeated: an hour is a good
// value, 0 is for a registry without other users.
func (r *Registry) GarbageCollect(ctx context.Context, grace time.Duration) (Garbage, error) {
	var g Garbage
	before := r.now().Add(-grace)
	var candidates []string
	for b, err := range r.cfg.Blobs.All(ctx) {
		if err != nil {
			return g, err
		}
		if !b.Put.After(before) {
			candidates = append(candidates, b.Digest)
		}
	}
	for first := true; first || len(candidates) > 0; first = false {
		n := min(len(candidates), garbageBatch)
		if err := r.collect(ctx, candidates[:n], before, &g); err != nil {
			return g, fmt.Errorf("collect garbage: %w", err)
		}
		candidates = candidates[n:]
	}
	return g, r.cleanTmp(before)
}

// collect deletes those of the blobs that no version refers to and no upload claims, and folders without a version, in
// a transaction in which no claim can be made.
func (r *Registry) collect(ctx context.Context, blobs []string, before time.Time, g *Garbage) error {
	var done Garbage
	err := r.exclusive(ctx, func(tx *store.Tx) error {
		done = Garbage{}
		if _, err := tx.Exec(ctx, "DELETE FROM adapter_claims WHERE at_ns <= ?", before.UnixNano()); err != nil {
			return err
		}
		for _, b := range blobs {
			var n int64
			if err := tx.QueryRow(ctx,
				"SELECT (SELECT COUNT(*) FROM adapter_files WHERE blob = ?) + (SELECT COUNT(*) FROM adapter_claims "+
					"WHERE blob = ?)",
				b, b).Scan(&n); err != nil {
				return err
			}
			if n > 0 {
				continue
			}
			if err := r.cfg.Blobs.Delete(ctx, b); err != nil {
				return err
			}
			r.step("blob deleted")
			done.Blobs++
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
