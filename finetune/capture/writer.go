package capture

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"weft/internal/store"
)

// batchTime limits the database's part of one batch.
const batchTime = 30 * time.Second

// write is the writer's goroutine: it takes what has come within a delay, makes it durable, and between two batches
// removes deleted bytes.
func (s *Store) write() {
	defer close(s.done)
	tick := time.NewTicker(s.opt.SweepEvery)
	defer tick.Stop()
	s.sweepNow = true // what the last process left
	for stopped, n := false, 0; ; {
		switch {
		case stopped:
			if batch := s.take(); len(batch) > 0 {
				s.batch(batch)
				continue
			}
			for _, g := range s.active {
				s.retire(g)
			}
			return
		case s.sweepNow:
			full := s.recoverNow || n%fullEvery == 0
			s.sweepNow, s.recoverNow = false, false
			s.tidy(full)
			n++
		}
		select {
		case <-s.stop:
			stopped = true
		case <-tick.C:
			s.sweepNow = true
		case <-s.wake:
			select {
			case <-time.After(s.opt.Delay):
			case <-s.urgent:
			case <-s.stop:
			}
			s.batch(s.take())
		}
	}
}

// take returns what is in memory. It counts as in memory until it is done.
func (s *Store) take() []*item {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch := s.queue
	s.queue = nil
	return batch
}

// batch does the items: those of a tenant in their order, those that only run alone.
func (s *Store) batch(items []*item) {
	ctx, cancel := context.WithTimeout(context.Background(), batchTime)
	defer cancel()
	for len(items) > 0 {
		n := slices.IndexFunc(items, func(i *item) bool { return i.run != nil })
		if n == 0 {
			s.finish(items[:1], []error{items[0].run(context.Background())})
			items = items[1:]
			continue
		}
		if n < 0 {
			n = len(items)
		}
		byTenant := map[string][]*item{}
		var order []string
		for _, i := range items[:n] {
			if byTenant[i.tenant()] == nil {
				order = append(order, i.tenant())
			}
			byTenant[i.tenant()] = append(byTenant[i.tenant()], i)
		}
		for _, tenant := range order {
			s.finish(byTenant[tenant], s.writeTenant(ctx, tenant, byTenant[tenant]))
		}
		items = items[n:]
	}
}

// finish answers those who wait and counts what became of the items.
func (s *Store) finish(items []*item, errs []error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, i := range items {
		s.bytes -= i.size
		if i.size > 0 {
			s.held--
		}
		if i.record != nil {
			key := pendingKey(i.record.Tenant, i.record.ID)
			if s.pending[key]--; s.pending[key] == 0 {
				delete(s.pending, key)
			}
		}
		switch {
		case i.run != nil:
		case errs[n] == nil:
			s.stats.Written++
		case i.record != nil:
			s.stats.Dropped[reason(errs[n])]++
		}
		if i.done != nil {
			i.done <- errs[n]
		}
	}
	s.oldest = time.Time{}
	if len(s.queue) > 0 {
		s.oldest = s.queue[0].came
	}
}

var (
	errForgotten = errors.New("its user or conversation was forgotten")
	errTenant    = errors.New("the tenant does not exist")
	errRedact    = errors.New("it cannot be redacted")
	errDuplicate = errors.New("there is a record with this id")
)

// reason is the reason under which an error is counted.
func reason(err error) string {
	for _, r := range []struct {
		err  error
		name string
	}{{errForgotten, DropForgotten}, {errTenant, DropTenantGone}, {errRedact, DropRedact}, {ErrKey, DropKey},
		{ErrInvalid, DropInvalid}, {errDuplicate, DropInvalid}, {errSegment, DropDisk}} {
		if errors.Is(err, r.err) {
			return r.name
		}
	}
	return DropStore
}

// entry is what becomes a frame, and its rows of the index.
type entry struct {
	record   *storedRecord
	feedback *storedFeedback
	frame    []byte
	at, size int64
}

