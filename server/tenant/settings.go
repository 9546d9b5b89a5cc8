// Package tenant decides what a request may do: tenants with their settings, API keys stored as hashes, and quotas
// whose counts survive a restart.
package tenant

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"weft/internal/names"
)

// Errors of this package; test with errors.Is.
var (
	// ErrNotFound says that there is no such tenant or key.
	ErrNotFound = errors.New("not found")
	// ErrInvalid says that a name or a setting is refused; the message says why.
	ErrInvalid = errors.New("refused")
	// ErrConflict says that the current state forbids the change.
	ErrConflict = errors.New("conflict")
	// ErrNoKey says that a key is missing, unknown, revoked or expired, without revealing which.
	ErrNoKey = errors.New("a valid API key is needed: send Authorization: Bearer KEY, or x-api-key: KEY")
)

// Default is the tenant of the operator: it always exists, the keys of --api-key-file belong to it, and its admin keys
// may act on every tenant.
const Default = "default"

// CheckName returns ErrInvalid for an invalid name of a tenant or a tag; what is the word for it in the message.
func CheckName(what, name string) error { return invalid(names.Check(what, name)) }

func checkAdapter(what, name string) error { return invalid(names.CheckAdapter(what, name)) }

func invalid(err error) error {
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// Prefix is a policy of the prefix cache: which requests may reuse the KV pages of a prompt's prefix. Requests with
// different adapters never share pages.
type Prefix string

// Policies.
const (
	PrefixTenant Prefix = "tenant" // requests of the same tenant; the default
	PrefixShared Prefix = "shared" // every tenant with this policy
	PrefixNone   Prefix = "none"   // no other request, not even the same tenant's
)

// Settings are what the operator grants a tenant. A limit of 0 means none.
type Settings struct {
	Weight float64 `json:"weight"` // weight in the fair scheduling of tenants; default 1
	// name or name@version for requests that name no model; "": the base model
	DefaultAdapter string   `json:"default_adapter"`
	Adapters       []string `json:"adapters"` // names that may be used, "*" for all of the tenant's own; default all
	PrefixCache    Prefix   `json:"prefix_cache"`

	RequestsPerMinute  int64 `json:"requests_per_minute"`
	TokensPerMinute    int64 `json:"tokens_per_minute"` // prompt and generated
	ConcurrentRequests int64 `json:"concurrent_requests"`
	MaxTokens          int64 `json:"max_tokens_per_request"` // generated, over all choices of a request
	AdapterBytes       int64 `json:"adapter_bytes"`
	AdapterCount       int64 `json:"adapter_count"`
}

// DefaultSettings are a new tenant's: all its adapters, no limits.
func DefaultSettings() Settings {
	return Settings{Weight: 1, Adapters: []string{"*"}, PrefixCache: PrefixTenant}
}

// MayUse says whether an adapter's name is allowed.
func (s *Settings) MayUse(name string) bool {
	return slices.Contains(s.Adapters, name) || slices.Contains(s.Adapters, "*")
}

const (
	maxAllowed = 10000 // names in Adapters
	maxWeight  = 1000
)

// Validate returns an ErrInvalid that names the first bad setting.
func (s *Settings) Validate() error {
	if !(s.Weight > 0 && s.Weight <= maxWeight) {
		return fmt.Errorf("%w: weight %v must be above 0 and at most %d", ErrInvalid, s.Weight, maxWeight)
	}
	if err := checkDefault(s.DefaultAdapter); err != nil {
		return err
	}
	if len(s.Adapters) > maxAllowed {
		return fmt.Errorf("%w: %d allowed adapters; at most %d, or \"*\"", ErrInvalid, len(s.Adapters), maxAllowed)
	}
	for _, name := range s.Adapters {
		if name != "*" {
			if err := checkAdapter("allowed adapter", name); err != nil {
				return err
			}
		}
	}
	if !slices.Contains([]Prefix{PrefixTenant, PrefixShared, PrefixNone}, s.PrefixCache) {
		return fmt.Errorf("%w: prefix_cache %s must be tenant, shared or none", ErrInvalid,
			names.Quote(string(s.PrefixCache)))
	}
	for _, l := range []struct {
		name string
		v    int64
	}{
		{"requests_per_minute", s.RequestsPerMinute}, {"tokens_per_minute", s.TokensPerMinute},
		{"concurrent_requests", s.ConcurrentRequests},
		{"max_tokens_per_request", s.MaxTokens}, {"adapter_bytes", s.AdapterBytes}, {"adapter_count", s.AdapterCount},
	} {
		if l.v < 0 || l.v > math.MaxInt64/1024 {
			return fmt.Errorf("%w: %s %d must be 0 (no limit) or a positive number below 2^53", ErrInvalid, l.name, l.v)
		}
	}
	return nil
}

// checkDefault accepts "", NAME or NAME@VERSION.
func checkDefault(ref string) error {
	if ref == "" {
		return nil
	}
	name, version, tagged := strings.Cut(ref, "@")
	if err := checkAdapter("default adapter", name); err != nil || !tagged {
		return err
	}
	return CheckName("version of the default adapter", version)
}

// Tenant is a tenant as it is stored.
type Tenant struct {
	Name     string    `json:"name"`
	Created  time.Time `json:"created"`
	Settings Settings  `json:"settings"`
}

// Scope is what a key may be used for.
type Scope string

// Scopes.
const (
	Infer   Scope = "infer"   // the OpenAI API
	Admin   Scope = "admin"   // /admin/v1: of the key's own tenant, or of all where that is Default
	Metrics Scope = "metrics" // /metrics, which shows all tenants
)

// KeySettings are what a key is made with.
type KeySettings struct {
	Scopes         []Scope `json:"scopes"`
	DefaultAdapter string  `json:"default_adapter,omitempty"` // instead of the tenant's
	Hint           string  `json:"hint"`                      // the key's first characters, to recognize it
}

// Validate returns an ErrInvalid that names the first bad setting.
func (s *KeySettings) Validate() error {
	if len(s.Scopes) == 0 || len(s.Scopes) > 3 {
		return fmt.Errorf("%w: a key has one to three scopes: infer, admin, metrics", ErrInvalid)
	}
	for _, sc := range s.Scopes {
		if !slices.Contains([]Scope{Infer, Admin, Metrics}, sc) {
			return fmt.Errorf("%w: scope %s is none of infer, admin, metrics", ErrInvalid, names.Quote(string(sc)))
		}
	}
	return checkDefault(s.DefaultAdapter)
}

// Key is an API key as it is stored: never the key itself.
type Key struct {
	ID      string
	Tenant  string
	Created time.Time
	Expires time.Time // zero: never
	Revoked time.Time // zero: not
	KeySettings

	hash [32]byte
}

// Usable reports whether the key is valid at a time.
func (k *Key) Usable(now time.Time) bool {
	return k.Revoked.IsZero() && (k.Expires.IsZero() || now.Before(k.Expires))
}

// MarshalJSON leaves out the hash and writes absent times as null.
func (k *Key) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		ID      string     `json:"id"`
		Tenant  string     `json:"tenant"`
		Created time.Time  `json:"created"`
		Expires *time.Time `json:"expires"`
		Revoked *time.Time `json:"revoked"`
		KeySettings
	}{k.ID, k.Tenant, k.Created, orNil(k.Expires), orNil(k.Revoked), k.KeySettings})
}

func orNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
