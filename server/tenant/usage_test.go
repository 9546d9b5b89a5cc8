package tenant

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"
)

func TestUsage(t *testing.T) {
	s := openStore(t)
	testUsage(t, s, s)
}

// testUsage counts on two servers over the same database, over a restart and over midnight.
func testUsage(t *testing.T, s, other *Store) {
	c, ctx := newClock(), t.Context()
	day := func(days int) string { return c.now().UTC().AddDate(0, 0, days).Format(time.DateOnly) }
	one, two := openAccess(t, Options{Store: s, Now: c.now}), openAccess(t, Options{Store: other, Now: c.now})
	acme, globex := &Grant{Tenant: "acme", Key: "key_1", Settings: DefaultSettings()},
		&Grant{Tenant: "globex", Settings: DefaultSettings()}
	record := func(a *Access, g *Grant, adapter string, prompt, cached, completion int64) {
		tk := must2(a.Begin(g))
		tk.Record(adapter, Usage{1, prompt, cached, completion})
		tk.Close()
	}
	read := func(q UsageQuery) []UsageRow {
		t.Helper()
		q.From, q.To = c.now().AddDate(0, 0, -9), c.now().AddDate(0, 0, 9)
		return must(s.Usage(ctx, q))
	}
	first := day(0)
	record(one, acme, "support", 10, 4, 3)
	record(two, acme, "support", 5, 0, 2)
	record(one, acme, "", 7, 0, 1)
	record(one, globex, Combination, 1, 1, 1)
	if err := errors.Join(one.share(ctx), two.share(ctx), one.share(ctx)); err != nil { // again adds nothing
		t.Fatal(err)
	}
	want := []UsageRow{
		{first, "acme", "", "key_1", Usage{1, 7, 0, 1}},
		{first, "acme", "support", "key_1", Usage{2, 15, 4, 5}},
		{first, "globex", Combination, "", Usage{1, 1, 1, 1}},
	}
	if got := read(UsageQuery{}); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	if got := read(UsageQuery{Tenant: "globex"}); !slices.Equal(got, want[2:]) {
		t.Errorf("of one tenant: %+v", got)
	}
	record(two, acme, "support", 100, 0, 0)
	if err := two.Close(ctx); err != nil { // stores what is left
		t.Fatal(err)
	}
	want[1].Usage = Usage{3, 115, 4, 5}
	three := openAccess(t, Options{Store: s, Now: c.now})
	record(three, acme, "support", 1, 0, 0)
	c.add(24 * time.Hour)
	record(three, acme, "support", 2, 0, 0)
	record(one, acme, "", 3, 0, 0)
	for range 2 {
		if err := errors.Join(three.share(ctx), one.share(ctx)); err != nil {
			t.Fatal(err)
		}
	}
	want[1].Usage = Usage{4, 116, 4, 5}
	want = append(want, UsageRow{day(0), "acme", "", "key_1", Usage{1, 3, 0, 0}},
		UsageRow{day(0), "acme", "support", "key_1", Usage{1, 2, 0, 0}})
	if got := read(UsageQuery{}); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	one.mu.Lock()
	if len(one.days) != 1 {
		t.Errorf("a server remembers %d counts: those of past days are stored", len(one.days))
	}
	one.mu.Unlock()
	if err := s.Delete(ctx, "acme"); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	only := must(s.Usage(ctx, UsageQuery{From: c.now(), To: c.now()}))
	if !slices.Equal(only, want[3:]) {
		t.Errorf("one day: %+v", only)
	}
	if _, err := s.Usage(ctx, UsageQuery{From: c.now(), To: c.now().AddDate(0, 0, -1)}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a period that ends before it begins: %v", err)
	}
}

func TestUsageText(t *testing.T) {
	var b bytes.Buffer
	rows := []UsageRow{{"2026-01-31", "acme", Combination, "key_1", Usage{4, 3, 2, 1}}}
	const want = "day,tenant,adapter,key,requests,prompt_tokens,cached_tokens,completion_tokens\n" +
		"2026-01-31,acme,(combination),key_1,4,3,2,1\n"
	if err := WriteUsageCSV(&b, rows); err != nil || b.String() != want {
		t.Errorf("%q %v", b.String(), err)
	}
	for text, good := range map[string]bool{"": true, "2026-01-31": true, "2026-02-30": false, "31.1.2026": false} {
		if _, err := ParseDay(text); (err == nil) != good || !good && !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
