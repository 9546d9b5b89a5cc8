package adapters

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"weft/internal/store"
)

// querier is a database or a transaction.
type querier interface {
	Query(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRow(ctx context.Context, query string, args ...any) *sql.Row
}

// Resolve returns a version: the current one where version is "", else the one with that tag, digest or prefix of a
// digest (8 digits or more, unambiguous). A version that does not exist or belongs to another tenant, and an invalid
// name, give the same ErrNotFound. Answers are cached and at most a quarter of a second old.
func (r *Registry) Resolve(ctx context.Context, tenant, name, version string) (Version, error) {
	if CheckName("tenant", tenant) != nil || CheckAdapterName("adapter", name) != nil || version != "" &&
		CheckName("version", version) != nil {
		return Version{}, notFound(tenant, name, version)
	}
	changes, err := r.fresh(ctx)
	if err != nil {
		return Version{}, fmt.Errorf("registry: %w", err)
	}
	key := [3]string{tenant, name, version}
	if v, ok := r.resolved.Get(key); ok {
		return v, nil
	}
	v, err := resolve(ctx, r.cfg.DB, tenant, name, version)
	if err != nil {
		return Version{}, err
	}
	r.mu.Lock()
	if r.changes == changes { // else v may be from before the change
		r.resolved.Add(key, v)
	}
	r.mu.Unlock()
	return v, nil
}

// fresh clears the cached answers if the registry has changed, and returns the counter of changes for which they are
// valid.
func (r *Registry) fresh(ctx context.Context) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.now(); now.Sub(r.polled) >= pollEvery {
		n, err := r.Changes(ctx)
		if err != nil {
			return 0, err
		}
		if n != r.changes {
			r.resolved.Purge()
			r.changes = n
		}
		r.polled = now
	}
	return r.changes, nil
}

func resolve(ctx context.Context, q querier, tenant, name, version string) (Version, error) {
	digest, err := findDigest(ctx, q, tenant, name, version)
	if err != nil {
		return Version{}, err
	}
	found, err := selectVersions(ctx, q, "v.chat_template", "v.tenant = ? AND v.name = ? AND v.digest = ?", tenant,
		name, digest)
	if err != nil {
		return Version{}, err
	}
	if len(found) == 0 {
		return Version{}, notFound(tenant, name, version)
	}
	return found[0], nil
}

// findDigest turns "", a tag or the prefix of a digest into a digest. ErrNotFound; ErrInvalid for a prefix that several
// versions have.
func findDigest(ctx context.Context, q querier, tenant, name, version string) (digest string, err error) {
	if version == "" {
		err = q.QueryRow(ctx, "SELECT digest FROM adapter_names WHERE tenant = ? AND name = ?", tenant,
			name).Scan(&digest)
	} else {
		err = q.QueryRow(ctx, "SELECT digest FROM adapter_tags WHERE tenant = ? AND name = ? AND tag = ?", tenant, name,
			version).Scan(&digest)
	}
	if err == nil || !errors.Is(err, sql.ErrNoRows) {
		return digest, err
	}
	if !isDigestPrefix(version) {
		return "", notFound(tenant, name, version)
	}
	digests, err := column(ctx, q,
		"SELECT digest FROM adapter_versions WHERE tenant = ? AND name = ? AND digest LIKE ? LIMIT 2", tenant, name,
		version+"%")
	switch {
	case err != nil:
		return "", err
	case len(digests) == 0:
		return "", notFound(tenant, name, version)
	case len(digests) > 1:
		return "",
			fmt.Errorf("%w: %s/%s@%s: several versions have this prefix: give more digits", ErrInvalid, tenant,
				name, version)
	}
	return digests[0], nil
}

// column reads the strings of a query of one column.
func column(ctx context.Context, q querier, query string, args ...any) (out []string, err error) {
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}

