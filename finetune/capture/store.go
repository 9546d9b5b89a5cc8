package capture

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"weft/internal/bounded"
	"weft/internal/durable"
	"weft/internal/names"
	"weft/internal/store"
)

// Options are the settings of a store.
type Options struct {
	DB  *store.DB
	Dir string // of the segments
	// KeyFile has the master key, 64 hexadecimal digits. It is made when the first data key is; its folder must not be
	// in a backup of Dir or of the database.
	// "": there is none, and nothing can be stored.
	KeyFile string
	// Redact returns what redacts the texts of a tenant's conversation before they are written; nil: nothing is
	// redacted. secret is the tenant's and is the same in every process. A record that cannot be redacted is dropped.
	Redact func(ctx context.Context, tenant, conversation string, secret []byte) (Scope, error)
	// Log gets what an operator has to know; nil: nothing is logged. No text of a customer is logged.
	Log *slog.Logger

	MaxQueued      int           // records in memory at most; 0: 4096
	MaxQueuedBytes int64         // of these; 0: 64 MiB
	Delay          time.Duration // how long a record waits for others to share a sync; 0: 100 ms
	SegmentBytes   int64         // size from which a segment is not appended to; 0: 16 MiB
	SweepEvery     time.Duration // between looks for deleted bytes; 0: one minute

	now func() time.Time // nil: time.Now
}

// Scope redacts the texts of one conversation.
type Scope interface {
	Text(text string) string
	// JSON redacts the strings in a JSON text, which stays valid.
	JSON(text []byte) []byte
}

// Store keeps captured records and feedback. One goroutine writes; all methods are safe for concurrent use, and several
// processes may use one database and folder.
type Store struct {
	opt    Options
	log    *slog.Logger
	slot   *os.File // its lock
	place  string   // random name of the folder
	writer string   // this store's name in the rows of its segments

	keysMu sync.Mutex
	keys   map[string]*dataKey

	mu      sync.Mutex
	queue   []*item
	pending map[string]int // records in memory by tenant and id
	held    int            // items with a size, in the queue or being written
	bytes   int64          // of these
	closed  bool
	stats   Stats
	oldest  time.Time // when the oldest item in memory came
	wake    chan struct{}
	urgent  chan struct{} // a caller waits: no further delay
	stop    chan struct{}
	done    chan struct{}

	// only the writer's goroutine uses what follows
	active     map[string]*segment // by tenant
	sweepNow   bool
	recoverNow bool // with the segments whose index may lack records
}

// Open opens the store and recovers what a crash left: the end of a segment that has no whole record is cut, and whole
// records that the index lacks are added to it. ErrKey where the master key is missing or wrong.
func Open(ctx context.Context, opt Options) (*Store, error) {
	setDefaults(&opt)
	s := &Store{opt: opt, log: opt.Log, keys: map[string]*dataKey{}, pending: map[string]int{},
		wake: make(chan struct{}, 1), urgent: make(chan struct{}, 1), stop: make(chan struct{}),
		done: make(chan struct{}), active: map[string]*segment{}}
	s.stats.Dropped = map[string]int64{}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.checkMaster(ctx); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(opt.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDisk, err)
	}
	if err := s.takePlace(); err != nil {
		return nil, err
	}
	if err := s.adopt(ctx); err != nil {
		return nil, errors.Join(err, s.slot.Close())
	}
	if err := s.sweepAll(ctx, false); err != nil {
		s.log.Warn("some captured data cannot be read", "error", err)
	}
	go s.write()
	return s, nil
}

func setDefaults(o *Options) {
	if o.MaxQueued == 0 {
		o.MaxQueued = 4096
	}
	if o.MaxQueuedBytes == 0 {
		o.MaxQueuedBytes = 64 << 20
	}
	if o.Delay == 0 {
		o.Delay = 100 * time.Millisecond
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 16 << 20
	}
	if o.SweepEvery == 0 {
		o.SweepEvery = time.Minute
	}
	if o.now == nil {
		o.now = time.Now
	}
}

// maxSlots limits the processes that write to one folder.
const maxSlots = 64

