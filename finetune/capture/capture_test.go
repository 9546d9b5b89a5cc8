package capture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/internal/store"
)

// setup is where a store lies in a test.
type setup struct{ dir string }

func (p setup) db(t testing.TB) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(p.dir, "weft.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	for _, name := range []string{"t", "u"} {
		if _, err := db.Exec(t.Context(), "INSERT INTO tenants (name, created_ns, settings) VALUES (?, 0, '{}') "+
			"ON CONFLICT DO NOTHING", name); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

func (p setup) options(t testing.TB) Options {
	return Options{DB: p.db(t), Dir: filepath.Join(p.dir, "data", "capture"), KeyFile: filepath.Join(p.dir, "key"),
		Delay: time.Millisecond, SweepEvery: time.Hour}
}

func (p setup) open(t testing.TB, change ...func(*Options)) *Store {
	t.Helper()
	opt := p.options(t)
	for _, f := range change {
		f(&opt)
	}
	s, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func say(role, text string) json.RawMessage {
	b, err := json.Marshal(map[string]string{"role": role, "content": text})
	if err != nil {
		panic(err)
	}
	return b
}

// record returns a record of tenant t whose history alternates between user and assistant.
func record(id, user, answer string, history ...string) *Record {
	r := &Record{ID: id, Tenant: "t", User: user, Created: time.Now(), Model: "base",
		Choices: []Choice{{Message: say("assistant", answer), FinishReason: "stop"}}}
	for i, text := range history {
		r.Messages = append(r.Messages, say([]string{"user", "assistant"}[i%2], text))
	}
	return r
}

func put(t testing.TB, s *Store, r *Record) {
	t.Helper()
	if !s.Put(r) {
		t.Fatalf("%s was dropped: %+v", r.ID, s.Stats())
	}
}

func get(t testing.TB, s *Store, id string) Record {
	t.Helper()
	r, err := s.Get(t.Context(), "t", id)
	if err != nil {
		t.Fatalf("%s: %v", id, err)
	}
	return r
}

func answer(r Record) string {
	var m struct{ Content string }
	if len(r.Choices) == 0 || json.Unmarshal(r.Choices[0].Message, &m) != nil {
		return ""
	}
	return m.Content
}

// onDisk reports whether text is in any file below the folder, the database included.
func onDisk(t testing.TB, dir, text string) bool {
	t.Helper()
	found := false
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		found = found || strings.Contains(string(b), text)
		return err
	}))
	return found
}

func TestWhatIsPutIsRead(t *testing.T) {
	p := setup{t.TempDir()}
	s := p.open(t)
	in := record("c1", "anna", "Hello!", "Hi there")
	in.Metadata = map[string]string{"topic": "greeting"}
	in.Sampling = json.RawMessage(`{"temperature":0.5}`)
	in.Usage, in.FirstToken, in.Total, in.OnRequest = Usage{3, 2}, time.Second, 2*time.Second, true
	in.Adapter = Adapter{"house", "abc"}
	want := *in
	put(t, s, in)
	check := func(s *Store) {
		t.Helper()
		r := get(t, s, "c1")
		if len(r.User) != 32 || len(r.Conversation) != 32 || r.Seq != 1 || !r.Created.Equal(want.Created) {
			t.Errorf("%+v", r)
		}
		r.User, r.Conversation, r.Seq, r.Created = want.User, "", 0, want.Created
		if got, text := mustJSON(t, r), mustJSON(t, want); got != text {
			t.Errorf("%s\nwant %s", got, text)
		}
		for _, c := range []struct{ tenant, id string }{{"t", "c2"}, {"u", "c1"}, {"nobody", "c1"}} {
			if _, err := s.Get(t.Context(), c.tenant, c.id); !errors.Is(err, ErrNotFound) {
				t.Errorf("%v: %v", c, err)
			}
		}
	}
	check(s)
	must(t, s.Close())
	for _, text := range []string{"Hello", "Hi there", "anna", "greeting"} {
		if onDisk(t, p.dir, text) {
			t.Errorf("%q is on the disk in clear", text)
		}
	}
	check(p.open(t))
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	must(t, err)
	return string(b)
}

