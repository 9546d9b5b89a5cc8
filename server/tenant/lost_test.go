package tenant

import (
	"errors"
	"testing"
	"time"
)

// TestKeysThatVanish: a running server whose database loses its keys goes on to need one.
func TestKeysThatVanish(t *testing.T) {
	st := openStore(t)
	a := openAccess(t, Options{Store: st, Open: true})
	if _, err := a.Authenticate(""); err != nil {
		t.Fatal(err)
	}
	if _, _, err := st.AddKey(t.Context(), Default, KeySettings{Scopes: []Scope{Infer}}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := a.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{"DELETE FROM tenant_keys", "UPDATE tenant_changes SET counter = 0"} {
		if _, err := st.db.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Authenticate(""); !errors.Is(err, ErrNoKey) {
		t.Errorf("without a key: %v", err)
	}
}
