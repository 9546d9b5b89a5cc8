//go:build stores

package backup

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"weft/adapters"
	"weft/internal/store"
)

// sharedPlace is a new database of the Postgres and a new prefix of the bucket that scripts/test-stores started.
func sharedPlace(t *testing.T) place {
	t.Helper()
	name := fmt.Sprintf("backup%d", rand.Uint64())
	base := os.Getenv("WEFT_TEST_POSTGRES")
	admin, err := store.Open(t.Context(), base)
	if err != nil {
		t.Fatalf("%v (scripts/test-stores starts what this test needs)", err)
	}
	defer admin.Close()
	if _, err := admin.Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	blobs, err := adapters.NewBucketBlobs(t.Context(), adapters.BucketConfig{
		Endpoint: strings.TrimPrefix(os.Getenv("WEFT_TEST_BUCKET_ENDPOINT"), "http://"), Insecure: true,
		Bucket: "weft-test", Prefix: name,
		AccessKey: os.Getenv("AWS_ACCESS_KEY_ID"), SecretKey: os.Getenv("AWS_SECRET_ACCESS_KEY"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return openPlace(t, strings.Replace(base, "/postgres?", "/"+name+"?", 1), t.TempDir(), blobs)
}

// From Postgres and a bucket to a data directory and on to another Postgres and bucket, and the other way round.
func TestStoresBackup(t *testing.T) {
	testBackup(t, sharedPlace(t), localPlace(t, t.TempDir()), sharedPlace(t))
	testBackup(t, localPlace(t, t.TempDir()), sharedPlace(t), localPlace(t, t.TempDir()))
}

func TestStoresBackupUnderLoad(t *testing.T) { testBackupUnderLoad(t, sharedPlace(t), 4) }
