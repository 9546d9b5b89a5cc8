package capture

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"weft/internal/durable"
	"weft/internal/store"
)

// errSegment marks errors of the files.
var errSegment = fmt.Errorf("%w: the segment", ErrDisk)

// segment is the open file to which a tenant's frames are appended.
type segment struct {
	id, tenant, key string
	f               *os.File
	end             int64 // of the last frame in the index
}

func (s *Store) path(tenant, segment string) string {
	return filepath.Join(s.opt.Dir, "tenants", tenant, segment+".seg")
}

// slotOf returns the slot in a writer's name.
func slotOf(writer string) string { return writer[strings.LastIndexByte(writer, '.')+1:] }

// newSegmentID makes the name of a segment, which tells whose it is.
func newSegmentID(writer string) string { return slotOf(writer) + "-" + strings.ToLower(rand.Text()) }

// maxActive limits the segments that are open at once.
const maxActive = 128

// segment returns the tenant's open segment with room, or opens or makes one.
func (s *Store) segment(ctx context.Context, tenant string, key *dataKey) (*segment, error) {
	g := s.active[tenant]
	if g != nil && g.key == key.id && g.end < s.opt.SegmentBytes {
		return g, nil
	}
	if g != nil {
		s.retire(g)
	}
	if len(s.active) >= maxActive {
		for _, other := range s.active {
			s.retire(other)
			break
		}
	}
	g, err := s.reopen(ctx, tenant)
	if g == nil && err == nil {
		g, err = s.make(ctx, tenant, s.writer)
	}
	if err != nil {
		return nil, err
	}
	g.key = key.id
	s.active[tenant] = g
	return g, nil
}

// retire closes a segment; a later batch opens it again or makes another.
func (s *Store) retire(g *segment) {
	if err := g.f.Close(); err != nil {
		s.log.Warn("a segment of captured data was not closed", "error", err)
	}
	if s.active[g.tenant] == g {
		delete(s.active, g.tenant)
	}
}

// reopen opens this writer's last segment of a tenant, where it has room and ends where the index says.
func (s *Store) reopen(ctx context.Context, tenant string) (*segment, error) {
	g := &segment{tenant: tenant}
	err := s.opt.DB.QueryRow(ctx, "SELECT id, bytes FROM capture_segments WHERE tenant = ? AND writer = ? "+
		"ORDER BY created_ns DESC LIMIT 1", tenant, s.writer).Scan(&g.id, &g.end)
	if errors.Is(err, sql.ErrNoRows) || err == nil && g.end >= s.opt.SegmentBytes {
		return nil, nil
	}
	if err != nil {
		return nil, unanswered(err)
	}
	if g.f, err = os.OpenFile(s.path(tenant, g.id), os.O_RDWR, 0); err != nil {
		return nil, ignoreMissing(err) // a sweep reports it
	}
	st, err := g.f.Stat()
	if err != nil || st.Size() != g.end {
		return nil, errors.Join(err, g.f.Close())
	}
	return g, nil
}

// make makes a segment: its row first, so that no file with records is unknown.
func (s *Store) make(ctx context.Context, tenant, writer string) (*segment, error) {
	g := &segment{id: newSegmentID(writer), tenant: tenant, end: int64(len(magic))}
	res, err := s.opt.DB.Exec(ctx, "INSERT INTO capture_segments (id, tenant, writer, bytes, dirty, created_ns) "+
		"SELECT CAST(? AS TEXT), tenant, CAST(? AS TEXT), CAST(? AS BIGINT), 0, CAST(? AS BIGINT) FROM capture_keys "+
		"WHERE tenant = ?", g.id, writer, g.end, s.opt.now().UnixNano(), tenant)
	if err := changedOne(res, err); err != nil {
		if errors.Is(err, errTenant) {
			return nil, err
		}
		return nil, unanswered(err)
	}
	if err := fault(atMade); err != nil {
		return nil, err
	}
	g.f, err = s.makeFile(tenant, g.id)
	return g, err
}

// makeFile makes a segment's file, whose name is durable then.
func (s *Store) makeFile(tenant, id string) (f *os.File, err error) {
	path := s.path(tenant, id)
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", errSegment, err)
	}
	if f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, fmt.Errorf("%w: %w", errSegment, err)
	}
	_, err = f.WriteString(magic)
	if err == nil {
		err = errors.Join(f.Sync(), durable.SyncDir(dir), durable.SyncDir(filepath.Dir(dir)),
			durable.SyncDir(s.opt.Dir))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSegment, errors.Join(err, f.Close()))
	}
	return f, nil
}