// selectVersions reads versions, by tenant, name and age, the newest first; template is the column of the chat
// template, or an empty string where it is not needed.
func selectVersions(ctx context.Context, q querier, template, where string, args ...any) (out []Version, err error) {
	rows, err := q.Query(ctx, `SELECT v.tenant, v.name, v.digest, v.created_ns, v.info, `+template+`,
		COALESCE(n.digest, ''), COALESCE(n.pinned, 0), COALESCE(t.tag, '')
		FROM adapter_versions v
		LEFT JOIN adapter_names n ON n.tenant = v.tenant AND n.name = v.name
		LEFT JOIN adapter_tags t ON t.tenant = v.tenant AND t.name = v.name AND t.digest = v.digest
		WHERE `+where+` ORDER BY v.tenant, v.name, v.created_ns DESC, v.digest, t.tag`, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		v, tag, err := scanVersion(rows)
		if err != nil {
			return nil, err
		}
		if n := len(out); n == 0 || out[n-1].Tenant != v.Tenant || out[n-1].Name != v.Name ||
			out[n-1].Digest != v.Digest {
			out = append(out, v)
		}
		if tag != "" {
			last := &out[len(out)-1]
			last.Tags = append(last.Tags, tag)
		}
	}
	for i := range out {
		slices.Sort(out[i].Tags) // a database's order depends on its locale
	}
	return out, rows.Err()
}

func scanVersion(rows *sql.Rows) (v Version, tag string, err error) {
	var created, pinned int64
	var text, current string
	if err := rows.Scan(&v.Tenant, &v.Name, &v.Digest, &created, &text, &v.ChatTemplate, &current, &pinned,
		&tag); err != nil {
		return v, "", err
	}
	var i info
	if err := json.Unmarshal([]byte(text), &i); err != nil {
		return v, "", fmt.Errorf("registry: row of %s: %w", v.Ref(), err)
	}
	v.Base, v.Rank, v.Targets, v.Params, v.Bytes = i.Base, i.Rank, i.Targets, i.Params, i.Bytes
	v.Created = time.Unix(0, created)
	v.Current = current == v.Digest
	v.Pinned = v.Current && pinned != 0
	return v, tag, nil
}

// List returns the versions of a tenant, or of all tenants where tenant is "", by tenant and name, the newest first.
// ChatTemplate is not set.
func (r *Registry) List(ctx context.Context, tenant string) ([]Version, error) {
	if tenant == "" {
		return selectVersions(ctx, r.cfg.DB, "''", "1 = 1")
	}
	if err := CheckName("tenant", tenant); err != nil {
		return nil, err
	}
	return selectVersions(ctx, r.cfg.DB, "''", "v.tenant = ?", tenant)
}

// Tag tags a version; a tag of another version moves to it. ErrNotFound, ErrInvalid.
func (r *Registry) Tag(ctx context.Context, tenant, name, tag, version string) error {
	if err := checkTag(tag); err != nil {
		return err
	}
	return r.changeName(ctx, tenant, name, func(tx *store.Tx) error {
		digest, err := findDigest(ctx, tx, tenant, name, version)
		if err != nil {
			return err
		}
		return setTag(ctx, tx, tenant, name, tag, digest)
	})
}

// Untag removes a tag. ErrNotFound.
func (r *Registry) Untag(ctx context.Context, tenant, name, tag string) error {
	return r.changeName(ctx, tenant, name, func(tx *store.Tx) error {
		return atLeastOne(notFound(tenant, name, tag))(tx.Exec(ctx,
			"DELETE FROM adapter_tags WHERE tenant = ? AND name = ? AND tag = ?", tenant, name, tag))
	})
}

// changeName runs f as a change of one name. Invalid names are ErrNotFound.
func (r *Registry) changeName(ctx context.Context, tenant, name string, f func(tx *store.Tx) error) error {
	if CheckName("tenant", tenant) != nil || CheckAdapterName("adapter", name) != nil {
		return notFound(tenant, name, "")
	}
	return r.change(ctx, f)
}

func atLeastOne(otherwise error) func(sql.Result, error) error {
	return func(res sql.Result, err error) error {
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err == nil && n == 0 {
			err = otherwise
		}
		return err
	}
}

// Rollback makes another version the current one and returns it: the given version, or for "" the one before the
// current one; calling it again goes back further. The history is kept; removed versions are skipped. ErrNotFound;
// ErrConflict where there is no earlier version.
func (r *Registry) Rollback(ctx context.Context, tenant, name, version string) (Version, error) {
	var digest string
	err := r.changeName(ctx, tenant, name, func(tx *store.Tx) error {
		at, err := pointer(ctx, tx, tenant, name)
		if err != nil {
			return err
		}
		back := at.seq
		if version == "" {
			digest, back, err = before(ctx, tx, tenant, name, at)
		} else {
			digest, err = findDigest(ctx, tx, tenant, name, version)
		}
		if err != nil || digest == at.digest {
			return err
		}
		return move(ctx, tx, tenant, name, digest, back, r.now())
	})
	if err != nil {
		return Version{}, err
	}
	return r.Resolve(ctx, tenant, name, digest)
}