// takePlace reads or makes the folder's name, and takes the first slot that no process has.
func (s *Store) takePlace() error {
	path := filepath.Join(s.opt.Dir, "place")
	text, err := bounded.ReadFileNoLink(path, 256)
	if errors.Is(err, fs.ErrNotExist) {
		err = errors.Join(ignoreExists(durable.Create(path, []byte(strings.ToLower(rand.Text())), 0o600)),
			durable.SyncDir(s.opt.Dir))
		if err == nil {
			text, err = bounded.ReadFileNoLink(path, 256)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDisk, err)
	}
	s.place = string(text)
	for i := range maxSlots {
		f, err := lock(s.slotPath(i))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDisk, err)
		}
		if f != nil {
			s.slot, s.writer = f, s.writerName(i)
			return nil
		}
	}
	return fmt.Errorf("%w: %d processes already write to %s", ErrDisk, maxSlots, s.opt.Dir)
}

func ignoreExists(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

func (s *Store) slotPath(i int) string {
	return filepath.Join(s.opt.Dir, "writer-"+strconv.Itoa(i)+".lock")
}

func (s *Store) writerName(i int) string { return s.place + "." + strconv.Itoa(i) }

// Close writes what is in memory and closes the store; the database stays open.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	close(s.stop)
	<-s.done
	return s.slot.Close()
}

// item is what waits in memory for the writer.
type item struct {
	record   *Record
	feedback *Feedback
	update   *update
	run      func(ctx context.Context) error // for the writer's goroutine, between two batches
	size     int64
	came     time.Time
	done     chan error // has room for one; nil for records
}

type update struct {
	tenant, id string
	metadata   map[string]string
}

func (i *item) tenant() string {
	switch {
	case i.record != nil:
		return i.record.Tenant
	case i.feedback != nil:
		return i.feedback.Tenant
	case i.update != nil:
		return i.update.tenant
	}
	return ""
}

// Put hands a record over to the writer and returns at once. The store owns it from then on. false: it was dropped and
// counted, because the writer does not follow, or the store is closed.
func (s *Store) Put(r *Record) bool {
	return s.enqueue(&item{record: r, size: r.size()}) == nil
}

func (r *Record) size() int64 {
	n := int64(512 + len(r.ID) + len(r.User) + len(r.Model) + len(r.Sampling))
	for _, m := range r.Messages {
		n += int64(len(m)) + 24
	}
	for _, c := range r.Choices {
		n += int64(len(c.Message)) + 64
	}
	for k, v := range r.Metadata {
		n += int64(len(k)+len(v)) + 32
	}
	return n
}

var errQueue = fmt.Errorf("%w: too many wait in memory: try again later", ErrDisk)

// enqueue appends an item within the limits of memory. Items without a size, which only order or wait, have none.
func (s *Store) enqueue(i *item) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if i.size > 0 && (s.held >= s.opt.MaxQueued || s.bytes+i.size > s.opt.MaxQueuedBytes) {
		if i.record != nil {
			s.stats.Dropped[DropQueue]++
		}
		return errQueue
	}
	i.came = s.opt.now()
	if s.oldest.IsZero() {
		s.oldest = i.came
	}
	s.queue = append(s.queue, i)
	s.bytes += i.size
	if i.size > 0 {
		s.held++
	}
	if i.record != nil {
		s.pending[pendingKey(i.record.Tenant, i.record.ID)]++
	}
	signal(s.wake)
	if i.done != nil {
		signal(s.urgent)
	}
	return nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func pendingKey(tenant, id string) string { return tenant + "\x00" + id }