func TestDurableWithinASecond(t *testing.T) {
	s := setup{t.TempDir()}.open(t, func(o *Options) { o.Delay = 0 })
	put(t, s, record("c1", "", "a", "q"))
	start := time.Now()
	for s.Stats().Written == 0 {
		if time.Since(start) > 10*time.Second {
			t.Fatal("a record is not written")
		}
		time.Sleep(5 * time.Millisecond)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("a record was durable after %v", d)
	}
	if st := s.Stats(); st.Queued != 0 || st.Bytes != 0 || st.Lag != 0 {
		t.Errorf("%+v", st)
	}
}

func TestConversations(t *testing.T) {
	s := setup{t.TempDir()}.open(t)
	put(t, s, record("a1", "anna", "Hello!", "Hi"))
	put(t, s, record("a2", "anna", "Good.", "Hi", " Hello!\n", "How are you?"))
	a1, a2 := get(t, s, "a1"), get(t, s, "a2")
	put(t, s, record("a3", "anna", "Fine.", "Hi", "Hello!", "How are you?")) // generated again
	put(t, s, record("a4", "anna", "Yes.", "Hi", "Hello!", "Is it Monday?")) // edited
	put(t, s, record("a5", "anna", "No.", "Hi", "Hello!", "How are you?", "Good.", "Really?"))
	put(t, s, record("b1", "berta", "Hello!", "Hi"))
	put(t, s, record("b2", "berta", "Good.", "Hi", "Hello!", "How are you?"))
	put(t, s, record("n1", "anna", "Never.", "Hi", "An answer of another program", "And?"))
	foreign := record("x1", "anna", "No.", "Hi", "Hello!", "How are you?")
	foreign.Tenant = "u"
	put(t, s, foreign)
	for i, id := range []string{"m1", "m2"} {
		r := record(id, "anna", "Hello!", "Hi")
		if i > 0 {
			r = record(id, "anna", "Well.", "Hi", "Hello!", "How are you?")
		}
		r.Metadata = map[string]string{"conversation_id": "mine"}
		put(t, s, r)
	}
	for id, parent := range map[string]string{"a2": "a1", "a3": "a1", "a4": "a1", "a5": "a2"} {
		if r := get(t, s, id); r.Parent != parent || r.Conversation != a1.Conversation {
			t.Errorf("%s continues %q in %s, want %s in %s", id, r.Parent, r.Conversation, parent, a1.Conversation)
		}
	}
	if a1.Parent != "" || a2.Conversation != a1.Conversation {
		t.Errorf("%+v %+v", a1, a2)
	}
	conversations := map[string]bool{}
	for id, parent := range map[string]string{"a1": "", "b1": "", "b2": "b1", "n1": "", "m1": "", "m2": "m1"} {
		r := get(t, s, id)
		conversations[r.Conversation] = true
		if r.Parent != parent {
			t.Errorf("%s continues %q, want %q", id, r.Parent, parent)
		}
	}
	x1, err := s.Get(t.Context(), "u", "x1")
	must(t, err)
	conversations[x1.Conversation] = true
	if len(conversations) != 5 || x1.Parent != "" {
		t.Errorf("%d conversations, want those of anna, berta, n1, mine and tenant u: %v", len(conversations), x1)
	}
}

