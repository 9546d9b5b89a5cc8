package tenant

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	pollEvery = 400 * time.Millisecond // a change is seen within a second
	saveEvery = time.Second
)

// Options are the settings of an Access. The zero value has the tenant Default alone, without keys and without a
// database.
type Options struct {
	Store *Store
	// Keys are keys of the tenant Default beside those of the store, with every scope, such as those of --api-key-file.
	Keys []string
	// Open accepts requests without a key as Default with every scope, as long as no key was ever made: for a server on
	// loopback.
	Open bool
	Log  *slog.Logger     // nil: none
	Now  func() time.Time // nil: time.Now
}

// Access is a running server's copy of tenants and keys, and counts what tenants use. Safe for concurrent use.
type Access struct {
	opt Options
	// under which the usage is stored; every process has a new one, so that an earlier process counts as another server
	server string
	keys   [][sha256.Size]byte
	view   atomic.Pointer[view]
	closed atomic.Bool // there was a key: requests need one, even if the database loses its keys

	mu       sync.Mutex
	accounts map[string]*account // of tenants with recent usage or running requests
	days     map[dayKey]*dayCount

	reading sync.Mutex // one refresh or save at a time
	saved   map[string]spend
	stop    context.CancelFunc
	stopped chan struct{}
}

// view is an immutable copy of the database's tenants and keys at one count of changes.
type view struct {
	counter int64
	tenants map[string]*Settings
	keys    map[[sha256.Size]byte]*Key
}

// account is one tenant's recent usage and its running requests.
type account struct {
	window  window
	working int64
}

// NewAccess reads tenants, keys and the usage of the last minutes. With a store it polls for changes until Close.
func NewAccess(ctx context.Context, opt Options) (*Access, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	a := &Access{opt: opt, server: randomID(), accounts: map[string]*account{}, days: map[dayKey]*dayCount{},
		saved: map[string]spend{}, stopped: make(chan struct{})}
	for _, k := range opt.Keys {
		a.keys = append(a.keys, hashKey(k))
	}
	set := DefaultSettings()
	a.view.Store(&view{counter: -1, tenants: map[string]*Settings{Default: &set}})
	if opt.Store == nil {
		close(a.stopped)
		return a, nil
	}
	if err := errors.Join(a.Refresh(ctx), a.share(ctx)); err != nil {
		return nil, fmt.Errorf("tenants: %w", err)
	}
	ctx, a.stop = context.WithCancel(context.WithoutCancel(ctx))
	go a.follow(ctx)
	return a, nil
}

// Open returns an Access that accepts every request as Default: for a server that only this process can reach, and for
// tests.
func Open() *Access {
	a, _ := NewAccess(context.Background(), Options{Open: true}) // fails only with a store
	return a
}

// Store returns the store, nil where there is none.
func (a *Access) Store() *Store { return a.opt.Store }

// Settings returns a tenant's settings as they were at the last look at the database; false: there is no such tenant.
func (a *Access) Settings(tenant string) (Settings, bool) {
	set, ok := a.view.Load().tenants[tenant]
	if !ok {
		return Settings{}, false
	}
	return *set, true
}

// NeedsKey reports whether requests need a key: always, unless Open was given and no key was ever made.
func (a *Access) NeedsKey() bool {
	return !a.opt.Open || len(a.keys) > 0 || a.closed.Load()
}

// Lone reports whether the tenant Default is the only one.
func (a *Access) Lone() bool { return len(a.view.Load().tenants) < 2 }

// HasKeys reports whether any key can be used now. A server that needs keys and has none answers no request.
func (a *Access) HasKeys() bool {
	if len(a.keys) > 0 {
		return true
	}
	for _, k := range a.view.Load().keys {
		if k.Usable(a.opt.Now()) {
			return true
		}
	}
	return false
}

// Grant is what a request may do. It is immutable.
type Grant struct {
	Tenant         string
	Key            string // the key's id; "" without one, "file" for those of Options.Keys
	Scopes         []Scope
	Settings       Settings
	DefaultAdapter string // the key's, else the tenant's
}

// Has reports whether a scope is granted.
func (g *Grant) Has(s Scope) bool { return slices.Contains(g.Scopes, s) }

// Operator reports whether the grant may act on every tenant: an admin of Default.
func (g *Grant) Operator() bool { return g.Tenant == Default && g.Has(Admin) }

// Authenticate returns what a key grants. ErrNoKey: it is unknown, revoked or expired, or its tenant is gone. Keys are
// looked up by their SHA-256, so that the time of the lookup reveals nothing about them.
func (a *Access) Authenticate(key string) (*Grant, error) {
	v := a.view.Load()
	all := []Scope{Admin, Infer, Metrics}
	if key == "" {
		if a.NeedsKey() {
			return nil, ErrNoKey
		}
		return v.grant(Default, "", all, "")
	}
	hash := hashKey(key)
	known := 0
	for i := range a.keys {
		known |= subtle.ConstantTimeCompare(hash[:], a.keys[i][:])
	}
	if known == 1 {
		return v.grant(Default, "file", all, "")
	}
	if k, ok := v.keys[hash]; ok && subtle.ConstantTimeCompare(hash[:], k.hash[:]) == 1 && k.Usable(a.opt.Now()) {
		return v.grant(k.Tenant, k.ID, k.Scopes, k.DefaultAdapter)
	}
	if !a.NeedsKey() { // some clients cannot omit the key and send any text
		return v.grant(Default, "", all, "")
	}
	return nil, ErrNoKey
}