// append writes frames behind the last one and syncs them. After an error the file is cut to what it was.
func (g *segment) append(frames []byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %w", errSegment, errors.Join(err, g.f.Truncate(g.end)))
		}
	}()
	half := len(frames) / 2
	if _, err := g.f.WriteAt(frames[:half], g.end); err != nil {
		return err
	}
	if err := fault(atWriting); err != nil {
		return err
	}
	if _, err := g.f.WriteAt(frames[half:], g.end+int64(half)); err != nil {
		return err
	}
	if err := fault(atWritten); err != nil {
		return err
	}
	if err := g.f.Sync(); err != nil {
		return err
	}
	return fault(atSynced)
}

// segmentRow is a row of capture_segments.
type segmentRow struct {
	id, tenant, writer string
	bytes              int64
	dirty              bool
}

// segments lists the segments of a writer.
func (s *Store) segments(ctx context.Context, writer string) (out []segmentRow, err error) {
	rows, err := s.opt.DB.Query(ctx, "SELECT id, tenant, bytes, dirty FROM capture_segments WHERE writer = ? "+
		"ORDER BY tenant, created_ns", writer)
	if err != nil {
		return nil, unanswered(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		r := segmentRow{writer: writer}
		if err := rows.Scan(&r.id, &r.tenant, &r.bytes, &r.dirty); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// recoverSegment adds the whole records behind the indexed end of a segment to the index, and cuts what follows.
func (s *Store) recoverSegment(ctx context.Context, r segmentRow) error {
	f, err := os.OpenFile(s.path(r.tenant, r.id), os.O_RDWR, 0)
	if err != nil {
		return s.missing(ctx, r, err)
	}
	err = s.recoverFile(ctx, r, f)
	return errors.Join(err, f.Close())
}

// missing drops the row of a file that a crash kept from being made. Where records refer to it, it stays.
func (s *Store) missing(ctx context.Context, r segmentRow, err error) error {
	if ignoreMissing(err) != nil {
		return fmt.Errorf("%w: %w", errSegment, err)
	}
	res, err := s.opt.DB.Exec(ctx, "DELETE FROM capture_segments WHERE id = ? AND NOT EXISTS (SELECT 1 FROM "+
		"capture_records WHERE segment = ?) AND NOT EXISTS (SELECT 1 FROM capture_feedback WHERE segment = ?)",
		r.id, r.id, r.id)
	if err != nil {
		return unanswered(err)
	}
	if n, err := affected(res, err); err != nil || n == 1 {
		return err
	}
	return fmt.Errorf("%w: %s is missing, and the index has records in it: put it back, or delete the records with "+
		"`weft data forget`", errSegment, s.path(r.tenant, r.id))
}

func (s *Store) recoverFile(ctx context.Context, r segmentRow, f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("%w: %w", errSegment, err)
	}
	size := st.Size()
	switch {
	case size == r.bytes:
		return nil
	case r.bytes == int64(len(magic)) && size < r.bytes: // killed before the file's first bytes were written
		_, err := f.WriteAt([]byte(magic), 0)
		if err = errors.Join(err, f.Sync()); err != nil {
			return fmt.Errorf("%w: %w", errSegment, err)
		}
		return nil
	case size < r.bytes:
		return fmt.Errorf("%w: %s has %d bytes, and the index %d: it was cut by something else", errSegment, f.Name(),
			size, r.bytes)
	}
	key, err := s.key(ctx, r.tenant, false)
	if err != nil || key == nil {
		return err // without a key the tenant was deleted: the file is removed
	}
	var entries []entry
	end, err := scan(f, r.bytes, size, func(at int64, body []byte) error {
		e, err := key.decode(r.tenant, body)
		if err != nil {
			return err
		}
		e.at, e.size = at, frameHeader+int64(len(body))
		entries = append(entries, e)
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w: %s: %w", errSegment, f.Name(), err)
	}
	if end < size {
		if err := cut(f, end); err != nil {
			return fmt.Errorf("%w: %w", errSegment, err)
		}
		s.count(func(st *Stats) { st.Torn++ })
		s.log.Warn("the end of a segment of captured data was not whole and was cut", "segment", r.id, "bytes",
			size-end)
	}
	if len(entries) == 0 {
		return nil
	}
	var results []error
	err = s.opt.DB.Tx(ctx, func(tx *store.Tx) (err error) {
		if results, err = indexEntries(ctx, tx, r.tenant, key.id, r.id, end, entries); err != nil {
			return err
		}
		return fault(atIndexing)
	})
	if errors.Is(err, errTenant) {
		return nil
	}
	if err != nil {
		return unanswered(err)
	}
	s.count(func(st *Stats) {
		for _, err := range results {
			if err == nil {
				st.Written++
			}
		}
	})
	return fault(atIndexed)
}

func cut(f *os.File, end int64) error {
	if err := fault(atCutting); err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(end), f.Sync()); err != nil {
		return err
	}
	return fault(atCut)
}

// live is a frame to which the index refers.
type live struct {
	table          string
	tenant         string
	seq            int64
	position, size int64
}

// liveFrames lists the frames of a segment to which the index refers, in their order.
func (s *Store) liveFrames(ctx context.Context, segment string) (out []live, err error) {
	rows, err := s.opt.DB.Query(ctx, "SELECT 'records', tenant, seq, position, length FROM capture_records "+
		"WHERE segment = ? UNION ALL SELECT 'feedback', tenant, seq, position, length FROM capture_feedback "+
		"WHERE segment = ? ORDER BY 4", segment, segment)
	if err != nil {
		return nil, unanswered(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var l live
		if err := rows.Scan(&l.table, &l.tenant, &l.seq, &l.position, &l.size); err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, rows.Err()
}

// rewrite copies the live frames of a segment into a new one, moves the index to it, and removes the old file. The new
// file has no row until then: after a crash it is removed.
func (s *Store) rewrite(ctx context.Context, r segmentRow) (err error) {
	if g := s.active[r.tenant]; g != nil && g.id == r.id {
		s.retire(g)
	}
	frames, err := s.liveFrames(ctx, r.id)
	if err != nil {
		return err
	}
	old := s.path(r.tenant, r.id)
	if len(frames) == 0 {
		res, err := s.opt.DB.Exec(ctx, "DELETE FROM capture_segments WHERE id = ?", r.id)
		if err = changedOne(res, err); err != nil && !errors.Is(err, errTenant) {
			return unanswered(err)
		}
		if err := fault(atMoved); err != nil {
			return err
		}
		return s.remove(old)
	}
	id := newSegmentID(r.writer)
	moved, end, err := s.copyFrames(r.tenant, old, id, frames)
	if err == nil {
		err = fault(atCopied)
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(s.path(r.tenant, id))))
	}
	err = s.opt.DB.Tx(ctx, func(tx *store.Tx) error {
		dirty := 0
		for i, l := range frames {
			res, err := tx.Exec(ctx, "UPDATE capture_"+l.table+" SET segment = ?, position = ? WHERE tenant = ? "+
				"AND seq = ? AND segment = ? AND position = ?", id, moved[i], l.tenant, l.seq, r.id, l.position)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil {
				return err
			} else if n == 0 {
				dirty = 1 // deleted in the meantime
			}
		}
		res, err := tx.Exec(ctx, "UPDATE capture_segments SET id = ?, bytes = ?, dirty = ? WHERE id = ?", id, end,
			dirty, r.id)
		if err := changedOne(res, err); err != nil {
			return err
		}
		return fault(atMoving)
	})
	if err != nil {
		return unanswered(err) // the file that the index does not know is removed by a later sweep
	}
	if err := fault(atMoved); err != nil {
		return err
	}
	return s.remove(old)
}

func (s *Store) remove(path string) error {
	err := ignoreMissing(os.Remove(path))
	if err == nil {
		err = ignoreMissing(durable.SyncDir(filepath.Dir(path)))
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errSegment, err)
	}
	s.count(func(st *Stats) { st.Rewrites++ })
	return fault(atRemoved)
}

// copyFrames copies frames into a new segment and returns where they lie there.
func (s *Store) copyFrames(tenant, from, id string, frames []live) (moved []int64, end int64, err error) {
	in, err := os.Open(from)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errSegment, err)
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := s.makeFile(tenant, id)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	end = int64(len(magic))
	if _, err := out.Seek(end, io.SeekStart); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errSegment, err)
	}
	for _, l := range frames {
		// Damaged bytes are copied too: they are one record's, which is as unreadable as before.
		if _, err := io.Copy(out, io.NewSectionReader(in, l.position, l.size)); err != nil {
			return nil, 0, fmt.Errorf("%w: %w", errSegment, err)
		}
		moved = append(moved, end)
		end += l.size
	}
	if err := out.Sync(); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errSegment, err)
	}
	return moved, end, nil
}
