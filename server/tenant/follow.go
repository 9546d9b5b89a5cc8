package tenant

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"weft/internal/store"
)

// keepUsage is how many minutes of usage the database keeps for quotas, and aheadUsage how many minutes the clock of
// another server may be ahead.
const (
	keepUsage  = 24 * 60
	aheadUsage = 60
)

func randomID() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// follow polls for changes and exchanges usage with the other servers until ctx ends. While the database does not
// answer, the last view and this server's own counts are used.
func (a *Access) follow(ctx context.Context) {
	defer close(a.stopped)
	poll, save := time.NewTicker(pollEvery), time.NewTicker(saveEvery)
	defer poll.Stop()
	defer save.Stop()
	failing := false
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
			err = a.Refresh(ctx)
		case <-save.C:
			err = a.share(ctx)
		}
		if err != nil && ctx.Err() == nil && !failing {
			a.opt.Log.Error("the database of tenants does not answer; keys and quotas stay as they were", "error", err)
		}
		failing = err != nil
	}
}

// Close stores the usage and stops polling. The database stays open.
func (a *Access) Close(ctx context.Context) error {
	if a.stop == nil {
		return nil
	}
	a.stop()
	<-a.stopped
	return a.share(ctx)
}

// Refresh reads tenants and keys again where anything has changed.
func (a *Access) Refresh(ctx context.Context) error {
	s := a.opt.Store
	if s == nil {
		return nil
	}
	a.reading.Lock()
	defer a.reading.Unlock()
	counter, err := s.counter(ctx) // before the rows, so that a change in between is read at the next poll
	if err != nil || counter == a.view.Load().counter {
		return err
	}
	tenants, err := s.List(ctx)
	if err != nil {
		return err
	}
	keys, err := s.Keys(ctx, "")
	if err != nil {
		return err
	}
	v := &view{counter: counter, tenants: make(map[string]*Settings, len(tenants)),
		keys: make(map[[sha256.Size]byte]*Key, len(keys))}
	for i := range tenants {
		v.tenants[tenants[i].Name] = &tenants[i].Settings
	}
	for i := range keys {
		v.keys[keys[i].hash] = &keys[i]
	}
	if len(v.keys) > 0 {
		a.closed.Store(true)
	}
	a.view.Store(v)
	return nil
}

// row is a tenant's usage in one minute.
type row struct {
	tenant string
	minute int64
	spend
}

func (r row) id() string { return r.tenant + " " + strconv.FormatInt(r.minute, 10) }

// share stores this server's new charges and reads those of the other servers.
func (a *Access) share(ctx context.Context) error {
	a.reading.Lock()
	defer a.reading.Unlock()
	if err := a.save(ctx); err != nil {
		return fmt.Errorf("store the spend: %w", err)
	}
	now := a.opt.Now()
	rows, err := a.opt.Store.db.Query(ctx,
		"SELECT tenant, minute, SUM(requests), SUM(prompt_tokens), SUM(output_tokens) FROM tenant_usage WHERE "+
			"minute >= ? AND server <> ? GROUP BY tenant, minute",
		minuteOf(now)-1, a.server)
	if err != nil {
		return fmt.Errorf("read the spend: %w", err)
	}
	defer rows.Close()
	var reports []row
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.tenant, &r.minute, &r.requests, &r.prompt, &r.output); err != nil {
			return fmt.Errorf("read the spend: %w", err)
		}
		reports = append(reports, r)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the spend: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range reports {
		a.account(r.tenant, now).window.report(r.minute, r.spend)
	}
	return nil
}

// save writes the rows and the counts for billing that have grown, in one transaction, and drops idle accounts.
func (a *Access) save(ctx context.Context) error {
	now := a.opt.Now()
	grown, live := a.grown(now)
	days := a.unsavedDays(now)
	if len(grown)+len(days) > 0 {
		err := a.opt.Store.db.Tx(ctx, func(tx *store.Tx) error {
			for _, r := range grown {
				_, err := tx.Exec(ctx, `INSERT INTO tenant_usage (tenant, server, minute, requests, prompt_tokens,
					output_tokens) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, server, minute) DO UPDATE SET
					requests = excluded.requests, prompt_tokens = excluded.prompt_tokens,
					output_tokens = excluded.output_tokens`,
					r.tenant, a.server, r.minute, r.requests, r.prompt, r.output)
				if err != nil {
					return err
				}
			}
			if err := a.saveDays(ctx, tx, days); err != nil {
				return err
			}
			// rows from the future are of a clock that was wrong
			_, err := tx.Exec(ctx, "DELETE FROM tenant_usage WHERE minute < ? OR minute > ?", minuteOf(now)-keepUsage,
				minuteOf(now)+aheadUsage)
			return err
		})
		if err != nil {
			return err
		}
	}
	a.saved = live
	a.savedDays(days)
	return nil
}

// grown returns the rows that differ from the saved ones, and all current rows.
func (a *Access) grown(now time.Time) (grown []row, live map[string]spend) {
	live = map[string]spend{}
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, acc := range a.accounts {
		w := &acc.window
		w.advance(now)
		if w.idle() && acc.working == 0 {
			delete(a.accounts, name)
			continue
		}
		for _, r := range []row{{name, w.minute - 1, w.ownPrev}, {name, w.minute, w.own}} {
			if (r.spend == spend{}) {
				continue
			}
			live[r.id()] = r.spend
			if a.saved[r.id()] != r.spend {
				grown = append(grown, r)
			}
		}
	}
	return grown, live
}