func TestList(t *testing.T) {
	s := setup{t.TempDir()}.open(t)
	for i := range 450 {
		r := record(fmt.Sprint("c", i), []string{"anna", "berta"}[i%2], "a", "q")
		r.Model = []string{"base", "base", "other"}[i%3]
		r.Metadata = map[string]string{"third": fmt.Sprint(i % 3), "tenth": fmt.Sprint(i % 10)}
		put(t, s, r)
	}
	list := func(q Query) (ids []string, more bool) {
		t.Helper()
		q.Tenant = "t"
		rs, more, err := s.List(t.Context(), q)
		must(t, err)
		for _, r := range rs {
			ids = append(ids, r.ID)
		}
		return ids, more
	}
	for _, c := range []struct {
		q    Query
		want string
		more bool
	}{
		{Query{Limit: 3}, "[c0 c1 c2]", true},
		{Query{Limit: 3, Newest: true}, "[c449 c448 c447]", true},
		{Query{Limit: 3, After: "c2"}, "[c3 c4 c5]", true},
		{Query{Limit: 3, After: "c447"}, "[c448 c449]", false},
		{Query{Limit: 2, After: "c2", Newest: true}, "[c1 c0]", false},
		{Query{Limit: 2, Model: "other"}, "[c2 c5]", true},
		{Query{Limit: 2, User: "berta", Newest: true}, "[c449 c447]", true},
		{Query{Limit: 2, UpTo: 5, Newest: true}, "[c4 c3]", true},
		{Query{Limit: 2, Metadata: map[string]string{"tenth": "9", "third": "2"}, After: "c400"}, "[c419 c449]", false},
		{Query{Limit: 2, Metadata: map[string]string{"none": ""}}, "[]", false},
	} {
		if ids, more := list(c.q); fmt.Sprint(ids) != c.want || more != c.more {
			t.Errorf("%+v: %v, more %v; want %s, %v", c.q, ids, more, c.want, c.more)
		}
	}
	if ids, more := list(Query{Limit: 1000}); len(ids) != 450 || more {
		t.Errorf("%d records, more %v", len(ids), more)
	}
	if ids, _ := list(Query{}); len(ids) != DefaultLimit {
		t.Errorf("%d records without a limit", len(ids))
	}
	for _, q := range []Query{{Tenant: "t", Limit: -1}, {Tenant: "t", Limit: MaxLimit + 1}} {
		if _, _, err := s.List(t.Context(), q); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", q, err)
		}
	}
	for _, tenant := range []string{"t", "u"} {
		if _, _, err := s.List(t.Context(), Query{Tenant: tenant, After: "none"}); !errors.Is(err, ErrNotFound) {
			t.Errorf("after a record that is not there: %v", err)
		}
	}
}

func value(v float64) *float64 { return &v }

func TestFeedback(t *testing.T) {
	p := setup{t.TempDir()}
	s := p.open(t, func(o *Options) { o.Delay = time.Minute }) // records stay in memory until one waits for them
	put(t, s, record("c1", "anna", "a", "q"))
	put(t, s, record("c2", "anna", "a", "q"))
	ctx := t.Context()
	must(t, s.AddFeedback(ctx, Feedback{Tenant: "t", ID: "c1", Value: value(0), Comment: "bad"}))
	must(t, s.AddFeedback(ctx, Feedback{Tenant: "t", ID: "c1", Value: value(1), Demonstration: say("assistant", "b"),
		PreferredTo: &Preference{ID: "c2"}}))
	for _, c := range []struct {
		f    Feedback
		want error
		text string
	}{
		{Feedback{Tenant: "t", ID: "none", Value: value(1)}, ErrNotFound, ""},
		{Feedback{Tenant: "u", ID: "c1", Value: value(1)}, ErrNotFound, ""},
		{Feedback{Tenant: "t", ID: "c1", PreferredTo: &Preference{ID: "none"}}, ErrNotFound, ""},
		{Feedback{Tenant: "t", ID: "c1", Choice: 1, Value: value(1)}, ErrInvalid, "choice 1: the completion has 1"},
		{Feedback{Tenant: "t", ID: "c1", Choice: -1, Value: value(1)}, ErrInvalid, "choice -1"},
		{Feedback{Tenant: "t", ID: "c1", PreferredTo: &Preference{ID: "c2", Choice: 7}}, ErrInvalid, "preferred_to"},
		{Feedback{Tenant: "t", ID: "c1", PreferredTo: &Preference{ID: "c2", Choice: -7}}, ErrInvalid, "preferred_to"},
		{Feedback{Tenant: "t", ID: "c1", PreferredTo: &Preference{ID: "c1"}}, ErrInvalid, "same answer"},
		{Feedback{Tenant: "t", ID: "c1", Value: value(1.01)}, ErrInvalid, "value 1.01"},
		{Feedback{Tenant: "t", ID: "c1"}, ErrInvalid, "needs value"},
		{Feedback{Tenant: "t", ID: "c1", Comment: strings.Repeat("x", MaxComment+1)}, ErrInvalid, "comment has"},
	} {
		err := s.AddFeedback(ctx, c.f)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: %v", c.f, err)
		}
	}
	must(t, s.Close())
	s = p.open(t)
	list, err := s.FeedbackOn(ctx, "t", "c1")
	must(t, err)
	if len(list) != 2 || list[0].Comment != "bad" || list[1].Seq <= list[0].Seq {
		t.Fatalf("%+v", list)
	}
	if f := Latest(list, 0)[0]; *f.Value != 1 || f.PreferredTo.ID != "c2" || f.Created.IsZero() {
		t.Errorf("the last one: %+v", f)
	}
	if f := Latest(list, list[0].Seq)[0]; *f.Value != 0 {
		t.Errorf("the last one at planning: %+v", f)
	}
	must(t, s.Delete(ctx, "t", "c1"))
	if _, err := s.FeedbackOn(ctx, "t", "c1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("feedback on a deleted record: %v", err)
	}
	if err := s.AddFeedback(ctx, Feedback{Tenant: "t", ID: "c1", Value: value(1)}); !errors.Is(err, ErrNotFound) {
		t.Errorf("feedback on a deleted record: %v", err)
	}
}

