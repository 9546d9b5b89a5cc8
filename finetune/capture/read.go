package capture

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"weft/internal/names"
)

// readWait limits how long a read waits for what is in memory to become durable.
const readWait = 2 * time.Second

// settle waits for what is in memory, so that a client reads what it has just made. A disk that does not follow delays
// a read only so long.
func (s *Store) settle(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, readWait)
	defer cancel()
	err := s.flush(bounded)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil
	}
	return err
}

// Get returns a tenant's record: ErrNotFound.
func (s *Store) Get(ctx context.Context, tenant, id string) (Record, error) {
	if err := s.settle(ctx); err != nil {
		return Record{}, err
	}
	r, err := s.load(ctx, tenant, id)
	if err != nil {
		return Record{}, err
	}
	return r.Record, nil
}

// load reads a record through the index.
func (s *Store) load(ctx context.Context, tenant, id string) (*storedRecord, error) {
	e, err := s.readRow(ctx, tenant, func() *sql.Row {
		return s.opt.DB.QueryRow(ctx, "SELECT seq, segment, position, length FROM capture_records WHERE tenant = ? "+
			"AND id = ?", tenant, id)
	})
	if err != nil {
		return nil, err
	}
	if e.record == nil {
		return nil, fmt.Errorf("%w: the index of tenant %s is damaged", ErrDisk, names.Quote(tenant))
	}
	return e.record, nil
}

// readAttempts is how often a read follows a record that a sweep moves meanwhile.
const readAttempts = 5

// readRow reads the frame to which a row of seq, segment, position and length refers.
func (s *Store) readRow(ctx context.Context, tenant string, row func() *sql.Row) (e entry, err error) {
	key, err := s.key(ctx, tenant, false)
	if err != nil {
		if !errors.Is(err, ErrKey) {
			err = unanswered(err)
		}
		return e, err
	}
	if key == nil {
		return e, ErrNotFound
	}
	for range readAttempts {
		var seq, position, length int64
		var segment string
		err := row().Scan(&seq, &segment, &position, &length)
		if errors.Is(err, sql.ErrNoRows) {
			return e, ErrNotFound
		}
		if err != nil {
			return e, unanswered(err)
		}
		body, err := s.readFrame(tenant, segment, position, length)
		if errors.Is(err, fs.ErrNotExist) {
			continue // moved, or deleted
		}
		if err != nil {
			return e, fmt.Errorf("%w: a record of tenant %s cannot be read: %w", ErrDisk, names.Quote(tenant), err)
		}
		if e, err = key.decode(tenant, body); err != nil {
			return e, err
		}
		if e.record != nil {
			e.record.Seq = seq
		} else {
			e.feedback.Seq = seq
		}
		return e, nil
	}
	return e, fmt.Errorf("%w: the segment of a record of tenant %s is missing", ErrDisk, names.Quote(tenant))
}

func (s *Store) readFrame(tenant, segment string, at, length int64) (body []byte, err error) {
	f, err := os.Open(s.path(tenant, segment))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return readFrame(f, at, at+length)
}

// List returns the records that a query selects, in the order in which they became durable, and whether there are more.
// ErrNotFound where Query.After is no record of the tenant.
func (s *Store) List(ctx context.Context, q Query) (list []Record, more bool, err error) {
	if q.Limit == 0 {
		q.Limit = DefaultLimit
	}
	if q.Limit < 1 || q.Limit > MaxLimit {
		return nil, false, fmt.Errorf("%w: limit %d is not within 1 and %d", ErrInvalid, q.Limit, MaxLimit)
	}
	if err := s.settle(ctx); err != nil {
		return nil, false, err
	}
	key, err := s.key(ctx, q.Tenant, false)
	if err != nil || key == nil {
		if err == nil && q.After != "" {
			err = ErrNotFound
		}
		return nil, false, err
	}
	after := int64(0)
	if q.After != "" {
		err := s.opt.DB.QueryRow(ctx, "SELECT seq FROM capture_records WHERE tenant = ? AND id = ?", q.Tenant,
			q.After).Scan(&after)
		if errors.Is(err, sql.ErrNoRows) {
			err = fmt.Errorf("%w: after %s", ErrNotFound, names.Quote(q.After))
		}
		if err != nil {
			return nil, false, err
		}
	}
	for {
		ids, err := s.page(ctx, q, key, after)
		if err != nil {
			return nil, false, err
		}
		for _, id := range ids {
			r, err := s.load(ctx, q.Tenant, id.id)
			if errors.Is(err, ErrNotFound) {
				continue // deleted meanwhile
			}
			if err != nil {
				return nil, false, err
			}
			if !hasPairs(r.Metadata, q.Metadata) {
				continue
			}
			if len(list) == q.Limit {
				return list, true, nil
			}
			list = append(list, r.Record)
		}
		if len(ids) < pageLength {
			return list, false, nil
		}
		after = ids[len(ids)-1].seq
	}
}

