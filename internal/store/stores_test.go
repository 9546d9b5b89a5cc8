//go:build stores

package store

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
)

// scripts/test-stores starts the Postgres.
func TestStoresTransactionsExclude(t *testing.T) {
	testTransactionsExclude(t, os.Getenv("WEFT_TEST_POSTGRES"), 4)
}

// Servers that start at once on a new database migrate it once.
func TestStoresOpenAtOnce(t *testing.T) {
	dsn := os.Getenv("WEFT_TEST_POSTGRES")
	name := fmt.Sprintf("test%d", rand.Uint64())
	if _, err := open(t, dsn).Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			db, err := Open(t.Context(), strings.Replace(dsn, "/postgres?", "/"+name+"?", 1))
			if err != nil {
				t.Error(err)
				return
			}
			db.Close()
		})
	}
	wg.Wait()
}
