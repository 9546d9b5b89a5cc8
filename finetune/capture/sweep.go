package capture

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// fullEvery is how many sweeps of deleted bytes there are to one that also looks for files without a row and at the
// segments of processes that have ended.
const fullEvery = 30

// Sweep removes the bytes of what was deleted, now. It is also done every Options.SweepEvery.
func (s *Store) Sweep(ctx context.Context) error {
	return s.do(ctx, &item{run: func(ctx context.Context) error { return s.sweepAll(ctx, true) }})
}

// tidy is a sweep that logs its error.
func (s *Store) tidy(full bool) {
	ctx := context.Background()
	var err error
	if full {
		err = s.sweepAll(ctx, true)
	} else {
		err = s.sweep(ctx, s.writer, false, true)
	}
	if err != nil {
		s.log.Warn("deleted bytes of captured data were not all removed: it is tried again", "error", err)
	}
}

// sweepAll sweeps the segments of this writer and of those whose process has ended. Only the goroutine that writes
// calls it.
func (s *Store) sweepAll(ctx context.Context, rewrite bool) error {
	errs := []error{s.sweep(ctx, s.writer, true, rewrite)}
	for i := range maxSlots {
		if s.writerName(i) == s.writer {
			continue
		}
		if _, err := os.Stat(s.slotPath(i)); errors.Is(err, fs.ErrNotExist) {
			break
		}
		f, err := lock(s.slotPath(i))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDisk, err)
		}
		if f != nil {
			errs = append(errs, s.sweep(ctx, s.writerName(i), true, rewrite), f.Close())
		}
	}
	return errors.Join(errs...)
}

// sweep recovers the segments of a writer that are not open here and removes files without a row, where full is set;
// where rewrite is, it rewrites those with deleted bytes. One that cannot be read is reported, and the others are
// swept.
func (s *Store) sweep(ctx context.Context, writer string, full, rewrite bool) error {
	var files []string
	if full { // before the rows: a segment's row is older than its file
		var err error
		if files, err = s.files(); err != nil {
			return err
		}
	}
	rows, err := s.segments(ctx, writer)
	if err != nil {
		return err
	}
	var errs []error
	if full {
		errs = append(errs, s.removeUnknown(writer, files, rows))
	}
	onDisk := int64(0)
	for _, r := range rows {
		onDisk += r.bytes
		g := s.active[r.tenant]
		if open := g != nil && g.id == r.id; full && !open {
			if err := s.recoverSegment(ctx, r); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		if r.dirty && rewrite {
			errs = append(errs, s.rewrite(ctx, r))
		}
	}
	if writer == s.writer {
		s.count(func(st *Stats) { st.OnDisk = onDisk })
	}
	return errors.Join(errs...)
}

// ErrForeign says that the folder of segments belongs to another database: nothing in it is removed.
var ErrForeign = errors.New("the folder of captured data belongs to another database")

// adopt records that the folder belongs to this database. One with segments that the database does not know is refused.
func (s *Store) adopt(ctx context.Context) error {
	var known int64
	if err := s.opt.DB.QueryRow(ctx, "SELECT COUNT(*) FROM capture_places WHERE place = ?",
		s.place).Scan(&known); err != nil {
		return unanswered(err)
	}
	if known > 0 {
		return nil
	}
	files, err := s.files()
	if err != nil {
		return err
	}
	if len(files) > 0 {
		return fmt.Errorf("%w: start with the database to which %s belongs; to give up what was captured, delete the "+
			"folder", ErrForeign, s.opt.Dir)
	}
	_, err = s.opt.DB.Exec(ctx, "INSERT INTO capture_places (place) VALUES (?) ON CONFLICT DO NOTHING", s.place)
	return unanswered(err)
}

// files lists the paths of all segments in the folder.
func (s *Store) files() (paths []string, err error) {
	paths, err = filepath.Glob(filepath.Join(globQuote(s.opt.Dir), "tenants", "*", "*.seg"))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDisk, err)
	}
	return paths, nil
}

// globQuote makes the characters of a path that mean something in a pattern mean themselves.
func globQuote(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// removeUnknown removes the segments of a writer that no row names: what crashes left, and those of deleted tenants.
func (s *Store) removeUnknown(writer string, files []string, rows []segmentRow) error {
	known := map[string]bool{}
	for _, r := range rows {
		known[r.id] = true
	}
	var errs []error
	for _, path := range files {
		id := strings.TrimSuffix(filepath.Base(path), ".seg")
		if known[id] || !strings.HasPrefix(id, slotOf(writer)+"-") {
			continue
		}
		for _, g := range s.active {
			if g.id == id {
				s.retire(g)
			}
		}
		errs = append(errs, s.remove(path))
		if !slices.ContainsFunc(rows, func(r segmentRow) bool {
			return r.tenant == filepath.Base(filepath.Dir(path))
		}) {
			os.Remove(filepath.Dir(path)) // fails while it is not empty
		}
	}
	return errors.Join(errs...)
}