func TestUpdate(t *testing.T) {
	p := setup{t.TempDir()}
	s := p.open(t)
	r := record("c1", "anna", "a", "q")
	r.Metadata = map[string]string{"old": "value-of-before"}
	put(t, s, r)
	before := get(t, s, "c1")
	for i := range 3 {
		out, err := s.Update(t.Context(), "t", "c1", map[string]string{"new": fmt.Sprint(i)})
		must(t, err)
		if out.Metadata["new"] != fmt.Sprint(i) || len(out.Metadata) != 1 || out.Seq != before.Seq ||
			out.Conversation != before.Conversation || answer(out) != "a" {
			t.Errorf("%+v", out)
		}
	}
	if _, err := s.Update(t.Context(), "t", "none", nil); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	must(t, s.Sweep(t.Context()))
	must(t, s.Close())
	s = p.open(t)
	if got := get(t, s, "c1").Metadata["new"]; got != "2" {
		t.Errorf("after a start: %q", got)
	}
	if n := frames(t, s); n != 1 {
		t.Errorf("%d frames after a sweep, want 1", n)
	}
}

// frames counts the whole frames of all segments.
func frames(t testing.TB, s *Store) (n int) {
	t.Helper()
	paths, err := s.files()
	must(t, err)
	for _, path := range paths {
		f, err := os.Open(path)
		must(t, err)
		st, err := f.Stat()
		must(t, err)
		end, err := scan(f, int64(len(magic)), st.Size(), func(int64, []byte) error { n++; return nil })
		must(t, err)
		if end != st.Size() {
			t.Errorf("%s is whole up to %d of %d", path, end, st.Size())
		}
		must(t, f.Close())
	}
	return n
}

