package capture

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"weft/internal/names"
	"weft/internal/store"
)

// Deleted counts what was deleted.
type Deleted struct {
	Records  int64 `json:"records"`
	Feedback int64 `json:"feedback"`
}

// Delete makes a record and the feedback on it unreadable; its bytes are removed by a sweep. ErrNotFound.
func (s *Store) Delete(ctx context.Context, tenant, id string) error {
	if err := s.flush(ctx); err != nil {
		return err
	}
	d, err := s.delete(ctx, tenant, nil, "id = ?", id)
	if err == nil && d.Records == 0 {
		err = ErrNotFound
	}
	return err
}

// Forget deletes all records of a user or of a conversation, and the feedback on them. Those whose request came before
// and whose answer is still under way are dropped when they come. It returns when nothing of it can be read any more; a
// sweep removes the bytes.
func (s *Store) Forget(ctx context.Context, sel Selection) (Deleted, error) {
	if (sel.User == "") == (sel.Conversation == "") {
		return Deleted{}, fmt.Errorf("%w: name a user or a conversation", ErrInvalid)
	}
	if err := s.flush(ctx); err != nil {
		return Deleted{}, err
	}
	key, err := s.key(ctx, sel.Tenant, true)
	if err != nil {
		return Deleted{}, err
	}
	if key == nil {
		return Deleted{}, fmt.Errorf("%w: there is no tenant %s", ErrInvalid, names.Quote(sel.Tenant))
	}
	if sel.User != "" {
		user := key.digest("user", sel.User)
		return s.delete(ctx, sel.Tenant, []string{user}, "user_digest = ?", user)
	}
	named := key.digest("conversation", sel.Conversation)
	return s.delete(ctx, sel.Tenant, []string{named, sel.Conversation}, "conversation IN (?, ?)", named,
		sel.Conversation)
}

// delete deletes the records of a condition in one transaction, and records digests as forgotten until now.
func (s *Store) delete(ctx context.Context, tenant string, digests []string, where string, args ...any) (d Deleted,
	err error) {
	now := s.opt.now()
	err = s.opt.DB.Tx(ctx, func(tx *store.Tx) error {
		for _, digest := range digests {
			if _, err := tx.Exec(ctx, "INSERT INTO capture_forgotten (tenant, digest, until_ns) VALUES (?, ?, ?) "+
				"ON CONFLICT (tenant, digest) DO UPDATE SET until_ns = excluded.until_ns", tenant, digest,
				now.UnixNano()); err != nil {
				return err
			}
		}
		var err error
		d, err = deleteRows(ctx, tx, tenant, where, args...)
		if err == nil {
			err = fault(atForgotten)
		}
		return err
	})
	if err == nil {
		err = fault(atDeleted)
	}
	if err != nil {
		return Deleted{}, unanswered(err)
	}
	s.count(func(st *Stats) { st.Forgot += d.Records })
	return d, nil
}

// deleteRows deletes the rows of records, their prefixes and their feedback, and marks the segments that hold their
// bytes.
func deleteRows(ctx context.Context, tx *store.Tx, tenant, where string, args ...any) (d Deleted, err error) {
	args = append([]any{tenant}, args...)
	records := "FROM capture_records WHERE tenant = ? AND " + where
	of := "tenant = ? AND id IN (SELECT id " + records + ")"
	double := append(append([]any{}, args...), append([]any{tenant}, args...)...)
	if _, err := tx.Exec(ctx, "UPDATE capture_segments SET dirty = 1 WHERE id IN (SELECT segment "+records+") "+
		"OR id IN (SELECT segment FROM capture_feedback WHERE "+of+")", double...); err != nil {
		return d, err
	}
	args = append([]any{tenant}, args...)
	res, err := tx.Exec(ctx, "DELETE FROM capture_feedback WHERE "+of, args...)
	if d.Feedback, err = affected(res, err); err != nil {
		return d, err
	}
	if _, err := tx.Exec(ctx, "DELETE FROM capture_prefixes WHERE "+of, args...); err != nil {
		return d, err
	}
	res, err = tx.Exec(ctx, "DELETE "+records, args[1:]...)
	d.Records, err = affected(res, err)
	return d, err
}