// before follows the history back to another version that still exists, and returns it with the history entry before
// it.
func before(ctx context.Context, tx *store.Tx, tenant, name string, at position) (digest string, back int64,
	err error) {
	for seq := at.seq; ; {
		if err := tx.QueryRow(ctx, "SELECT back FROM adapter_history WHERE tenant = ? AND name = ? AND seq = ?", tenant,
			name, seq).Scan(&seq); err != nil {
			return "", 0, err
		}
		if seq == 0 {
			return "", 0, fmt.Errorf("%w: %s/%s has no version before the current one", ErrConflict, tenant, name)
		}
		var there int64
		if err := tx.QueryRow(ctx, `SELECT h.digest, h.back, (SELECT COUNT(*) FROM adapter_versions v
			WHERE v.tenant = h.tenant AND v.name = h.name AND v.digest = h.digest)
			FROM adapter_history h WHERE tenant = ? AND name = ? AND seq = ?`,
			tenant, name, seq).Scan(&digest, &back, &there); err != nil {
			return "", 0, err
		}
		if there > 0 && digest != at.digest {
			return digest, back, nil
		}
	}
}

// Pin sets whether the current version of a name stays in memory once it is loaded. ErrNotFound.
func (r *Registry) Pin(ctx context.Context, tenant, name string, pinned bool) error {
	p := 0
	if pinned {
		p = 1
	}
	return r.changeName(ctx, tenant, name, func(tx *store.Tx) error {
		return atLeastOne(notFound(tenant, name, ""))(tx.Exec(ctx,
			"UPDATE adapter_names SET pinned = ? WHERE tenant = ? AND name = ?", p, tenant, name))
	})
}

// Remove removes a version with its tags, or, where version is "", a name with all its versions. Running requests
// finish with the version that they use; Collect deletes the files after its grace. ErrNotFound; ErrConflict for the
// current version of a name.
func (r *Registry) Remove(ctx context.Context, tenant, name, version string) error {
	return r.changeName(ctx, tenant, name, func(tx *store.Tx) error {
		at, err := pointer(ctx, tx, tenant, name)
		if err != nil {
			return err
		}
		if version == "" {
			return deleteRows(ctx, tx, "tenant = ? AND name = ?",
				[]string{"versions", "files", "tags", "names", "history"}, r.now(), tenant, name)
		}
		digest, err := findDigest(ctx, tx, tenant, name, version)
		if err != nil {
			return err
		}
		if digest == at.digest {
			return fmt.Errorf("%w: %s/%s: %s is the current version: roll back first, or remove the whole adapter",
				ErrConflict, tenant, name, digest[:12])
		}
		return deleteRows(ctx, tx, "tenant = ? AND name = ? AND digest = ?", []string{"versions", "files", "tags"},
			r.now(), tenant, name, digest)
	})
}

// deleteRows deletes rows of tables; files that they name are garbage from now on, where no other row has them.
func deleteRows(ctx context.Context, tx *store.Tx, where string, tables []string, now time.Time, args ...any) error {
	if err := NoteGarbage(ctx, tx, now, "adapter_files WHERE "+where, args...); err != nil {
		return err
	}
	for _, t := range tables {
		if _, err := tx.Exec(ctx, "DELETE FROM adapter_"+t+" WHERE "+where, args...); err != nil {
			return err
		}
	}
	return nil
}

// Pins returns the digests of all versions, each with whether a pinned name points to it.
func (r *Registry) Pins(ctx context.Context) (_ map[string]bool, err error) {
	rows, err := r.cfg.DB.Query(ctx, `SELECT v.digest, COALESCE(n.pinned, 0) FROM adapter_versions v
		LEFT JOIN adapter_names n ON n.tenant = v.tenant AND n.name = v.name AND n.digest = v.digest`)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	pins := map[string]bool{}
	for rows.Next() {
		var digest string
		var pinned int64
		if err := rows.Scan(&digest, &pinned); err != nil {
			return nil, err
		}
		pins[digest] = pins[digest] || pinned != 0
	}
	return pins, rows.Err()
}