func TestForget(t *testing.T) {
	p := setup{t.TempDir()}
	ctx := t.Context()
	now := time.Now()
	s := p.open(t, func(o *Options) { o.now = func() time.Time { return now } })
	for i := range 20 {
		r := record(fmt.Sprint("c", i), []string{"anna", "berta"}[i%2], "a", fmt.Sprint("question ", i))
		r.Created = now
		if i >= 16 {
			r.Metadata = map[string]string{"conversation_id": "mine"}
		}
		put(t, s, r)
		must(t, s.AddFeedback(ctx, Feedback{Tenant: "t", ID: r.ID, Value: value(1)}))
	}
	d, err := s.Forget(ctx, Selection{Tenant: "t", User: "anna"})
	must(t, err)
	if d != (Deleted{10, 10}) {
		t.Errorf("%+v", d)
	}
	d, err = s.Forget(ctx, Selection{Tenant: "t", Conversation: "mine"})
	must(t, err)
	if d != (Deleted{2, 2}) {
		t.Errorf("by the client's id: %+v", d)
	}
	d, err = s.Forget(ctx, Selection{Tenant: "t", Conversation: get(t, s, "c1").Conversation})
	must(t, err)
	if d != (Deleted{1, 1}) {
		t.Errorf("by the store's id: %+v", d)
	}
	for id, there := range map[string]bool{"c0": false, "c1": false, "c3": true, "c17": false, "c18": false} {
		if _, err := s.Get(ctx, "t", id); there != (err == nil) || !there && !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", id, err)
		}
	}
	// an answer that was under way is dropped, one to a later request is kept
	for id, at := range map[string]time.Time{"late": now.Add(-time.Second), "new": now.Add(time.Second)} {
		r := record(id, "anna", "a", "q "+id)
		r.Created = at
		put(t, s, r)
	}
	get(t, s, "new")
	if _, err := s.Get(ctx, "t", "late"); !errors.Is(err, ErrNotFound) {
		t.Errorf("an answer that was under way: %v", err)
	}
	must(t, s.Sweep(ctx))
	if n := frames(t, s); n != 2*7+1 {
		t.Errorf("%d frames after a sweep", n)
	}
	if st := s.Stats(); st.Dropped[DropForgotten] != 1 || st.Forgot != 13 || st.Rewrites == 0 {
		t.Errorf("%+v", st)
	}
	for _, sel := range []Selection{{Tenant: "t"}, {Tenant: "t", User: "a", Conversation: "b"},
		{Tenant: "none", User: "a"}} {
		if _, err := s.Forget(ctx, sel); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", sel, err)
		}
	}
	if err := s.Delete(ctx, "t", "none"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if err := s.Delete(ctx, "u", "c3"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// What another process forgets is unreadable here at once, and its bytes are removed by the process that wrote them.
func TestTwoProcesses(t *testing.T) {
	p := setup{t.TempDir()}
	a, b := p.open(t), p.open(t)
	ctx := t.Context()
	put(t, a, record("c1", "anna", "a", "q"))
	put(t, a, record("c2", "berta", "a", "q"))
	get(t, a, "c1")
	put(t, b, record("c3", "anna", "a", "q3"))
	get(t, a, "c2")
	if _, err := b.Get(ctx, "t", "c3"); err != nil {
		t.Fatal(err)
	}
	get(t, a, "c3")
	d, err := b.Forget(ctx, Selection{Tenant: "t", User: "anna"})
	must(t, err)
	if d.Records != 2 {
		t.Errorf("%+v", d)
	}
	if _, err := a.Get(ctx, "t", "c1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the other process reads %v", err)
	}
	must(t, b.Sweep(ctx))
	if n := frames(t, a); n != 2 {
		t.Errorf("%d frames: a process removes only bytes of its own segments", n)
	}
	must(t, a.Sweep(ctx))
	if n := frames(t, a); n != 1 {
		t.Errorf("%d frames after both have swept", n)
	}
	must(t, a.Close())
	_, err = b.Forget(ctx, Selection{Tenant: "t", User: "berta"})
	must(t, err)
	must(t, b.Sweep(ctx))
	if n := frames(t, b); n != 0 {
		t.Errorf("%d frames: the segments of a process that has ended are swept by another", n)
	}
}

func TestBoundedMemory(t *testing.T) {
	block := make(chan struct{})
	s := setup{t.TempDir()}.open(t, func(o *Options) {
		o.MaxQueued, o.MaxQueuedBytes = 10, 1<<20
		o.Redact = func(context.Context, string, string, []byte) (Scope, error) { <-block; return plain{}, nil }
	})
	kept := 0
	start := time.Now()
	for i := range 1000 {
		if s.Put(record(fmt.Sprint("c", i), "", "a", strings.Repeat("q", 1000))) {
			kept++
		}
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("1000 records that are dropped took %v", d)
	}
	st := s.Stats()
	if kept != 10 || st.Queued != 10 || st.Dropped[DropQueue] != int64(1000-kept) || st.Lag <= 0 {
		t.Errorf("%d are in memory: %+v", kept, st)
	}
	big := record("big", "", "a", strings.Repeat("q", 1<<20))
	if s.Put(big) {
		t.Error("a record that is larger than the memory is kept")
	}
	if err := s.AddFeedback(t.Context(), Feedback{Tenant: "t", ID: "c0", Comment: "x"}); !errors.Is(err, ErrDisk) {
		t.Errorf("feedback while memory is full: %v", err)
	}
	close(block)
	must(t, s.Sweep(t.Context()))
	if st := s.Stats(); st.Written != int64(kept) || st.Queued != 0 || st.Bytes != 0 {
		t.Errorf("%d were kept: %+v", kept, st)
	}
}

type plain struct{}

func (plain) Text(s string) string { return s }
func (plain) JSON(b []byte) []byte { return b }

type upper struct{ conversation string }

func (u upper) Text(s string) string { return strings.ReplaceAll(s, "secret", "[X]") }
func (u upper) JSON(b []byte) []byte { return []byte(u.Text(string(b))) }

func TestRedactionComesFirst(t *testing.T) {
	p := setup{t.TempDir()}
	scopes := map[string]bool{}
	var fail error
	redact := func(_ context.Context, tenant, conversation string, secret []byte) (Scope, error) {
		scopes[tenant+" "+conversation+" "+string(secret)] = true
		if fail != nil {
			return nil, fail
		}
		return upper{conversation}, nil
	}
	s := p.open(t, func(o *Options) { o.Redact = redact })
	r := record("c1", "secret user", "a secret answer", "a secret question")
	r.Metadata = map[string]string{"k": "secret"}
	r.Sampling = json.RawMessage(`{"stop":"secret"}`)
	put(t, s, r)
	must(t, s.AddFeedback(t.Context(), Feedback{Tenant: "t", ID: "c1", Comment: "secret",
		Demonstration: say("assistant", "secret")}))
	_, err := s.Update(t.Context(), "t", "c1", map[string]string{"k": "other secret"})
	must(t, err)
	list, err := s.FeedbackOn(t.Context(), "t", "c1")
	must(t, err)
	if all := mustJSON(t, []any{get(t, s, "c1"), list}); strings.Contains(all, "secret") ||
		strings.Count(all, "[X]") != 6 {
		t.Errorf("%s", all)
	}
	if len(scopes) != 1 {
		t.Errorf("record, feedback and change of one conversation are redacted as %v", scopes)
	}
	if !strings.Contains(string(r.Messages[0]), "secret") {
		t.Error("the caller's messages were changed")
	}
	fail = errors.New("a rule is broken")
	put(t, s, record("c2", "", "a", "q"))
	if _, err := s.Get(t.Context(), "t", "c2"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a record that cannot be redacted: %v", err)
	}
	if st := s.Stats(); st.Dropped[DropRedact] != 1 {
		t.Errorf("%+v", st)
	}
}

func TestBadRecords(t *testing.T) {
	s := setup{t.TempDir()}.open(t)
	put(t, s, record("c1", "", "a", "q"))
	twice := record("c1", "", "another", "q")
	put(t, s, twice)
	broken := record("c2", "", "a", "q")
	broken.Messages = []json.RawMessage{[]byte(`{"role":`)}
	put(t, s, broken)
	put(t, s, &Record{ID: "c3", Tenant: "t"})
	gone := record("c4", "", "a", "q")
	gone.Tenant = "nobody"
	put(t, s, gone)
	put(t, s, record("c5", "", "a", "q"))
	if answer(get(t, s, "c1")) != "a" || answer(get(t, s, "c5")) != "a" {
		t.Error("a bad record changed another one")
	}
	if st := s.Stats(); st.Dropped[DropInvalid] != 3 || st.Dropped[DropTenantGone] != 1 || st.Written != 2 {
		t.Errorf("%+v", st)
	}
}
