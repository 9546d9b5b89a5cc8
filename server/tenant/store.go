package tenant

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"weft/internal/names"
	"weft/internal/store"
)

// Store changes tenants and keys in the database. Every change is one transaction that also increments the counter that
// servers poll. Safe for concurrent use, by several processes too.
type Store struct {
	db       *store.DB
	adapters AdapterCounter
	now      func() time.Time
	onKey    func() error
	onDelete func(ctx context.Context, tx *store.Tx, tenant string) error
}

// AdapterCounter returns how many adapters a tenant has, within a transaction over the same database.
type AdapterCounter func(ctx context.Context, tx *store.Tx, tenant string) (int64, error)

// NewStore returns the store in an opened database and makes sure that the tenant Default exists. Delete calls adapters
// to find out whether a tenant still has some.
func NewStore(ctx context.Context, db *store.DB, adapters AdapterCounter) (*Store, error) {
	s := &Store{db: db, adapters: adapters, now: time.Now}
	settings, err := json.Marshal(DefaultSettings())
	if err != nil {
		return nil, err
	}
	_, err = db.Exec(ctx, "INSERT INTO tenants (name, created_ns, settings) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
		Default, s.now().UnixNano(), string(settings))
	if err != nil {
		return nil, fmt.Errorf("tenant %s: %w", Default, err)
	}
	return s, nil
}

// OnKey sets what AddKey calls once a key is stored, before it returns the key. An error of it is not the key's: what f
// records can be recorded at the next start.
func (s *Store) OnKey(f func() error) { s.onKey = f }

// OnDelete sets what Delete calls within its transaction: it deletes what else belongs to the tenant.
func (s *Store) OnDelete(f func(ctx context.Context, tx *store.Tx, tenant string) error) {
	s.onDelete = f
}

// change runs f in a transaction and increments the counter.
func (s *Store) change(ctx context.Context, f func(*store.Tx) error) error {
	return s.db.Tx(ctx, func(tx *store.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "UPDATE tenant_changes SET counter = counter + 1 WHERE id = 1")
		return err
	})
}

// Create adds a tenant: ErrInvalid, or ErrConflict where the name is taken.
func (s *Store) Create(ctx context.Context, name string, set Settings) (Tenant, error) {
	if err := cmp.Or(refused("name", names.Check("name", name)), set.Validate()); err != nil {
		return Tenant{}, err
	}
	text, err := json.Marshal(set)
	if err != nil {
		return Tenant{}, err
	}
	t := Tenant{Name: name, Created: s.now(), Settings: set}
	err = s.change(ctx, func(tx *store.Tx) error {
		r, err := tx.Exec(ctx,
			"INSERT INTO tenants (name, created_ns, settings) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", name,
			t.Created.UnixNano(), string(text))
		if n := affected(r, err); err == nil && n == 0 {
			err = fmt.Errorf("%w: tenant %s exists", ErrConflict, name)
		}
		return err
	})
	return t, err
}

// affected returns how many rows a statement changed; both drivers support it.
func affected(r sql.Result, err error) int64 {
	if err != nil {
		return 0
	}
	n, _ := r.RowsAffected()
	return n
}

// Unknown is the ErrNotFound of a tenant that does not exist.
func Unknown(name string) error {
	return fmt.Errorf("%w: there is no tenant %s", ErrNotFound, names.Quote(name))
}

// Get returns a tenant, or ErrNotFound.
func (s *Store) Get(ctx context.Context, name string) (Tenant, error) {
	list, err := s.tenants(ctx, "WHERE name = ?", name)
	if err == nil && len(list) == 0 {
		err = Unknown(name)
	}
	if err != nil {
		return Tenant{}, err
	}
	return list[0], nil
}

// List returns all tenants by name.
func (s *Store) List(ctx context.Context) ([]Tenant, error) {
	return s.tenants(ctx, "ORDER BY name")
}

