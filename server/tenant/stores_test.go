//go:build stores

package tenant

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"weft/internal/store"
)

// sharedStores returns stores with connections of their own to one new database of the Postgres that
// scripts/test-stores started.
func sharedStores(t *testing.T) (a, b *Store) {
	t.Helper()
	base, name := os.Getenv("WEFT_TEST_POSTGRES"), fmt.Sprintf("tenants%d", rand.Uint64())
	admin, err := store.Open(t.Context(), base)
	if err != nil {
		t.Fatalf("%v (scripts/test-stores starts what this test needs)", err)
	}
	defer admin.Close()
	if _, err := admin.Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	dsn := strings.Replace(base, "/postgres?", "/"+name+"?", 1)
	return openStoreAt(t, dsn), openStoreAt(t, dsn)
}

// Everything that holds for a file holds for Postgres, between two servers too.
func TestStores(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, a, b *Store){
		"tenants":                          func(t *testing.T, a, _ *Store) { testTenants(t, a) },
		"keys":                             func(t *testing.T, a, _ *Store) { testKeys(t, a) },
		"changes are seen within a second": testChangesAreSeenWithinASecond,
		"spend is shared":                  testSpendIsShared,
		"usage":                            testUsage,
	} {
		t.Run(name, func(t *testing.T) {
			a, b := sharedStores(t)
			test(t, a, b)
		})
	}
}
