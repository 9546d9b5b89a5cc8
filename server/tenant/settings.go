// Package tenant decides what a request may do: tenants with their settings, API keys stored as hashes, and quotas
// whose counts survive a restart.
package tenant

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
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

// Refusal is an ErrInvalid about one member of a tenant or a key.
type Refusal struct {
	Member string // such as weight or adapters[3]
	Code   string // one of the API's
	Text   string // what follows the member's name in the message
}

func (r *Refusal) Error() string { return ErrInvalid.Error() + ": " + r.Member + " " + r.Text }

// Unwrap returns ErrInvalid.
func (r *Refusal) Unwrap() error { return ErrInvalid }

// refuse returns a Refusal with the code invalid_value.
func refuse(member, format string, args ...any) error {
	return &Refusal{member, "invalid_value", fmt.Sprintf(format, args...)}
}

// outside returns a Refusal of a value that is out of its range.
func outside(member, bounds string, value any) error {
	return &Refusal{member, "out_of_range", fmt.Sprintf("must be %s, not %v", bounds, value)}
}

// refused makes the error of a check of names, whose message begins with the member, a Refusal.
func refused(member string, err error) error {
	if err == nil {
		return nil
	}
	return refuse(member, "%s", strings.TrimPrefix(err.Error(), member+" "))
}

// Default is the tenant of the operator: it always exists, the keys of --api-key-file belong to it, and its admin keys
// may act on every tenant.
const Default = "default"

// CheckName returns ErrInvalid for an invalid name of a tenant or a tag; what is the word for it in the message.
func CheckName(what, name string) error { return invalid(names.Check(what, name)) }

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

// Capture says which of a tenant's chat completions are stored.
type Capture string

// Settings of Capture.
const (
	CaptureOff       Capture = "off"        // none; the default
	CaptureOnRequest Capture = "on-request" // those whose request has store: true
	CaptureOn        Capture = "on"         // all but those whose request refuses it
)

// Retrain says which adapter is trained from a tenant's stored completions.
type Retrain struct {
	Adapter string `json:"adapter"` // its name; "": none is trained
	// BaseAlias: requests for the base model use the adapter too, once it exists.
	BaseAlias bool `json:"base_alias"`
	// RequireUser: a completion that would be stored and whose request names no user is refused instead of counted.
	RequireUser bool `json:"require_user"`
}

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

	Capture Capture `json:"capture"`
	Redact  string  `json:"redact"` // rules of the tenant's own (YAML) for the redaction of what is stored; "": none
	Retrain Retrain `json:"retrain"`
}

// DefaultSettings are a new tenant's: all its adapters, no limits, nothing stored.
func DefaultSettings() Settings {
	return Settings{Weight: 1, Adapters: []string{"*"}, PrefixCache: PrefixTenant, Capture: CaptureOff}
}

// MayUse says whether an adapter's name is allowed.
func (s *Settings) MayUse(name string) bool {
	return slices.Contains(s.Adapters, name) || slices.Contains(s.Adapters, "*")
}

const (
	maxAllowed = 10000 // names in Adapters
	maxWeight  = 1000
	maxLimit   = math.MaxInt64 / 1024 // 2^53 - 1
	maxRedact  = 64 << 10             // bytes of Redact
)

// limits lists the members whose range is from 0 to maxLimit.
func (s *Settings) limits() map[string]int64 {
	return map[string]int64{"requests_per_minute": s.RequestsPerMinute, "tokens_per_minute": s.TokensPerMinute,
		"concurrent_requests": s.ConcurrentRequests, "max_tokens_per_request": s.MaxTokens,
		"adapter_bytes": s.AdapterBytes, "adapter_count": s.AdapterCount}
}

// Range returns the range of a member that is a number, in words; "": it is none.
func (s *Settings) Range(member string) string {
	if member == "weight" {
		return fmt.Sprintf("above 0 and at most %d", maxWeight)
	}
	if _, ok := s.limits()[member]; ok {
		return fmt.Sprintf("from 0 to %d", maxLimit)
	}
	return ""
}

// Validate returns a Refusal of the first bad setting.
func (s *Settings) Validate() error {
	if !(s.Weight > 0 && s.Weight <= maxWeight) {
		return outside("weight", s.Range("weight"), s.Weight)
	}
	if err := checkDefault(s.DefaultAdapter); err != nil {
		return err
	}
	if len(s.Adapters) > maxAllowed {
		return &Refusal{"adapters", "too_many", fmt.Sprintf("has more than %d elements", maxAllowed)}
	}
	for i, name := range s.Adapters {
		member := fmt.Sprintf("adapters[%d]", i)
		if err := refused(member, names.CheckAdapter(member, name)); name != "*" && err != nil {
			return err
		}
	}
	if !slices.Contains([]Prefix{PrefixTenant, PrefixShared, PrefixNone}, s.PrefixCache) {
		return refuse("prefix_cache", "must be tenant, shared or none, not %s", names.Quote(string(s.PrefixCache)))
	}
	if !slices.Contains([]Capture{CaptureOff, CaptureOnRequest, CaptureOn}, s.Capture) {
		return refuse("capture", "must be off, on-request or on, not %s", names.Quote(string(s.Capture)))
	}
	if len(s.Redact) > maxRedact {
		return refuse("redact", "has %d bytes, at most %d are allowed", len(s.Redact), maxRedact)
	}
	if err := s.Retrain.validate(); err != nil {
		return err
	}
	limits := s.limits()
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		if v := limits[name]; v < 0 || v > maxLimit {
			return outside(name, s.Range(name), v)
		}
	}
	return nil
}

func (r *Retrain) validate() error {
	const member = "retrain.adapter"
	if r.Adapter == "" {
		return nil
	}
	return refused(member, names.CheckAdapter(member, r.Adapter))
}

// checkDefault accepts "", NAME or NAME@VERSION.
func checkDefault(ref string) error {
	if ref == "" {
		return nil
	}
	name, version, tagged := strings.Cut(ref, "@")
	const member = "default_adapter"
	if err := names.CheckAdapter(member, name); err != nil || !tagged {
		return refused(member, err)
	}
	if err := names.Check("version", version); err != nil {
		return refuse(member, "has the %v", err)
	}
	return nil
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

// Validate returns a Refusal of the first bad setting.
func (s *KeySettings) Validate() error {
	if len(s.Scopes) == 0 {
		return refuse("scopes", "is empty; at least one of infer, admin and metrics is needed")
	}
	for i, sc := range s.Scopes {
		if !slices.Contains([]Scope{Infer, Admin, Metrics}, sc) {
			return refuse(fmt.Sprintf("scopes[%d]", i), "must be infer, admin or metrics, not %s",
				names.Quote(string(sc)))
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
