package adapters

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"weft/internal/names"
	"weft/internal/store"
)

// Hold protects blobs from garbage collection while they are copied to or from a backup. Renew it more often than once
// an hour, and Release it on every path; the hold of a process that was killed ends after an hour.
type Hold struct {
	r  *Registry
	id string
}

// Hold returns a hold of every blob to which a version refers now.
func (r *Registry) Hold(ctx context.Context) (*Hold, error) {
	h := &Hold{r, rand.Text()}
	err := r.exclusive(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO adapter_claims (id, blob, at_ns) SELECT DISTINCT CAST(? AS TEXT), blob, "+
			"CAST(? AS BIGINT) FROM adapter_files", h.id, r.now().UnixNano())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("hold the files of adapters: %w", err)
	}
	return h, nil
}

// Add adds blobs to the hold, which need not exist yet.
func (h *Hold) Add(ctx context.Context, blobs ...string) error {
	err := h.r.exclusive(ctx, func(tx *store.Tx) error {
		for _, b := range blobs {
			if _, err := tx.Exec(ctx, "INSERT INTO adapter_claims (id, blob, at_ns) VALUES (?, ?, ?) "+
				"ON CONFLICT (id, blob) DO UPDATE SET at_ns = excluded.at_ns", h.id, b,
				h.r.now().UnixNano()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("hold the files of adapters: %w", err)
	}
	return nil
}

// Renew extends the hold by another hour.
func (h *Hold) Renew(ctx context.Context) error {
	_, err := h.r.cfg.DB.Exec(ctx, "UPDATE adapter_claims SET at_ns = ? WHERE id = ?", h.r.now().UnixNano(), h.id)
	return err
}

// Release ends the hold.
func (h *Hold) Release(ctx context.Context) error {
	_, err := h.r.cfg.DB.Exec(ctx, "DELETE FROM adapter_claims WHERE id = ?", h.id)
	return err
}

// GiveUp ends the hold of a restore that failed: what it has stored and no version uses is garbage from now on.
func (h *Hold) GiveUp(ctx context.Context) error {
	return h.r.exclusive(ctx, func(tx *store.Tx) error { return h.r.endClaims(ctx, tx, "id = ?", h.id) })
}

// StoredFiles lists the distinct blobs to which the versions in a database refer. Name is the adapter that has the
// blob, as tenant/name, and the file's name there.
func StoredFiles(ctx context.Context, db *store.DB) (out []File, err error) {
	rows, err := db.Query(ctx, "SELECT blob, MAX(bytes), MIN(tenant || '/' || name || ' ' || file) FROM adapter_files "+
		"GROUP BY blob ORDER BY blob")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var f File
		if err := rows.Scan(&f.Digest, &f.Bytes, &f.Name); err != nil {
			return nil, err
		}
		if len(f.Digest) != 64 || !isDigestPrefix(f.Digest) || f.Bytes < 0 {
			return nil, fmt.Errorf("%w: the row of %s names no blob", ErrCorrupt, names.Quote(f.Name))
		}
		out = append(out, f)
	}
	return out, rows.Err()
}