// storedRecord is the JSON of a record's frame.
type storedRecord struct {
	Record
	Revision int64    `json:"revision,omitempty"` // grows with each change of the metadata
	Named    string   `json:"named,omitempty"`    // digest of the client's name for the conversation
	Prefixes []string `json:"prefixes"`
}

type storedFeedback struct {
	Feedback
	Token string `json:"token"` // random, so that none is in the index twice
}

// writeTenant makes the items of one tenant durable and returns the error of each.
func (s *Store) writeTenant(ctx context.Context, tenant string, items []*item) []error {
	errs := make([]error, len(items))
	all := func(err error) []error {
		s.log.Warn("captured data was not written", "error", tenantError(tenant, err), "records", len(items))
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	key, err := s.key(ctx, tenant, true)
	if err != nil {
		if !errors.Is(err, ErrKey) {
			err = unanswered(err)
		}
		return all(err)
	}
	if key == nil {
		return all(errTenant)
	}
	b := batchOf{s: s, tenant: tenant, key: key, records: map[string]place{}, prefixes: map[string]string{}}
	var entries []entry
	var index []int // of the entries' items
	for n, i := range items {
		e, err := b.prepare(ctx, i)
		if err != nil {
			errs[n] = err
			continue
		}
		entries, index = append(entries, e), append(index, n)
	}
	if len(entries) == 0 {
		return errs
	}
	results, err := s.store(ctx, tenant, key, entries)
	if err != nil {
		s.log.Warn("captured data was not written", "error", tenantError(tenant, err), "records", len(entries))
	}
	for j, n := range index {
		if errs[n] = err; err == nil {
			errs[n] = results[j]
		}
	}
	return errs
}

// store appends the entries to the tenant's segment, syncs it, and commits the index.
func (s *Store) store(ctx context.Context, tenant string, key *dataKey, entries []entry) ([]error, error) {
	g, err := s.segment(ctx, tenant, key)
	if err != nil {
		return nil, err
	}
	var frames []byte
	for i := range entries {
		e := &entries[i]
		e.at, e.size = g.end+int64(len(frames)), int64(len(e.frame))
		frames = append(frames, e.frame...)
	}
	if err := g.append(frames); err != nil {
		s.retire(g)
		return nil, err
	}
	var results []error
	err = s.opt.DB.Tx(ctx, func(tx *store.Tx) (err error) {
		results, err = indexEntries(ctx, tx, tenant, key.id, g.id, g.end+int64(len(frames)), entries)
		if err == nil {
			err = fault(atIndexing)
		}
		return err
	})
	if err == nil {
		err = fault(atIndexed)
	}
	if err != nil {
		// Whether it was committed is not known: what the index lacks is added to it by the next recovery.
		s.retire(g)
		if errors.Is(err, errTenant) {
			return nil, err
		}
		s.sweepNow, s.recoverNow = true, true
		return nil, unanswered(err)
	}
	g.end += int64(len(frames))
	return results, nil
}

// place is where a record belongs, for what follows in the same batch.
type place struct {
	conversation string
	choices      int
}

// batchOf prepares the items of one tenant in one batch.
type batchOf struct {
	s        *Store
	tenant   string
	key      *dataKey
	records  map[string]place
	prefixes map[string]string // digest → id of the record
}

// prepare makes a frame of an item.
func (b *batchOf) prepare(ctx context.Context, i *item) (e entry, err error) {
	defer func() {
		if p := recover(); p != nil { // of redaction; the text of the panic may be a customer's
			err = errRedact
		}
	}()
	switch {
	case i.record != nil:
		e.record, err = b.prepareRecord(ctx, i.record)
	case i.feedback != nil:
		e.feedback, err = b.prepareFeedback(ctx, *i.feedback)
	default:
		e.record, err = b.prepareUpdate(ctx, i.update)
	}
	if err != nil {
		return e, err
	}
	return e, b.key.encode(b.tenant, &e)
}

// encode sets the frame of an entry.
func (k *dataKey) encode(tenant string, e *entry) error {
	sort, value := kindRecord, any(e.record)
	if e.feedback != nil {
		sort, value = kindFeedback, e.feedback
	}
	plain, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("%w: it is no JSON", ErrInvalid)
	}
	if len(plain) > maxBody-minBody {
		return fmt.Errorf("%w: it has %d bytes, at most %d are kept", ErrInvalid, len(plain), maxBody-minBody)
	}
	body := make([]byte, 1, minBody+len(plain))
	body[0] = byte(sort)
	e.frame = appendFrame(nil, sealBytes(k.seal, body, plain, frameContext(tenant, sort)))
	return nil
}

