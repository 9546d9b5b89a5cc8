//go:build stores

package adapters

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/internal/deadline"
	"weft/internal/store"
)

// sharedPlaces returns places that share one new database of the Postgres and one new prefix of the bucket that
// scripts/test-stores started, each with a data directory of its own, as several servers have.
func sharedPlaces(t *testing.T, n int) []place {
	t.Helper()
	name := fmt.Sprintf("test%d", rand.Uint64())
	base := os.Getenv("WEFT_TEST_POSTGRES")
	admin, err := store.Open(t.Context(), base)
	if err != nil {
		t.Fatalf("%v (scripts/test-stores starts what this test needs)", err)
	}
	defer admin.Close()
	if _, err := admin.Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	blobs, err := NewBucketBlobs(t.Context(), bucketOf(name))
	if err != nil {
		t.Fatal(err)
	}
	places := make([]place, n)
	for i := range places {
		places[i] = place{strings.Replace(base, "/postgres?", "/"+name+"?", 1), blobs, t.TempDir()}
	}
	return places
}

func bucketOf(prefix string) BucketConfig {
	return BucketConfig{
		Endpoint: strings.TrimPrefix(os.Getenv("WEFT_TEST_BUCKET_ENDPOINT"), "http://"), Insecure: true,
		Bucket: "weft-test", Prefix: prefix,
		AccessKey: os.Getenv("AWS_ACCESS_KEY_ID"), SecretKey: os.Getenv("AWS_SECRET_ACCESS_KEY"),
	}
}

// Everything that holds for a data directory holds for Postgres and a bucket.
func TestStores(t *testing.T) {
	for name, test := range map[string]func(*testing.T, place){
		"versions": testVersions, "rollback": testRollback, "tag pin remove": testTagPinRemove, "quota": testQuota,
		"same upload at once": testSameUploadAtOnce, "garbage of uploads": testGarbageOfUploads,
		"change is seen elsewhere": testChangeIsSeenElsewhere, "model": testModel,
		"names with capitals": testNamesWithCapitals, "owner": testOwner, "unknown files": testUnknownFiles,
		"a second look": testSecondLook, "older stores": testOlderStore,
	} {
		t.Run(name, func(t *testing.T) { test(t, sharedPlaces(t, 1)[0]) })
	}
}

// An adapter added at one server is resolved and loaded by another on first use, from the bucket; removed at one, it
// goes at both.
func TestStoresTwoServers(t *testing.T) {
	places := sharedPlaces(t, 2)
	a, b := places[0].open(t), places[1].open(t)
	cache, err := NewCache(CacheConfig{Registry: b, Load: loadContent(t), SyncEvery: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	v := mustAdd(t, a, "acme", "support", "of server a")
	began := time.Now()
	got, err := b.Resolve(t.Context(), "acme", "support", "")
	if err != nil || got.Digest != v.Digest {
		t.Fatalf("resolved %+v: %v", got, err)
	}
	l := mustAcquire(t, cache, got)
	if took := time.Since(began); took > time.Second {
		t.Errorf("first use took %v", took)
	}
	if text := l.(*lease).entry.res.(*textResident).text; text != "of server a" {
		t.Errorf("loaded %q", text)
	}
	// The other server's folder is damaged: it is fetched again.
	dir, err := b.Dir(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	if err := rewrite(filepath.Join(dir, tensorsFile), "of server A"); err != nil {
		t.Fatal(err)
	}
	if text := content(t, b, v); text != "of server a" {
		t.Errorf("after damage %q", text)
	}
	if err := a.Remove(t.Context(), "acme", "support", ""); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	_, err = b.Resolve(t.Context(), "acme", "support", "")
	wants(t, "removed at the other server", err, ErrNotFound)
	l.Weights()
	l.Release()
	if st, _ := cache.State(v); st != Disk {
		t.Errorf("removed and released, but in state %s", st)
	}
	for _, r := range []*Registry{a, b} {
		if _, err := r.GarbageCollect(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		onlyReferred(t, r)
		nothingLeft(t, r)
	}
}

// Uploads, removals and garbage collection by two servers at once lose nothing that is referred to.
func TestStoresCollectMeanwhile(t *testing.T) {
	places := sharedPlaces(t, 2)
	a, b := places[0].open(t), places[1].open(t)
	done := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if _, err := b.GarbageCollect(t.Context(), 0); err != nil {
				done <- err
				return
			}
		}
	}()
	for i := range 20 {
		what := fmt.Sprint(i % 3)
		v := mustAdd(t, a, "t", "n"+what, what)
		if got := content(t, a, v); got != what {
			t.Errorf("%q instead of %q", got, what)
		}
		os.RemoveAll(filepath.Join(a.cfg.Dir, "versions"))
		os.Mkdir(filepath.Join(a.cfg.Dir, "versions"), 0o700)
		if got := content(t, a, v); got != what {
			t.Errorf("%q instead of %q", got, what)
		}
		if err := a.Remove(t.Context(), "t", "n"+what, ""); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	if err, _ := deadline.Receive(t, done, "the end of the collector"); err != nil {
		t.Error(err)
	}
}

func TestStoresBucket(t *testing.T) {
	cfg := bucketOf("p")
	b, err := NewBucketBlobs(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Open(t.Context(), strings.Repeat("0", 64))
	wants(t, "no such blob", err, fs.ErrNotExist)
	if err := b.Delete(t.Context(), strings.Repeat("0", 64)); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*BucketConfig){
		"another bucket": func(c *BucketConfig) { c.Bucket = "none" },
		"a wrong key":    func(c *BucketConfig) { c.SecretKey = "wrong" },
		"no server":      func(c *BucketConfig) { c.Endpoint = "127.0.0.1:1" },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		wrong := cfg
		change(&wrong)
		if _, err := NewBucketBlobs(ctx, wrong); err == nil || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%s: %v", what, err)
		}
		cancel()
	}
}