func (s *Store) tenants(ctx context.Context, where string, args ...any) ([]Tenant, error) {
	rows, err := s.db.Query(ctx, "SELECT name, created_ns, settings FROM tenants "+where, args...)
	if err != nil {
		return nil, fmt.Errorf("read tenants: %w", err)
	}
	defer rows.Close()
	var out []Tenant
	for rows.Next() {
		t := Tenant{Settings: DefaultSettings()}
		var created int64
		var text string
		if err := rows.Scan(&t.Name, &created, &text); err != nil {
			return nil, fmt.Errorf("read tenants: %w", err)
		}
		if err := json.Unmarshal([]byte(text), &t.Settings); err != nil {
			return nil, fmt.Errorf("settings of tenant %s: %w", t.Name, err)
		}
		t.Created = time.Unix(0, created).UTC()
		out = append(out, t)
	}
	return out, rows.Err()
}

// Update changes a tenant's settings with f, in one transaction; f may run several times.
func (s *Store) Update(ctx context.Context, name string, f func(*Settings) error) (Tenant, error) {
	var t Tenant
	err := s.change(ctx, func(tx *store.Tx) error {
		t = Tenant{Name: name, Settings: DefaultSettings()}
		var created int64
		var text string
		err := tx.QueryRow(ctx, "SELECT created_ns, settings FROM tenants WHERE name = ?", name).Scan(&created, &text)
		if errors.Is(err, sql.ErrNoRows) {
			return Unknown(name)
		}
		if err != nil {
			return err
		}
		t.Created = time.Unix(0, created).UTC()
		if err := json.Unmarshal([]byte(text), &t.Settings); err != nil {
			return fmt.Errorf("settings of tenant %s: %w", name, err)
		}
		if err := f(&t.Settings); err != nil {
			return err
		}
		if err := t.Settings.Validate(); err != nil {
			return err
		}
		changed, err := json.Marshal(t.Settings)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE tenants SET settings = ? WHERE name = ?", string(changed), name)
		return err
	})
	return t, err
}

// Delete removes a tenant and revokes its keys. One that still has adapters is an ErrConflict, as is Default.
func (s *Store) Delete(ctx context.Context, name string) error {
	if name == Default {
		return fmt.Errorf("%w: the tenant %s cannot be removed", ErrConflict, Default)
	}
	return s.change(ctx, func(tx *store.Tx) error {
		n, err := s.adapters(ctx, tx, name)
		if err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("%w: tenant %s still has %d adapters; remove them first", ErrConflict,
				names.Quote(name), n)
		}
		r, err := tx.Exec(ctx, "DELETE FROM tenants WHERE name = ?", name)
		if n := affected(r, err); err == nil && n == 0 {
			err = Unknown(name)
		}
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE tenant_keys SET revoked_ns = ? WHERE tenant = ? AND revoked_ns = 0",
			s.now().UnixNano(), name)
		if err == nil && s.onDelete != nil {
			err = s.onDelete(ctx, tx, name)
		}
		return err
	})
}

const (
	keyPrefix  = "weft-"
	keyBytes   = 32
	hintLength = len(keyPrefix) + 4
)

// hashKey returns the hash that is stored in place of a key. A key has 256 random bits, so that a plain hash cannot be
// inverted.
func hashKey(key string) [sha256.Size]byte { return sha256.Sum256([]byte(key)) }

// AddKey makes a key for a tenant. secret is the key itself, which is not stored and can be shown only now. expires may
// be zero.
func (s *Store) AddKey(ctx context.Context, tenant string, set KeySettings, expires time.Time) (secret string, k Key,
	err error) {
	if err := set.Validate(); err != nil {
		return "", Key{}, err
	}
	slices.Sort(set.Scopes)
	set.Scopes = slices.Compact(set.Scopes)
	if now := s.now(); !expires.IsZero() && (!expires.After(now) || expires.After(lastExpiry)) {
		bounds := fmt.Sprintf("after now, %s, and at most %s", now.UTC().Format(time.RFC3339),
			lastExpiry.Format(time.RFC3339))
		return "", Key{}, outside("expires", bounds, expires.Format(time.RFC3339))
	}
	var random [keyBytes + 8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", Key{}, fmt.Errorf("make a key: %w", err)
	}
	secret = keyPrefix + base64.RawURLEncoding.EncodeToString(random[:keyBytes])
	set.Hint = secret[:hintLength]
	k = Key{ID: "key_" + hex.EncodeToString(random[keyBytes:]), Tenant: tenant, Created: s.now().UTC(),
		Expires: expires.UTC(), KeySettings: set, hash: hashKey(secret)}
	text, err := json.Marshal(set)
	if err != nil {
		return "", Key{}, err
	}
	err = s.change(ctx, func(tx *store.Tx) error {
		var n int64
		if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM tenants WHERE name = ?", tenant).Scan(&n); err != nil {
			return err
		}
		if n == 0 {
			return Unknown(tenant)
		}
		_, err := tx.Exec(ctx,
			"INSERT INTO tenant_keys (id, tenant, hash, created_ns, expires_ns, revoked_ns, settings) VALUES (?, ?, "+
				"?, ?, ?, 0, ?)",
			k.ID, tenant, hex.EncodeToString(k.hash[:]), k.Created.UnixNano(), nanos(expires), string(text))
		return err
	})
	if err != nil {
		return "", Key{}, err
	}
	if s.onKey != nil {
		_ = s.onKey() // the key is stored: it must be shown
	}
	return secret, k, nil
}

