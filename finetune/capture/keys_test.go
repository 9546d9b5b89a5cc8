package capture

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/internal/store"
)

// A master key that is missing or wrong is an error that says so, and with the right one everything is there.
func TestMasterKey(t *testing.T) {
	p := setup{t.TempDir()}
	path := filepath.Join(p.dir, "key")
	s := p.open(t)
	if _, err := os.Stat(path); err == nil {
		t.Error("a master key was made before it was needed")
	}
	put(t, s, record("c1", "anna", "a", "q"))
	get(t, s, "c1")
	must(t, s.Close())
	right, err := os.ReadFile(path)
	must(t, err)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v: %v", st.Mode(), err)
	}
	refused := func(words string) {
		t.Helper()
		opt := p.options(t)
		_, err := Open(t.Context(), opt)
		if !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v; want %q", err, words)
		}
	}
	must(t, os.Rename(path, path+".away"))
	refused("is missing")
	if _, err := os.Stat(path); err == nil {
		t.Error("a second master key was made")
	}
	must(t, os.WriteFile(path, []byte(strings.Repeat("ab", 32)), 0o600))
	refused("is not the one")
	for _, text := range []string{"", "no key", strings.Repeat("ab", 31), strings.Repeat("ab", 33)} {
		must(t, os.WriteFile(path, []byte(text), 0o600))
		refused("64 hexadecimal digits")
	}
	must(t, os.WriteFile(path, right, 0o600))
	s = p.open(t)
	get(t, s, "c1")
	// the key is exchanged while the store is open: another tenant's records are dropped, nothing is lost
	must(t, os.WriteFile(path, []byte(strings.Repeat("ab", 32)), 0o600))
	s.keys = map[string]*dataKey{}
	put(t, s, record("c2", "", "a", "q"))
	if _, err := s.Get(t.Context(), "t", "c1"); !errors.Is(err, ErrKey) {
		t.Errorf("read with a wrong key: %v", err)
	}
	if st := s.Stats(); st.Dropped[DropKey] != 1 {
		t.Errorf("%+v", st)
	}
	must(t, os.WriteFile(path, right, 0o600))
	get(t, s, "c1")
}

// A tenant's key is gone with the tenant, and its bytes with the next sweep; a tenant of the same name starts anew.
func TestDropTenant(t *testing.T) {
	p := setup{t.TempDir()}
	s := p.open(t)
	ctx := t.Context()
	put(t, s, record("c1", "anna", "a", "q"))
	other := record("c1", "anna", "a", "q")
	other.Tenant = "u"
	put(t, s, other)
	get(t, s, "c1")
	must(t, s.opt.DB.Tx(ctx, func(tx *store.Tx) error { return DropTenant(ctx, tx, "t") }))
	if _, err := s.Get(ctx, "t", "c1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a record of a deleted tenant: %v", err)
	}
	put(t, s, record("c2", "anna", "a", "q"))
	get(t, s, "c2")
	must(t, s.Sweep(ctx))
	if n := frames(t, s); n != 2 {
		t.Errorf("%d frames after a sweep", n)
	}
	if _, err := s.Get(ctx, "u", "c1"); err != nil {
		t.Errorf("another tenant's record: %v", err)
	}
	must(t, s.opt.DB.Tx(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM tenants WHERE name = 't'"); err != nil {
			return err
		}
		return DropTenant(ctx, tx, "t")
	}))
	put(t, s, record("c3", "anna", "a", "q"))
	if _, err := s.Get(ctx, "t", "c3"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a record of a tenant that does not exist: %v", err)
	}
	must(t, s.Sweep(ctx))
	if _, err := os.Stat(filepath.Join(s.opt.Dir, "tenants", "t")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of a deleted tenant: %v", err)
	}
}

// A frame of one tenant is none of another, and one that was changed is not read.
func TestFramesAreBound(t *testing.T) {
	p := setup{t.TempDir()}
	s := p.open(t)
	put(t, s, record("c1", "anna", "a", "q"))
	get(t, s, "c1")
	key, err := s.key(t.Context(), "t", false)
	must(t, err)
	e := entry{record: &storedRecord{Record: *record("c9", "", "a", "q")}}
	must(t, key.encode("t", &e))
	body := e.frame[frameHeader:]
	if _, err := key.decode("t", body); err != nil {
		t.Fatal(err)
	}
	if _, err := key.decode("u", body); !errors.Is(err, ErrKey) {
		t.Errorf("under another tenant's name: %v", err)
	}
	for i := range body {
		changed := append([]byte{}, body...)
		changed[i] ^= 1
		if _, err := key.decode("t", changed); err == nil {
			t.Fatalf("byte %d of %d may change", i, len(body))
		}
	}
	files, err := s.files()
	must(t, err)
	b, err := os.ReadFile(files[0])
	must(t, err)
	b[len(b)-1] ^= 1
	must(t, os.WriteFile(files[0], b, 0o600))
	if _, err := s.Get(t.Context(), "t", "c1"); !errors.Is(err, ErrDisk) {
		t.Errorf("a damaged record: %v", err)
	}
	put(t, s, record("c2", "anna", "a", "q"))
	get(t, s, "c2")
}

// A folder that belongs to another database is refused, so that nothing in it is taken for garbage.
func TestForeignFolder(t *testing.T) {
	p := setup{t.TempDir()}
	s := p.open(t)
	put(t, s, record("c1", "anna", "a", "q"))
	get(t, s, "c1")
	must(t, s.Close())
	opt := p.options(t)
	opt.DB = setup{t.TempDir()}.db(t)
	if _, err := Open(t.Context(), opt); !errors.Is(err, ErrForeign) {
		t.Errorf("%v", err)
	}
	get(t, p.open(t), "c1")
}

func TestManyStoresInOneFolder(t *testing.T) {
	p := setup{t.TempDir()}
	var all []*Store
	for i := range 4 {
		s := p.open(t)
		put(t, s, record(fmt.Sprint("c", i), "", "a", "q"))
		all = append(all, s)
	}
	for i, s := range all {
		get(t, s, fmt.Sprint("c", i))
	}
	for i := range all {
		get(t, all[0], fmt.Sprint("c", i))
	}
}

// Without a file for the master key a store opens, and what is put is dropped and counted; with data keys that need one
// it does not open.
func TestNoFileOfMasterKey(t *testing.T) {
	p := setup{t.TempDir()}
	none := func(o *Options) { o.KeyFile = "" }
	s := p.open(t, none)
	put(t, s, record("c1", "anna", "a", "q"))
	must(t, s.flush(t.Context()))
	if st := s.Stats(); st.Written != 0 || st.Dropped[DropKey] != 1 {
		t.Errorf("%+v", st)
	}
	must(t, s.Close())
	s = p.open(t)
	put(t, s, record("c2", "anna", "a", "q"))
	get(t, s, "c2")
	must(t, s.Close())
	opt := p.options(t)
	opt.KeyFile = ""
	if _, err := Open(t.Context(), opt); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "set capture-key") {
		t.Error(err)
	}
}