// decode reads the body of a frame.
func (k *dataKey) decode(tenant string, body []byte) (e entry, err error) {
	sort := kind(body[0])
	plain, err := openBytes(k.seal, body[1:], frameContext(tenant, sort))
	if err != nil {
		return e, fmt.Errorf("%w: a record of tenant %s cannot be decrypted", ErrKey, tenant)
	}
	if sort == kindFeedback {
		e.feedback = new(storedFeedback)
		return e, json.Unmarshal(plain, e.feedback)
	}
	e.record = new(storedRecord)
	return e, json.Unmarshal(plain, e.record)
}

func frameContext(tenant string, k kind) string {
	return "weft capture\x00" + tenant + "\x00" + string(k)
}

func (b *batchOf) prepareRecord(ctx context.Context, in *Record) (*storedRecord, error) {
	if in.ID == "" || len(in.Messages) == 0 || len(in.Choices) == 0 {
		return nil, fmt.Errorf("%w: a record needs id, messages and choices", ErrInvalid)
	}
	if in.Created.IsZero() {
		in.Created = b.s.opt.now()
	}
	l := b.key.lineage(in)
	out := &storedRecord{Record: *in, Named: l.named, Prefixes: l.prefixes}
	out.User = l.user
	if err := b.findParent(ctx, &out.Record, &l); err != nil {
		return nil, unanswered(err)
	}
	if err := b.redact(ctx, out); err != nil {
		return nil, err
	}
	b.records[in.ID] = place{out.Conversation, len(in.Choices)}
	for _, p := range l.prefixes {
		b.prefixes[p] = in.ID
	}
	return out, nil
}