// lastExpiry is the last time whose nanoseconds a column can have.
var lastExpiry = time.Unix(0, math.MaxInt64).UTC().Truncate(time.Second)

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// Keys returns the keys of a tenant, or of all where tenant is "", oldest first, revoked and expired ones too.
// ErrNotFound.
func (s *Store) Keys(ctx context.Context, tenant string) ([]Key, error) {
	query := "SELECT id, tenant, hash, created_ns, expires_ns, revoked_ns, settings FROM tenant_keys"
	var args []any
	if tenant != "" {
		query += " WHERE tenant = ?"
		args = append(args, tenant)
	}
	rows, err := s.db.Query(ctx, query+" ORDER BY created_ns, id", args...)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	defer rows.Close()
	var out []Key
	for rows.Next() {
		var k Key
		var hash, text string
		var created, expires, revoked int64
		if err := rows.Scan(&k.ID, &k.Tenant, &hash, &created, &expires, &revoked, &text); err != nil {
			return nil, fmt.Errorf("read keys: %w", err)
		}
		raw, err := hex.DecodeString(hash)
		if err != nil || len(raw) != len(k.hash) {
			return nil, fmt.Errorf("key %s has no hash: the database was changed by hand", k.ID)
		}
		copy(k.hash[:], raw)
		if err := json.Unmarshal([]byte(text), &k.KeySettings); err != nil {
			return nil, fmt.Errorf("settings of key %s: %w", k.ID, err)
		}
		k.Created, k.Expires, k.Revoked = fromNanos(created), fromNanos(expires), fromNanos(revoked)
		out = append(out, k)
	}
	return out, errors.Join(rows.Err(), s.known(ctx, tenant, len(out)))
}

// Known returns ErrNotFound for a tenant that does not exist and of which there is no usage, which stays of a removed
// one.
func (s *Store) Known(ctx context.Context, tenant string) error {
	var n int
	err := s.db.QueryRow(ctx, "SELECT COUNT(*) FROM tenant_days WHERE tenant = ?", tenant).Scan(&n)
	return errors.Join(err, s.known(ctx, tenant, n))
}

// known returns ErrNotFound where nothing was found of a tenant that does not exist. Of a removed tenant keys and usage
// stay.
func (s *Store) known(ctx context.Context, tenant string, found int) error {
	if found > 0 || tenant == "" {
		return nil
	}
	_, err := s.Get(ctx, tenant)
	return err
}

// Revoke revokes a key of a tenant (of any tenant where tenant is ""); ErrNotFound where it is not one of its keys. A
// second call changes nothing.
func (s *Store) Revoke(ctx context.Context, tenant, id string) error {
	return s.change(ctx, func(tx *store.Tx) error {
		var owner string
		var revoked int64
		err := tx.QueryRow(ctx, "SELECT tenant, revoked_ns FROM tenant_keys WHERE id = ?", id).Scan(&owner, &revoked)
		if errors.Is(err, sql.ErrNoRows) || err == nil && tenant != "" && owner != tenant {
			return fmt.Errorf("%w: there is no key %s", ErrNotFound, names.Quote(id))
		}
		if err != nil || revoked != 0 {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE tenant_keys SET revoked_ns = ? WHERE id = ?", s.now().UnixNano(), id)
		return err
	})
}

// counter returns the number of changes so far.
func (s *Store) counter(ctx context.Context) (int64, error) {
	var n int64
	err := s.db.QueryRow(ctx, "SELECT counter FROM tenant_changes WHERE id = 1").Scan(&n)
	return n, err
}