// do enqueues an item and waits until the writer has done it.
func (s *Store) do(ctx context.Context, i *item) error {
	i.done = make(chan error, 1)
	if err := s.enqueue(i); err != nil {
		return err
	}
	select {
	case err := <-i.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// flush waits until everything that is in memory now is durable or dropped.
func (s *Store) flush(ctx context.Context) error {
	s.mu.Lock()
	idle := s.oldest.IsZero()
	s.mu.Unlock()
	if idle {
		return nil
	}
	return s.do(ctx, &item{run: func(context.Context) error { return nil }})
}

// AddFeedback keeps feedback and returns when it is durable. Its record may still be in memory. ErrNotFound where the
// tenant has no such record; ErrInvalid names the member that is wrong.
func (s *Store) AddFeedback(ctx context.Context, f Feedback) error {
	if err := f.check(); err != nil {
		return err
	}
	for _, id := range f.ids() {
		if err := s.known(ctx, f.Tenant, id); err != nil {
			return err
		}
	}
	return s.do(ctx, &item{feedback: &f, size: int64(512 + len(f.Comment) + len(f.Demonstration))})
}

// Limits of feedback, in bytes.
const (
	MaxComment       = 64 << 10
	MaxDemonstration = 1 << 20
)

func (f *Feedback) check() error {
	switch {
	case f.Choice < 0:
		return fmt.Errorf("%w: choice %d is negative", ErrInvalid, f.Choice)
	case f.PreferredTo != nil && f.PreferredTo.Choice < 0:
		return fmt.Errorf("%w: choice %d of preferred_to is negative", ErrInvalid, f.PreferredTo.Choice)
	case f.PreferredTo != nil && f.PreferredTo.ID == f.ID && f.PreferredTo.Choice == f.Choice:
		return fmt.Errorf("%w: preferred_to names the same answer", ErrInvalid)
	case f.Value != nil && !(*f.Value >= 0 && *f.Value <= 1):
		return fmt.Errorf("%w: value %v is not within 0 and 1", ErrInvalid, *f.Value)
	case len(f.Comment) > MaxComment:
		return fmt.Errorf("%w: comment has %d bytes, at most %d are kept", ErrInvalid, len(f.Comment), MaxComment)
	case len(f.Demonstration) > MaxDemonstration:
		return fmt.Errorf("%w: demonstration has %d bytes, at most %d are kept", ErrInvalid, len(f.Demonstration),
			MaxDemonstration)
	case f.Value == nil && f.Comment == "" && len(f.Demonstration) == 0 && f.PreferredTo == nil:
		return fmt.Errorf("%w: feedback needs value, comment, demonstration or preferred_to", ErrInvalid)
	}
	return nil
}

// ids are the records that feedback names.
func (f *Feedback) ids() []string {
	if f.PreferredTo != nil && f.PreferredTo.ID != f.ID {
		return []string{f.ID, f.PreferredTo.ID}
	}
	return []string{f.ID}
}

// known returns ErrNotFound where a record is neither in memory nor in the index.
func (s *Store) known(ctx context.Context, tenant, id string) error {
	s.mu.Lock()
	waiting := s.pending[pendingKey(tenant, id)] > 0
	s.mu.Unlock()
	if waiting {
		return nil
	}
	var one int
	err := s.opt.DB.QueryRow(ctx, "SELECT 1 FROM capture_records WHERE tenant = ? AND id = ?", tenant, id).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return unanswered(err)
}

// unanswered marks an error of the database.
func unanswered(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: the database: %w", ErrDisk, err)
}

// Update replaces the metadata of a record; its conversation stays.
func (s *Store) Update(ctx context.Context, tenant, id string, metadata map[string]string) (Record, error) {
	if err := s.known(ctx, tenant, id); err != nil {
		return Record{}, err
	}
	change := []*item{{update: &update{tenant, id, metadata}}}
	if err := s.do(ctx, &item{run: func(ctx context.Context) error { // alone, after what came before
		return s.writeTenant(ctx, tenant, change)[0]
	}}); err != nil {
		return Record{}, err
	}
	return s.Get(ctx, tenant, id)
}

// Stats returns the store's figures.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stats
	out.Dropped = make(map[string]int64, len(s.stats.Dropped))
	for k, v := range s.stats.Dropped {
		out.Dropped[k] = v
	}
	out.Queued, out.Bytes = s.held, s.bytes
	if !s.oldest.IsZero() {
		out.Lag = max(0, s.opt.now().Sub(s.oldest))
	}
	return out
}

// count changes the figures.
func (s *Store) count(f func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.stats)
}

// tenantError names the tenant of an error for the log.
func tenantError(tenant string, err error) error {
	return fmt.Errorf("tenant %s: %w", names.Quote(tenant), err)
}