// findParent sets the record's conversation and the record that it continues.
func (b *batchOf) findParent(ctx context.Context, r *Record, l *lineage) error {
	r.Conversation, r.Parent = l.named, ""
	for _, digest := range l.answers {
		if id := b.prefixes[digest]; id != "" {
			r.Conversation, r.Parent = b.records[id].conversation, id
			return nil
		}
		err := b.s.opt.DB.QueryRow(ctx, "SELECT r.conversation, r.id FROM capture_prefixes p JOIN capture_records r "+
			"ON r.tenant = p.tenant AND r.id = p.id WHERE p.tenant = ? AND p.digest = ? ORDER BY p.seq DESC LIMIT 1",
			b.tenant, digest).Scan(&r.Conversation, &r.Parent)
		if err == nil {
			return nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	if r.Conversation == "" {
		r.Conversation = b.key.digest("record", r.ID)
	}
	return nil
}

// scope returns what redacts a conversation; nil: nothing is redacted.
func (b *batchOf) scope(ctx context.Context, conversation string) (Scope, error) {
	if b.s.opt.Redact == nil {
		return nil, nil
	}
	scope, err := b.s.opt.Redact(ctx, b.tenant, conversation, []byte(b.key.digest("redaction")))
	if err != nil || scope == nil {
		return nil, fmt.Errorf("%w: %w", errRedact, err)
	}
	return scope, nil
}

// redact replaces the texts of a record; what the caller has is left as it is.
func (b *batchOf) redact(ctx context.Context, r *storedRecord) error {
	scope, err := b.scope(ctx, r.Conversation)
	if scope == nil || err != nil {
		return err
	}
	r.Messages, r.Choices = slices.Clone(r.Messages), slices.Clone(r.Choices)
	for i, m := range r.Messages {
		r.Messages[i] = scope.JSON(m)
	}
	for i, c := range r.Choices {
		r.Choices[i].Message = scope.JSON(c.Message)
	}
	if len(r.Sampling) > 0 {
		r.Sampling = scope.JSON(r.Sampling)
	}
	r.Metadata = redactPairs(scope, r.Metadata)
	return nil
}

func redactPairs(scope Scope, in map[string]string) map[string]string {
	if in == nil {
		return nil
	}
	out := make(map[string]string, len(in))
	for _, k := range slices.Sorted(maps.Keys(in)) { // in order, so that placeholders are the same each time
		out[k] = scope.Text(in[k])
	}
	return out
}

func (b *batchOf) prepareFeedback(ctx context.Context, f Feedback) (*storedFeedback, error) {
	if f.Created.IsZero() {
		f.Created = b.s.opt.now()
	}
	at, err := b.place(ctx, f.ID)
	if err != nil {
		return nil, err
	}
	if f.Choice >= at.choices {
		return nil, fmt.Errorf("%w: choice %d: the completion has %d", ErrChoice, f.Choice, at.choices)
	}
	if p := f.PreferredTo; p != nil {
		worse, err := b.place(ctx, p.ID)
		if err != nil {
			return nil, err
		}
		if p.Choice >= worse.choices {
			return nil, fmt.Errorf("%w: choice %d of preferred_to: the completion has %d", ErrChoice, p.Choice,
				worse.choices)
		}
	}
	scope, err := b.scope(ctx, at.conversation)
	if err != nil {
		return nil, err
	}
	if scope != nil {
		f.Comment = scope.Text(f.Comment)
		if len(f.Demonstration) > 0 {
			f.Demonstration = scope.JSON(f.Demonstration)
		}
	}
	return &storedFeedback{f, strings.ToLower(rand.Text())}, nil
}

// place returns where a record belongs: ErrNotFound.
func (b *batchOf) place(ctx context.Context, id string) (p place, err error) {
	if p, ok := b.records[id]; ok {
		return p, nil
	}
	err = b.s.opt.DB.QueryRow(ctx, "SELECT conversation, choices FROM capture_records WHERE tenant = ? AND id = ?",
		b.tenant, id).Scan(&p.conversation, &p.choices)
	if errors.Is(err, sql.ErrNoRows) {
		return p, ErrNotFound
	}
	return p, unanswered(err)
}

func (b *batchOf) prepareUpdate(ctx context.Context, u *update) (*storedRecord, error) {
	stored, err := b.s.load(ctx, b.tenant, u.id)
	if err != nil {
		return nil, err
	}
	scope, err := b.scope(ctx, stored.Conversation)
	if err != nil {
		return nil, err
	}
	stored.Metadata = u.metadata
	if scope != nil {
		stored.Metadata = redactPairs(scope, u.metadata)
	}
	stored.Revision++
	return stored, nil
}

// indexEntries adds the rows of entries that lie in a segment, whose end it moves, and returns the error of each.
func indexEntries(ctx context.Context, tx *store.Tx, tenant, key, segment string, end int64, entries []entry) (
	[]error, error) {
	n := int64(len(entries))
	res, err := tx.Exec(ctx, "UPDATE capture_keys SET seq = seq + ? WHERE tenant = ? AND id = ?", n, tenant, key)
	if err := changedOne(res, err); err != nil {
		return nil, err
	}
	var seq int64
	if err := tx.QueryRow(ctx, "SELECT seq FROM capture_keys WHERE tenant = ?", tenant).Scan(&seq); err != nil {
		return nil, err
	}
	seq -= n
	errs := make([]error, n)
	dirty := 0
	for i := range entries {
		seq++
		e := &entries[i]
		var err error
		switch {
		case e.feedback != nil:
			errs[i], err = indexFeedback(ctx, tx, tenant, segment, seq, e)
		case e.record.Revision > 0:
			errs[i], err = indexRevision(ctx, tx, tenant, segment, e)
		default:
			errs[i], err = indexRecord(ctx, tx, tenant, segment, seq, e)
		}
		if err != nil {
			return nil, err
		}
		if errs[i] != nil {
			dirty = 1 // its bytes are in the segment
		}
	}
	res, err = tx.Exec(ctx, "UPDATE capture_segments SET bytes = ?, dirty = CASE WHEN dirty > ? THEN dirty ELSE ? END "+
		"WHERE id = ?", end, dirty, dirty, segment)
	return errs, changedOne(res, err)
}

// changedOne returns errTenant where a statement found no row: the tenant was deleted.
func changedOne(res sql.Result, err error) error {
	n, err := affected(res, err)
	if err == nil && n != 1 {
		err = errTenant
	}
	return err
}

func indexRecord(ctx context.Context, tx *store.Tx, tenant, segment string, seq int64, e *entry) (
	refused, err error) {
	r := e.record
	var until sql.NullInt64
	if err := tx.QueryRow(ctx, "SELECT MAX(until_ns) FROM capture_forgotten WHERE tenant = ? AND digest IN (?, ?, ?)",
		tenant, r.User, r.Conversation, r.Named).Scan(&until); err != nil {
		return nil, err
	}
	if until.Valid && r.Created.UnixNano() <= until.Int64 {
		return errForgotten, nil
	}
	res, err := tx.Exec(ctx, "INSERT INTO capture_records (tenant, id, seq, revision, conversation, user_digest, "+
		"model, choices, created_ns, segment, position, length) VALUES (?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?) "+
		"ON CONFLICT DO NOTHING", tenant, r.ID, seq, r.Conversation, r.User, r.Model, len(r.Choices),
		r.Created.UnixNano(), segment, e.at, e.size)
	if n, err := affected(res, err); err != nil || n == 0 {
		return errDuplicate, err
	}
	for _, p := range r.Prefixes {
		if _, err := tx.Exec(ctx, "INSERT INTO capture_prefixes (tenant, digest, id, seq) VALUES (?, ?, ?, ?) "+
			"ON CONFLICT DO NOTHING", tenant, p, r.ID, seq); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// indexRevision moves a record to its new frame, unless it was deleted.
func indexRevision(ctx context.Context, tx *store.Tx, tenant, segment string, e *entry) (refused, err error) {
	r := e.record
	if _, err := tx.Exec(ctx, "UPDATE capture_segments SET dirty = 1 WHERE id = (SELECT segment FROM capture_records "+
		"WHERE tenant = ? AND id = ?)", tenant, r.ID); err != nil {
		return nil, err
	}
	res, err := tx.Exec(ctx, "UPDATE capture_records SET revision = ?, segment = ?, position = ?, length = ? "+
		"WHERE tenant = ? AND id = ? AND revision < ?", r.Revision, segment, e.at, e.size, tenant, r.ID, r.Revision)
	if n, err := affected(res, err); err != nil || n == 0 {
		return ErrNotFound, err
	}
	return nil, nil
}

func indexFeedback(ctx context.Context, tx *store.Tx, tenant, segment string, seq int64, e *entry) (
	refused, err error) {
	f := e.feedback
	res, err := tx.Exec(ctx, "INSERT INTO capture_feedback (tenant, seq, token, id, choice, segment, position, "+
		"length) SELECT tenant, CAST(? AS BIGINT), CAST(? AS TEXT), id, CAST(? AS BIGINT), CAST(? AS TEXT), "+
		"CAST(? AS BIGINT), CAST(? AS BIGINT) FROM capture_records WHERE tenant = ? AND id = ? ON CONFLICT DO NOTHING",
		seq, f.Token, f.Choice, segment, e.at, e.size, tenant, f.ID)
	if n, err := affected(res, err); err != nil || n == 0 {
		return ErrNotFound, err
	}
	return nil, nil
}
