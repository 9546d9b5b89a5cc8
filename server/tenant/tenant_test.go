package tenant

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/adapters"
	"weft/internal/store"
)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func newClock() *clock { return &clock{t: time.Unix(60*29_000_000, 0).UTC()} }

func openStore(t *testing.T) *Store {
	t.Helper()
	return openStoreAt(t, filepath.Join(t.TempDir(), "weft.db"))
}

func openStoreAt(t *testing.T, dsn string) *Store {
	t.Helper()
	db, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s, err := NewStore(t.Context(), db, adapters.CountNames)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openAccess(t *testing.T, opt Options) *Access {
	t.Helper()
	a, err := NewAccess(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return a
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestTenants(t *testing.T) { testTenants(t, openStore(t)) }

func testTenants(t *testing.T, s *Store) {
	ctx := t.Context()
	set := DefaultSettings()
	set.Weight, set.RequestsPerMinute, set.Adapters = 2.5, 7, []string{"support"}
	must(s.Create(ctx, "acme", set))
	if _, err := s.Create(ctx, "acme", set); !errors.Is(err, ErrConflict) {
		t.Errorf("a second tenant of the name: %v", err)
	}
	if got := must(s.Get(ctx, "acme")); !reflect.DeepEqual(got.Settings, set) {
		t.Errorf("stored %+v", got.Settings)
	}
	if got := must(s.Update(ctx, "acme",
		func(s *Settings) error { s.TokensPerMinute = 9; return nil })); got.Settings.TokensPerMinute != 9 ||
		got.Settings.Weight != 2.5 {
		t.Errorf("updated %+v", got.Settings)
	}
	if _, err := s.Update(ctx, "acme", func(s *Settings) error { s.Weight = 0; return nil }); !errors.Is(err,
		ErrInvalid) {
		t.Errorf("weight 0: %v", err)
	}
	var names []string
	for _, tn := range must(s.List(ctx)) {
		names = append(names, tn.Name)
	}
	if strings.Join(names, " ") != "acme default" {
		t.Errorf("tenants %v", names)
	}
	must(s.db.Exec(ctx,
		"INSERT INTO adapter_names (tenant, name, digest, seq, pinned) VALUES ('acme', 'x', 'd', 1, 0)"))
	if err := s.Delete(ctx, "acme"); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "1 adapters") {
		t.Errorf("delete with an adapter: %v", err)
	}
	must(s.db.Exec(ctx, "DELETE FROM adapter_names"))
	if err := s.Delete(ctx, "acme"); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"get": second(s.Get(ctx, "acme")), "delete": s.Delete(ctx, "acme"),
		"update": second(s.Update(ctx, "acme", func(*Settings) error { return nil })),
	} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%s of a tenant that is gone: %v", name, err)
		}
	}
	if err := s.Delete(ctx, Default); !errors.Is(err, ErrConflict) {
		t.Errorf("delete default: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestNamesAreRefused(t *testing.T) {
	s, ctx := openStore(t), t.Context()
	for _, name := range []string{"", ".", "..", "a..b", "-a", "_a", "A", "a/b", "a@b", "a:b", "a b", "a\x00b", "a\nb",
		"é", "'; DROP TABLE tenants; --", strings.Repeat("a", 65), strings.Repeat("x", 10_000)} {
		_, err := s.Create(ctx, name, DefaultSettings())
		if !errors.Is(err, ErrInvalid) || len(err.Error()) > 300 || strings.ContainsAny(err.Error(), "\n\x00") {
			t.Errorf("%.20q: %v", name, err)
		}
		if _, _, err := s.AddKey(ctx, name, KeySettings{Scopes: []Scope{Infer}}, time.Time{}); !errors.Is(err,
			ErrNotFound) {
			t.Errorf("a key for %.20q: %v", name, err)
		}
	}
	for _, name := range []string{"a", "0", "a.b-c_d", strings.Repeat("a", 64)} {
		if _, err := s.Create(ctx, name, DefaultSettings()); err != nil {
			t.Error(err)
		}
	}
	for _, change := range []func(*Settings){
		func(s *Settings) { s.Weight = -1 }, func(s *Settings) { s.Weight = 1e9 }, func(
			s *Settings) {
			s.PrefixCache = "all"
		}, func(s *Settings) { s.TokensPerMinute = -1 },
		func(s *Settings) { s.DefaultAdapter = "../x" }, func(s *Settings) { s.DefaultAdapter = "x@" }, func(
			s *Settings) {
			s.Adapters = []string{"ok", "n/o"}
		},
		func(s *Settings) { s.Adapters = make([]string, maxAllowed+1) },
	} {
		set := DefaultSettings()
		change(&set)
		if _, err := s.Create(ctx, "good", set); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", set, err)
		}
	}
	for _, set := range []KeySettings{{}, {Scopes: []Scope{"root"}}, {Scopes: []Scope{Infer, Infer, Infer, "x"}},
		{Scopes: []Scope{Infer}, DefaultAdapter: "a/b"}} {
		if _, _, err := s.AddKey(ctx, Default, set, time.Time{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", set, err)
		}
	}
}

func TestKeys(t *testing.T) { testKeys(t, openStore(t)) }

func testKeys(t *testing.T, s *Store) {
	c, ctx := newClock(), t.Context()
	s.now = c.now
	a := openAccess(t, Options{Store: s, Open: true, Now: c.now, Keys: nil})
	if a.NeedsKey() || a.HasKeys() {
		t.Error("without any key the server should be open")
	}
	if g, err := a.Authenticate(""); err != nil || g.Tenant != Default || !g.Operator() {
		t.Errorf("open: %+v %v", g, err)
	}
	set := DefaultSettings()
	set.DefaultAdapter = "support"
	must(s.Create(ctx, "acme", set))
	secret, key, err := s.AddKey(ctx, "acme", KeySettings{Scopes: []Scope{Metrics, Infer, Infer}},
		c.now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if len(secret) != 48 || !strings.HasPrefix(secret, "weft-") {
		t.Errorf("key %q", secret)
	}
	c.add(time.Second)
	own, _, err := s.AddKey(ctx, "acme", KeySettings{Scopes: []Scope{Admin}, DefaultAdapter: "other@v2"}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	g, err := a.Authenticate(secret)
	if err != nil || g.Tenant != "acme" || g.Key != key.ID || !g.Has(Infer) || !g.Has(Metrics) || g.Has(Admin) ||
		g.DefaultAdapter != "support" {
		t.Errorf("%+v %v", g, err)
	}
	if g, err := a.Authenticate(own); err != nil || g.Operator() || g.DefaultAdapter != "other@v2" {
		t.Errorf("%+v %v", g, err)
	}
	for _, bad := range []string{"", "x", secret[:47], secret + "A", "weft-", strings.ToUpper(secret),
		strings.Repeat("k", 10_000), "' OR 1=1 --", "\x00"} {
		if _, err := a.Authenticate(bad); !errors.Is(err, ErrNoKey) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	listed := must(json.Marshal(&must(s.Keys(ctx, "acme"))[0]))
	if bytes.Contains(listed, []byte(secret[10:])) || bytes.Contains(listed, []byte("hash")) || !bytes.Contains(listed, []byte(`"hint":"`+secret[:9]+`"`)) {
		t.Errorf("listed: %s", listed)
	}
	var kept int
	if err := s.db.QueryRow(ctx, "SELECT COUNT(*) FROM tenant_keys WHERE hash LIKE ? OR settings LIKE ?",
		"%"+secret[10:]+"%", "%"+secret[10:]+"%").Scan(&kept); err != nil || kept != 0 {
		t.Errorf("the key itself is in the database: %d %v", kept, err)
	}

	if err := s.Revoke(ctx, "other", key.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("another tenant's key: %v", err)
	}
	c.add(time.Hour)
	if _, err := a.Authenticate(secret); !errors.Is(err, ErrNoKey) {
		t.Errorf("an expired key: %v", err)
	}
	for _, k := range must(s.Keys(ctx, "acme")) {
		if err := errors.Join(s.Revoke(ctx, "acme", k.ID), s.Revoke(ctx, "", k.ID)); err != nil {
			t.Error(err)
		}
	}
	if err := a.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Authenticate(own); !errors.Is(err, ErrNoKey) {
		t.Errorf("a revoked key: %v", err)
	}
	if _, err := a.Authenticate(""); !errors.Is(err, ErrNoKey) || a.HasKeys() {
		t.Errorf("the last key is revoked, and the server opens: %v", err)
	}
	if _, _, err := s.AddKey(ctx, "acme", KeySettings{Scopes: []Scope{Infer}}, c.now()); !errors.Is(err, ErrInvalid) {
		t.Errorf("a key that has expired: %v", err)
	}
}

func TestKeysOfAFile(t *testing.T) {
	a := openAccess(t, Options{Keys: []string{"key-one", "key-two"}, Open: true})
	for key, good := range map[string]bool{"key-one": true, "key-two": true, "key-three": false, "": false} {
		if g, err := a.Authenticate(key); (err == nil) != good || good && (!g.Operator() || g.Key != "file") {
			t.Errorf("%q: %+v %v", key, g, err)
		}
	}
}

// What another process changes is seen within a second, and a removed tenant's keys open nothing.
func TestChangesAreSeenWithinASecond(t *testing.T) {
	s := openStore(t)
	testChangesAreSeenWithinASecond(t, s, s)
}

// testChangesAreSeenWithinASecond changes s and looks at a server on other, which is the same database.
func testChangesAreSeenWithinASecond(t *testing.T, s, other *Store) {
	ctx := t.Context()
	a := openAccess(t, Options{Store: other})
	soon := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if ok() {
				return
			}
		}
		t.Errorf("not within a second: %s", what)
	}
	must(s.Create(ctx, "acme", DefaultSettings()))
	secret, key, err := s.AddKey(ctx, "acme", KeySettings{Scopes: []Scope{Infer}}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	soon("a new key", func() bool { return second(a.Authenticate(secret)) == nil })
	must(s.Update(ctx, "acme", func(s *Settings) error { s.MaxTokens = 5; return nil }))
	soon("a new limit", func() bool { return must(a.Authenticate(secret)).Settings.MaxTokens == 5 })
	if err := s.Revoke(ctx, "acme", key.ID); err != nil {
		t.Fatal(err)
	}
	soon("a revoked key", func() bool { return second(a.Authenticate(secret)) != nil })
	secret, _, err = s.AddKey(ctx, "acme", KeySettings{Scopes: []Scope{Infer}}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	soon("another key", func() bool { return second(a.Authenticate(secret)) == nil })
	if err := s.Delete(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	soon("a removed tenant", func() bool { return second(a.Authenticate(secret)) != nil })
	must(s.Create(ctx, "acme", DefaultSettings()))
	if err := a.Refresh(ctx); err != nil || second(a.Authenticate(secret)) == nil {
		t.Errorf("the key opens a new tenant of the old name: %v", err)
	}
}

func quota(change func(*Settings)) *Grant {
	set := DefaultSettings()
	change(&set)
	return &Grant{Tenant: "acme", Settings: set}
}

func wantLimit(t *testing.T, err error, name string, retry time.Duration) {
	t.Helper()
	var l *Limit
	if !errors.As(err, &l) || l.Quota != name || (l.Retry-retry).Abs() > 50*time.Millisecond {
		t.Errorf("%v (%+v), want %s and retry after %v", err, l, name, retry)
	}
}

func TestQuotas(t *testing.T) {
	c := newClock()
	a := openAccess(t, Options{Now: c.now})
	g := quota(func(s *Settings) { s.RequestsPerMinute = 3 })
	for i := range 3 {
		tk, r, err := a.Begin(g)
		if err != nil || r.Requests != (Rate{3, int64(2 - i), 2 * time.Minute}) {
			t.Fatalf("%+v %v", r, err)
		}
		tk.Close()
	}
	_, r, err := a.Begin(g)
	wantLimit(t, err, "requests_per_minute", 80*time.Second) // a third of 3 requests must leave the sliding minute
	if r.Requests.Remaining != 0 {
		t.Errorf("%+v", r)
	}
	c.add(81 * time.Second)
	if _, _, err := a.Begin(g); err != nil {
		t.Error(err)
	}

	c.add(time.Hour)
	g = quota(func(s *Settings) { s.ConcurrentRequests = 2 })
	g.Tenant = "two"
	one := must2(a.Begin(g))
	two := must2(a.Begin(g))
	_, _, err = a.Begin(g)
	wantLimit(t, err, "concurrent_requests", time.Second)
	one.Close()
	one.Close() // counts once
	three := must2(a.Begin(g))
	_, _, err = a.Begin(g)
	wantLimit(t, err, "concurrent_requests", time.Second)
	two.Close()
	three.Close()

	g = quota(func(s *Settings) { s.TokensPerMinute = 100 })
	g.Tenant = "three"
	c.add(39 * time.Second) // a minute begins
	tk := must2(a.Begin(g))
	if r, err := tk.Prompt(60); err != nil || r.Tokens.Remaining != 40 {
		t.Errorf("%+v %v", r, err)
	}
	_, err = tk.Prompt(41)
	wantLimit(t, err, "tokens_per_minute", time.Minute+time.Second)
	_, err = tk.Prompt(101)
	wantLimit(t, err, "tokens_per_minute", 0)
	tk.Output(90) // an answer may go over
	_, r, err = a.Begin(g)
	wantLimit(t, err, "tokens_per_minute", time.Minute+time.Minute*51/150)
	if r.Tokens != (Rate{100, 0, 2 * time.Minute}) {
		t.Errorf("%+v", r.Tokens)
	}
	tk.Close()
}

func must2(t *Ticket, _ Rates, err error) *Ticket { return must(t, err) }

// The spend is there after a restart, and servers that share a database see each other's.
func TestSpendIsShared(t *testing.T) {
	s := openStore(t)
	testSpendIsShared(t, s, s)
}

func testSpendIsShared(t *testing.T, s, other *Store) {
	c, ctx := newClock(), t.Context()
	g := quota(func(s *Settings) { s.TokensPerMinute, s.RequestsPerMinute = 100, 10 })
	one := openAccess(t, Options{Store: s, Now: c.now})
	tk := must2(one.Begin(g))
	must(tk.Prompt(30))
	tk.Output(20)
	if err := one.Close(ctx); err != nil {
		t.Fatal(err)
	}
	two, three := openAccess(t, Options{Store: s, Now: c.now}), openAccess(t, Options{Store: other, Now: c.now})
	if r := two.Rates("acme", &g.Settings); r.Tokens.Remaining != 50 || r.Requests.Remaining != 9 {
		t.Errorf("after a restart: %+v", r)
	}
	must(must2(two.Begin(g)).Prompt(10))
	for range 2 { // a second time adds nothing
		if err := errors.Join(two.share(ctx), three.share(ctx), two.share(ctx)); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range []*Access{two, three} {
		if r := a.Rates("acme", &g.Settings); r.Tokens.Remaining != 40 || r.Requests.Remaining != 8 {
			t.Errorf("shared: %+v", r)
		}
	}
	c.add(time.Minute + 30*time.Second)
	four := openAccess(t, Options{Store: s, Now: c.now})
	for _, a := range []*Access{two, four} { // half of the last minute's 60 still counts
		if r := a.Rates("acme", &g.Settings); r.Tokens.Remaining != 70 {
			t.Errorf("a minute and a half later: %+v", r)
		}
	}
	c.add((keepUsage + 2) * time.Minute)
	must2(two.Begin(g))
	var n int64
	if err := errors.Join(two.share(ctx),
		s.db.QueryRow(ctx, "SELECT COUNT(*) FROM tenant_usage").Scan(&n)); err != nil || n != 1 {
		t.Errorf("%d rows of spend are kept: %v", n, err)
	}
}

func TestDatabaseGone(t *testing.T) {
	s := openStore(t)
	var log lockedBuffer
	a, err := NewAccess(t.Context(), Options{Store: s, Open: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	s.db.Close()
	for end := time.Now().Add(5 * time.Second); !strings.Contains(log.String(),
		"does not answer"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing in the log")
		}
	}
	if _, err := a.Authenticate(""); err != nil {
		t.Errorf("the last view is gone: %v", err)
	}
	if a.Close(context.Background()) == nil {
		t.Error("the spend could not be stored, and Close says nothing")
	}
	if _, err := NewAccess(t.Context(), Options{Store: s}); err == nil {
		t.Error("a closed database was read")
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Run with -race: many requests, changes and saves at once; no count is lost.
func TestManyAtOnce(t *testing.T) {
	s, c := openStore(t), newClock()
	a := openAccess(t, Options{Store: s, Now: c.now})
	g := quota(func(s *Settings) { s.ConcurrentRequests = 4; s.RequestsPerMinute = 1e6 })
	var wg sync.WaitGroup
	var mu sync.Mutex
	begun := int64(0)
	for range 8 {
		wg.Go(func() {
			for range 200 {
				tk, _, err := a.Begin(g)
				if err != nil {
					continue
				}
				_, _ = tk.Prompt(1)
				tk.Output(2)
				tk.Close()
				mu.Lock()
				begun++
				mu.Unlock()
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			if err := a.share(context.Background()); err != nil {
				t.Error(err)
			}
			_, _ = s.Update(context.Background(), Default, func(s *Settings) error { s.Weight++; return nil })
			_ = a.Refresh(context.Background())
		}
	})
	wg.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	if acc := a.accounts["acme"]; acc.working != 0 || acc.window.own != (spend{begun, begun, 2 * begun}) {
		t.Errorf("%d requests, counted %+v", begun, acc)
	}
}