func (v *view) grant(tenant, key string, scopes []Scope, adapter string) (*Grant, error) {
	set, ok := v.tenants[tenant]
	if !ok {
		return nil, ErrNoKey
	}
	g := &Grant{Tenant: tenant, Key: key, Scopes: scopes, Settings: *set, DefaultAdapter: adapter}
	if adapter == "" {
		g.DefaultAdapter = set.DefaultAdapter
	}
	return g, nil
}

// Limit is an exceeded quota.
type Limit struct {
	Quota string // the setting's name
	Limit int64
	Retry time.Duration // when the request can be repeated; 0: never, it is larger than the quota
}

// Error names the quota and its limit.
func (l *Limit) Error() string {
	if l.Retry == 0 {
		return fmt.Sprintf("the request is larger than its tenant's %s, %d", l.Quota, l.Limit)
	}
	return fmt.Sprintf("the tenant's %s, %d, is used up", l.Quota, l.Limit)
}

// Rates is the state of a tenant's quotas per minute.
type Rates struct{ Requests, Tokens Rate }

// Ticket is a running request. Close it on every path.
type Ticket struct {
	a     *Access
	grant *Grant
	once  sync.Once
}

// Begin counts a request against its tenant's quotas, or returns a *Limit. The rates are valid for the answer's headers
// in both cases.
func (a *Access) Begin(g *Grant) (*Ticket, Rates, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.opt.Now()
	acc := a.account(g.Tenant, now)
	if err := acc.refuses(&g.Settings, 0, now); err != nil {
		return nil, acc.rates(&g.Settings, now), err
	}
	acc.working++
	acc.window.own.requests++
	return &Ticket{a: a, grant: g}, acc.rates(&g.Settings, now), nil
}

// refuses returns the quota that another request, or the prompt tokens of a running one, would exceed.
func (acc *account) refuses(set *Settings, prompt int64, now time.Time) error {
	w, at := &acc.window, elapsed(now)
	cur, prev := w.own.add(w.others), w.ownPrev.add(w.prevs)
	if prompt == 0 {
		if l := set.ConcurrentRequests; l > 0 && acc.working >= l {
			return &Limit{"concurrent_requests", l, time.Second}
		}
		if l := set.RequestsPerMinute; l > 0 && used(prev.requests, cur.requests, at) >= l {
			return &Limit{"requests_per_minute", l, wait(l, 1, prev.requests, cur.requests, at)}
		}
	}
	need := max(prompt, 1)
	switch l := set.TokensPerMinute; {
	case l == 0:
	case need > l:
		return &Limit{"tokens_per_minute", l, 0}
	case used(prev.tokens(), cur.tokens(), at)+need > l:
		return &Limit{"tokens_per_minute", l, wait(l, need, prev.tokens(), cur.tokens(), at)}
	}
	return nil
}

func (acc *account) rates(set *Settings, now time.Time) Rates {
	w, at := &acc.window, elapsed(now)
	cur, prev := w.own.add(w.others), w.ownPrev.add(w.prevs)
	return Rates{rate(set.RequestsPerMinute, prev.requests, cur.requests, at),
		rate(set.TokensPerMinute, prev.tokens(), cur.tokens(), at)}
}

// account returns a tenant's account at now. a.mu is held.
func (a *Access) account(tenant string, now time.Time) *account {
	acc := a.accounts[tenant]
	if acc == nil {
		acc = &account{}
		a.accounts[tenant] = acc
	}
	acc.window.advance(now)
	return acc
}

// Prompt charges the tokens of the request's prompts before they are computed, or returns a *Limit and charges nothing.
func (t *Ticket) Prompt(tokens int) (Rates, error) {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	now, set := t.a.opt.Now(), &t.grant.Settings
	acc := t.a.account(t.grant.Tenant, now)
	if err := acc.refuses(set, max(int64(tokens), 1), now); err != nil {
		return acc.rates(set, now), err
	}
	acc.window.own.prompt += int64(tokens)
	return acc.rates(set, now), nil
}

// Output charges tokens that were generated, even above the quota.
func (t *Ticket) Output(tokens int) {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	t.a.account(t.grant.Tenant, t.a.opt.Now()).window.own.output += int64(tokens)
}

// Close ends the request; further calls do nothing.
func (t *Ticket) Close() {
	t.once.Do(func() {
		t.a.mu.Lock()
		defer t.a.mu.Unlock()
		t.a.account(t.grant.Tenant, t.a.opt.Now()).working--
	})
}

// Rates returns a tenant's quotas now, without counting anything.
func (a *Access) Rates(tenant string, set *Settings) Rates {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.opt.Now()
	acc := a.account(tenant, now)
	return acc.rates(set, now)
}