func affected(res sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// Retention limits what a tenant keeps.
type Retention struct {
	MaxAge   time.Duration // 0: any
	MaxBytes int64         // of records and feedback; 0: any
	// Confirmed allows one run to delete more than a tenth of the records.
	Confirmed bool
}

// Retained says what a run of retention did.
type Retained struct {
	Deleted
	// Held are the records that are too old or too many and were left, because a run deletes a tenth at most: a clock
	// may have jumped.
	Held int64 `json:"held"`
}

// agedEvery is the least time between two runs that delete by age without confirmation.
const agedEvery = 24 * time.Hour

// Retain deletes the oldest records of a tenant that are behind its limits. Without confirmation it deletes a tenth of
// the records at most, and by age only once a day.
func (s *Store) Retain(ctx context.Context, tenant string, limits Retention) (out Retained, err error) {
	if limits.MaxAge < 0 || limits.MaxBytes < 0 {
		return out, fmt.Errorf("%w: limits of retention are negative", ErrInvalid)
	}
	if err := s.flush(ctx); err != nil {
		return out, err
	}
	now := s.opt.now()
	err = s.opt.DB.Tx(ctx, func(tx *store.Tx) error {
		out, err = retain(ctx, tx, tenant, limits, now)
		return err
	})
	if err != nil {
		return Retained{}, unanswered(err)
	}
	s.count(func(st *Stats) { st.Forgot += out.Records })
	if out.Held > 0 {
		s.log.Warn("retention left captured records that are behind its limits: a run deletes at most a tenth of them",
			"tenant", tenant, "records", out.Held)
	}
	return out, nil
}

func retain(ctx context.Context, tx *store.Tx, tenant string, limits Retention, now time.Time) (out Retained,
	err error) {
	var total, bytes, aged int64
	err = tx.QueryRow(ctx, "SELECT aged_ns FROM capture_keys WHERE tenant = ?", tenant).Scan(&aged)
	if errors.Is(err, sql.ErrNoRows) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	if err := tx.QueryRow(ctx, "SELECT COUNT(*), COALESCE(SUM(length), 0) FROM capture_records WHERE tenant = ?",
		tenant).Scan(&total, &bytes); err != nil {
		return out, err
	}
	var more int64
	if err := tx.QueryRow(ctx, "SELECT COALESCE(SUM(length), 0) FROM capture_feedback WHERE tenant = ?",
		tenant).Scan(&more); err != nil {
		return out, err
	}
	old, err := countOld(ctx, tx, tenant, limits, now)
	if err != nil {
		return out, err
	}
	due := old
	if since := now.Sub(time.Unix(0, aged)); !limits.Confirmed && since >= 0 && since < agedEvery {
		due = 0
	}
	byAge := due > 0
	if limits.MaxBytes > 0 && bytes+more > limits.MaxBytes {
		n, err := countOver(ctx, tx, tenant, bytes+more-limits.MaxBytes)
		if err != nil {
			return out, err
		}
		due, old = max(due, n), max(old, n)
	}
	most := total
	if !limits.Confirmed {
		most = (total + 9) / 10
	}
	n := min(due, most)
	out.Held = old - n
	if n == 0 {
		return out, nil
	}
	if byAge {
		if _, err := tx.Exec(ctx, "UPDATE capture_keys SET aged_ns = ? WHERE tenant = ?", now.UnixNano(),
			tenant); err != nil {
			return out, err
		}
	}
	out.Deleted, err = deleteRows(ctx, tx, tenant, "id IN (SELECT id FROM capture_records WHERE tenant = ? "+
		"ORDER BY created_ns, seq LIMIT ?)", tenant, n)
	return out, err
}

// countOld counts the records that are older than the limit.
func countOld(ctx context.Context, tx *store.Tx, tenant string, limits Retention, now time.Time) (n int64, err error) {
	if limits.MaxAge == 0 {
		return 0, nil
	}
	err = tx.QueryRow(ctx, "SELECT COUNT(*) FROM capture_records WHERE tenant = ? AND created_ns < ?", tenant,
		now.Add(-limits.MaxAge).UnixNano()).Scan(&n)
	return n, err
}

// countOver counts how many of the oldest records together have more than some bytes, with their feedback.
func countOver(ctx context.Context, tx *store.Tx, tenant string, bytes int64) (n int64, err error) {
	rows, err := tx.Query(ctx, "SELECT r.length + (SELECT COALESCE(SUM(f.length), 0) FROM capture_feedback f "+
		"WHERE f.tenant = r.tenant AND f.id = r.id) FROM capture_records r WHERE r.tenant = ? "+
		"ORDER BY r.created_ns, r.seq", tenant)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for bytes > 0 && rows.Next() {
		var length int64
		if err := rows.Scan(&length); err != nil {
			return 0, err
		}
		bytes -= length
		n++
	}
	return n, rows.Err()
}

// RetainAll is Retain for every tenant that has captured data. The error of one tenant does not stop the others.
func (s *Store) RetainAll(ctx context.Context, limits Retention) (out Retained, err error) {
	tenants, err := s.Tenants(ctx)
	if err != nil {
		return out, err
	}
	var errs []error
	for _, t := range tenants {
		if ctx.Err() != nil {
			break
		}
		one, err := s.Retain(ctx, t, limits)
		if err != nil {
			errs = append(errs, tenantError(t, err))
		}
		out.Records += one.Records
		out.Feedback += one.Feedback
		out.Held += one.Held
	}
	return out, errors.Join(append(errs, ctx.Err())...)
}

// Tenants lists the tenants that have captured data, or had some.
func (s *Store) Tenants(ctx context.Context) (out []string, err error) {
	rows, err := s.opt.DB.Query(ctx, "SELECT tenant FROM capture_keys ORDER BY tenant")
	if err != nil {
		return nil, unanswered(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var t string
		if err := rows.Scan(&t); err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, rows.Err()
}
