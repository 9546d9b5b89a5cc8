package tenant

import (
	"cmp"
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"weft/internal/names"
	"weft/internal/store"
)

// Usage counts what requests used, for billing.
type Usage struct {
	Requests         int64 `json:"requests"`
	PromptTokens     int64 `json:"prompt_tokens"`     // cached ones too
	CachedTokens     int64 `json:"cached_tokens"`     // of the prompts, taken from the prefix cache
	CompletionTokens int64 `json:"completion_tokens"` // generated
}

// UsageRow is what a tenant used on a day with one adapter and one key.
type UsageRow struct {
	Day     string `json:"day"` // 2026-01-31, UTC
	Tenant  string `json:"tenant"`
	Adapter string `json:"adapter"` // its name; "" for the base model, Combination for several in one request
	Key     string `json:"key"`     // its id; "" without one, "file" for those of Options.Keys
	Usage
}

// Combination is the adapter name in rows of requests with several adapters.
const Combination = "(combination)"

// dayKey identifies a count of one day.
type dayKey struct {
	day                  int64 // of Unix time
	tenant, adapter, key string
}

// dayCount is this process's count so far, and the part of it that is in the database.
type dayCount struct{ now, saved Usage }

const secondsPerDay = 24 * 60 * 60

func dayOf(t time.Time) int64 { return t.Unix() / secondsPerDay }

// Record counts a request that has ended for billing, on the current day. Without a store it does nothing.
func (t *Ticket) Record(adapter string, u Usage) {
	if t.a.opt.Store == nil {
		return
	}
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	k := dayKey{dayOf(t.a.opt.Now()), t.grant.Tenant, adapter, t.grant.Key}
	d := t.a.days[k]
	if d == nil {
		d = &dayCount{}
		t.a.days[k] = d
	}
	d.now.Requests += u.Requests
	d.now.PromptTokens += u.PromptTokens
	d.now.CachedTokens += u.CachedTokens
	d.now.CompletionTokens += u.CompletionTokens
}

// unsavedDays returns the counts that have grown since they were saved, and drops those of past days that have not.
func (a *Access) unsavedDays(now time.Time) map[dayKey]Usage {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[dayKey]Usage{}
	for k, d := range a.days {
		switch {
		case d.now != d.saved:
			out[k] = d.now
		case k.day < dayOf(now):
			delete(a.days, k)
		}
	}
	return out
}

// saveDays writes counts. A row belongs to this process and has its whole count, so that writing it again after a lost
// answer of the database adds nothing.
func (a *Access) saveDays(ctx context.Context, tx *store.Tx, days map[dayKey]Usage) error {
	for k, u := range days {
		_, err := tx.Exec(ctx, `INSERT INTO tenant_days (day, tenant, adapter, key_id, server, requests, prompt_tokens,
			cached_tokens, completion_tokens) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (day, tenant, adapter, key_id, server) DO UPDATE SET requests = excluded.requests,
			prompt_tokens = excluded.prompt_tokens, cached_tokens = excluded.cached_tokens,
			completion_tokens = excluded.completion_tokens`,
			k.day, k.tenant, k.adapter, k.key, a.server, u.Requests, u.PromptTokens, u.CachedTokens, u.CompletionTokens)
		if err != nil {
			return err
		}
	}
	return nil
}

// savedDays marks counts as written.
func (a *Access) savedDays(days map[dayKey]Usage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, u := range days {
		a.days[k].saved = u
	}
}

// UsageQuery selects rows of usage.
type UsageQuery struct {
	Tenant   string    // "": all
	From, To time.Time // days, both included; zero From: the first of this month; zero To: today
}

// ParseDay reads a date such as 2026-01-31, in UTC. "" is the zero time. ErrInvalid.
func ParseDay(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return t, fmt.Errorf("%w: %s is not a date: write it as 2026-01-31", ErrInvalid, names.Quote(text))
	}
	return t, nil
}

// Usage returns the rows of a period, by day, tenant, adapter and key. Running servers write what they count every
// second. ErrInvalid, ErrNotFound.
func (s *Store) Usage(ctx context.Context, q UsageQuery) ([]UsageRow, error) {
	now := s.now().UTC()
	if q.From.IsZero() {
		q.From = time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	}
	if q.To.IsZero() {
		q.To = now
	}
	if dayOf(q.From) > dayOf(q.To) {
		return nil, fmt.Errorf("%w: the period ends on %s, before it begins on %s", ErrInvalid,
			q.To.Format(time.DateOnly), q.From.Format(time.DateOnly))
	}
	where, args := "day >= ? AND day <= ?", []any{dayOf(q.From), dayOf(q.To)}
	if q.Tenant != "" {
		where, args = where+" AND tenant = ?", append(args, q.Tenant)
	}
	rows, err := s.db.Query(ctx, `SELECT day, tenant, adapter, key_id, CAST(SUM(requests) AS BIGINT),
		CAST(SUM(prompt_tokens) AS BIGINT), CAST(SUM(cached_tokens) AS BIGINT), CAST(SUM(completion_tokens) AS BIGINT)
		FROM tenant_days WHERE `+where+` GROUP BY day, tenant, adapter, key_id`, args...)
	if err != nil {
		return nil, fmt.Errorf("read usage: %w", err)
	}
	defer rows.Close()
	out := []UsageRow{}
	for rows.Next() {
		var r UsageRow
		var day int64
		if err := rows.Scan(&day, &r.Tenant, &r.Adapter, &r.Key, &r.Requests, &r.PromptTokens, &r.CachedTokens,
			&r.CompletionTokens); err != nil {
			return nil, fmt.Errorf("read usage: %w", err)
		}
		r.Day = time.Unix(day*secondsPerDay, 0).UTC().Format(time.DateOnly)
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b UsageRow) int { // a database's order depends on its locale
		return cmp.Or(cmp.Compare(a.Day, b.Day), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Adapter, b.Adapter),
			cmp.Compare(a.Key, b.Key))
	})
	if err := rows.Err(); err != nil || q.Tenant == "" || len(out) > 0 {
		return out, err
	}
	return out, s.Known(ctx, q.Tenant)
}

// WriteUsageCSV writes rows as CSV with a header line.
func WriteUsageCSV(w io.Writer, rows []UsageRow) error {
	out := csv.NewWriter(w)
	records := make([][]string, 0, len(rows)+1)
	records = append(records, []string{"day", "tenant", "adapter", "key", "requests", "prompt_tokens", "cached_tokens",
		"completion_tokens"})
	for _, r := range rows {
		record := []string{r.Day, r.Tenant, r.Adapter, r.Key}
		for _, n := range []int64{r.Requests, r.PromptTokens, r.CachedTokens, r.CompletionTokens} {
			record = append(record, strconv.FormatInt(n, 10))
		}
		records = append(records, record)
	}
	return out.WriteAll(records)
}
