package capture

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"weft/internal/bounded"
	"weft/internal/durable"
	"weft/internal/names"
	"weft/internal/store"
)

const keyLength = 32

// dataKey encrypts what a tenant's segments hold, and makes the digests of the index.
type dataKey struct {
	id   string // of the row
	seal cipher.AEAD
	mac  []byte
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// sealBytes encrypts plain as nonce and ciphertext, bound to context.
func sealBytes(seal cipher.AEAD, to, plain []byte, context string) []byte {
	start := len(to)
	to = append(to, make([]byte, nonceLength)...)
	rand.Read(to[start:]) // never fails
	return seal.Seal(to, to[start:start+nonceLength], plain, []byte(context))
}

func openBytes(seal cipher.AEAD, sealed []byte, context string) ([]byte, error) {
	if len(sealed) < nonceLength {
		return nil, errTorn
	}
	return seal.Open(nil, sealed[:nonceLength], sealed[nonceLength:], []byte(context))
}

// digest returns the keyed digest of the parts as one thing of a sort: equal digests mean equal parts.
func (k *dataKey) digest(sort string, parts ...string) string {
	h := hmac.New(sha256.New, k.mac)
	for _, p := range append([]string{sort}, parts...) {
		var n [8]byte
		binary.LittleEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// readMaster reads a master key: 64 hexadecimal digits.
func readMaster(path string) ([]byte, error) {
	text, err := bounded.ReadFileNoLink(path, 4096)
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != keyLength {
		return nil, fmt.Errorf("%w: %s does not hold 64 hexadecimal digits: write one with "+
			"`openssl rand -hex 32`", ErrKey, path)
	}
	return key, nil
}

// makeMaster writes a new master key, unless another process has just done so.
func makeMaster(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	key := make([]byte, keyLength)
	rand.Read(key) // never fails
	draft := path + "." + rand.Text()
	if err := durable.Create(draft, []byte(hex.EncodeToString(key)+"\n"), 0o600); err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(draft)))
	}
	err := os.Link(draft, path) // unlike a rename, it never replaces a key
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	return errors.Join(err, os.Remove(draft), durable.SyncDir(filepath.Dir(path)))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// masterID names a master key without telling it.
func masterID(master []byte) string {
	h := hmac.New(sha256.New, master)
	h.Write([]byte("weft master key"))
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// master returns the master key. It is made where there is none yet and no data key was encrypted with one.
func (s *Store) master(ctx context.Context, create bool) ([]byte, error) {
	key, err := readMaster(s.opt.KeyFile)
	if s.opt.KeyFile == "" || errors.Is(err, fs.ErrNotExist) {
		var used int64
		if err := s.opt.DB.QueryRow(ctx, "SELECT COUNT(*) FROM capture_keys").Scan(&used); err != nil {
			return nil, err
		}
		if s.opt.KeyFile == "" && (used > 0 || create) {
			return nil, fmt.Errorf("%w: no file is named for it, and there is no folder of settings: set capture-key",
				ErrKey)
		}
		if used > 0 {
			return nil, fmt.Errorf("%w: %s is missing, and captured data of %d tenants is encrypted with it: put it "+
				"back, or name its place. Nothing was changed", ErrKey, s.opt.KeyFile, used)
		}
		if !create {
			return nil, nil
		}
		if err := makeMaster(s.opt.KeyFile); err != nil {
			return nil, fmt.Errorf("%w: make %s: %w", ErrKey, s.opt.KeyFile, err)
		}
		key, err = readMaster(s.opt.KeyFile)
	}
	if err != nil && !errors.Is(err, ErrKey) {
		err = fmt.Errorf("%w: %w", ErrKey, err)
	}
	return key, err
}

// checkMaster returns ErrKey where the data keys were encrypted with another master key than the one at hand.
func (s *Store) checkMaster(ctx context.Context) error {
	key, err := s.master(ctx, false)
	if key == nil || err != nil {
		return err
	}
	var tenant string
	err = s.opt.DB.QueryRow(ctx, "SELECT tenant FROM capture_keys WHERE master <> ? ORDER BY tenant LIMIT 1",
		masterID(key)).Scan(&tenant)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.wrongMaster(tenant)
}

func (s *Store) wrongMaster(tenant string) error {
	return fmt.Errorf("%w: %s is not the one with which the data of tenant %s was encrypted: put that one back. "+
		"Nothing was changed", ErrKey, s.opt.KeyFile, names.Quote(tenant))
}

// key returns a tenant's data key; it is made where there is none and create is set. nil: there is none.
func (s *Store) key(ctx context.Context, tenant string, create bool) (*dataKey, error) {
	var id, wrapped, master string
	read := func() error {
		return s.opt.DB.QueryRow(ctx, "SELECT id, wrapped, master FROM capture_keys WHERE tenant = ?",
			tenant).Scan(&id, &wrapped, &master)
	}
	err := read()
	if errors.Is(err, sql.ErrNoRows) && create {
		if err = s.makeKey(ctx, tenant); err == nil {
			err = read()
		}
	}
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s.keysMu.Lock()
	k := s.keys[tenant]
	s.keysMu.Unlock()
	if k != nil && k.id == id {
		return k, nil
	}
	secret, err := s.master(ctx, false)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(masterID(secret)), []byte(master)) == 0 {
		return nil, s.wrongMaster(tenant)
	}
	sealed, err := hex.DecodeString(wrapped)
	if err != nil {
		return nil, fmt.Errorf("%w: the data key of tenant %s is damaged: %w", ErrKey, names.Quote(tenant), err)
	}
	around, err := newAEAD(secret)
	if err != nil {
		return nil, err
	}
	raw, err := openBytes(around, sealed, wrapContext(tenant, id))
	if err != nil {
		return nil, fmt.Errorf("%w: the data key of tenant %s is damaged", ErrKey, names.Quote(tenant))
	}
	k = &dataKey{id: id}
	if k.seal, err = newAEAD(raw); err != nil {
		return nil, err
	}
	h := hmac.New(sha256.New, raw)
	h.Write([]byte("weft capture index"))
	k.mac = h.Sum(nil)
	s.keysMu.Lock()
	defer s.keysMu.Unlock()
	if len(s.keys) >= maxKeys {
		clear(s.keys)
	}
	s.keys[tenant] = k
	return k, nil
}

// maxKeys limits the data keys in memory.
const maxKeys = 4096

func wrapContext(tenant, id string) string { return "weft capture key\x00" + tenant + "\x00" + id }

// makeKey makes the data key of a tenant that exists.
func (s *Store) makeKey(ctx context.Context, tenant string) error {
	master, err := s.master(ctx, true)
	if err != nil {
		return err
	}
	around, err := newAEAD(master)
	if err != nil {
		return err
	}
	raw := make([]byte, keyLength)
	rand.Read(raw) // never fails
	id := strings.ToLower(rand.Text())
	wrapped := sealBytes(around, nil, raw, wrapContext(tenant, id))
	return s.opt.DB.Tx(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO capture_keys (tenant, id, wrapped, master, seq, aged_ns) "+
			"SELECT name, CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), 0, 0 FROM tenants WHERE name = ? "+
			"ON CONFLICT DO NOTHING", id, hex.EncodeToString(wrapped), masterID(master), tenant)
		return err
	})
}

// DropTenant destroys a tenant's data key and its index, within the transaction that deletes the tenant. The bytes,
// which nothing can decrypt any more, are removed by the next sweep.
func DropTenant(ctx context.Context, tx *store.Tx, tenant string) error {
	for _, table := range []string{"keys", "segments", "records", "prefixes", "feedback", "forgotten"} {
		if _, err := tx.Exec(ctx, "DELETE FROM capture_"+table+" WHERE tenant = ?", tenant); err != nil {
			return err
		}
	}
	return nil
}
