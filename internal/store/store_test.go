package store

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
)

func open(t *testing.T, path string) *DB {
	t.Helper()
	db, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestOpenTwiceAndNewer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a ?#% folder", "weft.db")
	db := open(t, path)
	open(t, path)
	if _, err := db.Exec(t.Context(), "INSERT INTO schema_version (version) VALUES (?)", 9999); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), path); !errors.Is(err, ErrNewer) {
		t.Errorf("a newer database: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, dsn := range []string{t.TempDir(), "postgres://nobody:secret@127.0.0.1:1/none?connect_timeout=1"} {
		_, err := Open(t.Context(), dsn)
		if err == nil {
			t.Fatalf("%s opens", Redact(dsn))
		}
	}
}

// Two connections add to one number at once: no addition is lost.
func TestTransactionsExclude(t *testing.T) {
	testTransactionsExclude(t, filepath.Join(t.TempDir(), "weft.db"), 50)
}

func testTransactionsExclude(t *testing.T, dsn string, each int) {
	a, b := open(t, dsn), open(t, dsn)
	ctx := t.Context()
	if _, err := a.Exec(ctx, "CREATE TABLE n (v BIGINT)"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Exec(ctx, "INSERT INTO n VALUES (0)"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, db := range []*DB{a, b} {
		wg.Go(func() {
			for range each {
				if err := add(ctx, db); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var v int
	if err := a.QueryRow(ctx, "SELECT v FROM n").Scan(&v); err != nil || v != 2*each {
		t.Errorf("%d after %d additions: %v", v, 2*each, err)
	}
	err := a.Tx(ctx, func(tx *Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE n SET v = ?", -1); err != nil {
			return err
		}
		return errors.New("no")
	})
	if err == nil {
		t.Error("a failed transaction returns nil")
	}
	if err := a.QueryRow(ctx, "SELECT v FROM n").Scan(&v); err != nil || v != 2*each {
		t.Errorf("%d after a transaction that failed: %v", v, err)
	}
}

func add(ctx context.Context, db *DB) error {
	return db.Tx(ctx, func(tx *Tx) error {
		var v int
		if err := tx.QueryRow(ctx, "SELECT v FROM n").Scan(&v); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "UPDATE n SET v = ?", v+1)
		return err
	})
}

func TestBind(t *testing.T) {
	if got := (&DB{postgres: true}).bind("a = ? AND b = ?"); got != "a = $1 AND b = $2" {
		t.Error(got)
	}
}