func hasPairs(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// pageLength is how many ids one query of a list returns.
const pageLength = 200

type listedID struct {
	id  string
	seq int64
}

// page returns the ids of a query behind a sequence number, 0: from the first one on.
func (s *Store) page(ctx context.Context, q Query, key *dataKey, after int64) (out []listedID, err error) {
	where, args := []string{"tenant = ?"}, []any{q.Tenant}
	add := func(condition string, value any) {
		where, args = append(where, condition), append(args, value)
	}
	if q.Model != "" {
		add("model = ?", q.Model)
	}
	if q.User != "" {
		add("user_digest = ?", key.digest("user", q.User))
	}
	if q.UpTo > 0 {
		add("seq <= ?", q.UpTo)
	}
	order := "ASC"
	if q.Newest {
		order = "DESC"
		if after > 0 {
			add("seq < ?", after)
		}
	} else {
		add("seq > ?", after)
	}
	rows, err := s.opt.DB.Query(ctx, "SELECT id, seq FROM capture_records WHERE "+strings.Join(where, " AND ")+
		" ORDER BY seq "+order+" LIMIT ?", append(args, pageLength)...)
	if err != nil {
		return nil, unanswered(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var l listedID
		if err := rows.Scan(&l.id, &l.seq); err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, rows.Err()
}

// FeedbackOn returns all feedback on a record in the order in which it came: ErrNotFound where there is no such record.
func (s *Store) FeedbackOn(ctx context.Context, tenant, id string) (list []Feedback, err error) {
	if err := s.settle(ctx); err != nil {
		return nil, err
	}
	if err := s.known(ctx, tenant, id); err != nil {
		return nil, err
	}
	seqs, err := s.feedbackSeqs(ctx, tenant, id)
	if err != nil {
		return nil, err
	}
	for _, seq := range seqs {
		e, err := s.readRow(ctx, tenant, func() *sql.Row {
			return s.opt.DB.QueryRow(ctx, "SELECT seq, segment, position, length FROM capture_feedback "+
				"WHERE tenant = ? AND seq = ?", tenant, seq)
		})
		if errors.Is(err, ErrNotFound) || err == nil && e.feedback == nil {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, e.feedback.Feedback)
	}
	return list, nil
}

func (s *Store) feedbackSeqs(ctx context.Context, tenant, id string) (seqs []int64, err error) {
	rows, err := s.opt.DB.Query(ctx, "SELECT seq FROM capture_feedback WHERE tenant = ? AND id = ? ORDER BY seq",
		tenant, id)
	if err != nil {
		return nil, unanswered(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var seq int64
		if err := rows.Scan(&seq); err != nil {
			return nil, err
		}
		seqs = append(seqs, seq)
	}
	return seqs, rows.Err()
}

// Latest returns the feedback that counts: the last one on each choice that is not behind a sequence number, 0: any.
func Latest(list []Feedback, upTo int64) map[int]Feedback {
	out := map[int]Feedback{}
	for _, f := range list {
		if upTo == 0 || f.Seq <= upTo {
			out[f.Choice] = f
		}
	}
	return out
}

// LastSeq returns the sequence number of what a tenant's store has received so far: queries up to it return the same
// records later, but for those that were deleted.
func (s *Store) LastSeq(ctx context.Context, tenant string) (seq int64, err error) {
	if err := s.settle(ctx); err != nil {
		return 0, err
	}
	err = s.opt.DB.QueryRow(ctx, "SELECT seq FROM capture_keys WHERE tenant = ?", tenant).Scan(&seq)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return seq, unanswered(err)
}
