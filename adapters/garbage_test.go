package adapters

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// collectingBlobs collects garbage after each Put, as another server may at any time.
type collectingBlobs struct {
	Blobs
	collect func(context.Context) error
}

func (b *collectingBlobs) Put(ctx context.Context, digest, path string) error {
	if err := b.Blobs.Put(ctx, digest, path); err != nil {
		return err
	}
	return b.collect(ctx)
}

func TestGarbageOfUploads(t *testing.T) { testGarbageOfUploads(t, localPlace(t)) }

// testGarbageOfUploads: files that an upload has claimed outlive a garbage collection in the middle of it. Where the
// upload takes longer than a claim lives, they go and the upload says so.
func testGarbageOfUploads(t *testing.T, p place) {
	collector := &collectingBlobs{Blobs: p.blobs}
	p.blobs = collector
	r, other := p.open(t), place{p.dsn, p.blobs, t.TempDir()}.open(t)
	removed := 0
	collector.collect = func(ctx context.Context) error {
		g, err := other.GarbageCollect(ctx, 0)
		removed += g.Blobs
		if errors.Is(err, ErrUnknownFiles) { // what was put after the claim had ended, until the upload gives up
			err = nil
		}
		return err
	}
	v := mustAdd(t, r, "t", "a", "claimed")
	if got := content(t, r, v); removed > 0 || got != "claimed" {
		t.Errorf("%d blobs of an upload under way were collected; it loads %q", removed, got)
	}
	if err := r.Remove(t.Context(), "t", "a", ""); err != nil {
		t.Fatal(err)
	}
	other.claimLife = 0
	_, err := r.Add(t.Context(), "t", "a", peftFolder(t, "too slow"), AddOptions{})
	wants(t, "an upload whose claim is too old", err, ErrConflict)
	if err := collector.collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	onlyReferred(t, r)
}

// stored counts the blobs of a place.
func (p place) stored(t *testing.T) (n int) {
	t.Helper()
	for _, err := range p.blobs.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// withDatabase is the place with another database, which is empty.
func (p place) withDatabase(t *testing.T) place {
	dir := t.TempDir()
	return place{filepath.Join(dir, "other.db"), p.blobs, dir}
}

func TestOwner(t *testing.T) { testOwner(t, localPlace(t)) }

// testOwner: a database that is empty, or another one, neither deletes from the store of files nor adds to it, until
// its operator takes the store over; then the database before it stops.
func testOwner(t *testing.T, p place) {
	ctx := t.Context()
	first := p.open(t)
	for i := range 3 {
		mustAdd(t, first, "t", fmt.Sprint("n", i), fmt.Sprint(i))
	}
	before := p.stored(t)
	other := p.withDatabase(t).open(t)
	for range 2 {
		g, err := other.GarbageCollect(ctx, 0)
		wants(t, "a collection with an empty database", err, ErrForeign)
		if g.Blobs != 0 || p.stored(t) != before {
			t.Fatalf("%+v; %d blobs of %d are left", g, p.stored(t), before)
		}
	}
	_, err := other.Add(ctx, "t", "a", peftFolder(t, "x"), AddOptions{})
	wants(t, "an upload to the store of another database", err, ErrConflict)
	_, err = other.Collect(ctx, CollectOptions{Force: true})
	wants(t, "force without a dry run", err, ErrNotListed)
	other.now = func() time.Time { return time.Now().Add(-2 * time.Hour) }
	if _, err := other.Collect(ctx, CollectOptions{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	other.now = time.Now
	_, err = other.Collect(ctx, CollectOptions{Force: true})
	wants(t, "force long after a dry run", err, ErrNotListed)
	g, err := other.Collect(ctx, CollectOptions{DryRun: true})
	if err != nil || g.Garbage != before || g.Blobs != 0 || g.Stops == "" || p.stored(t) != before {
		t.Errorf("dry run: %+v, %v, %d blobs are left", g, err, p.stored(t))
	}
	late := mustAdd(t, first, "t", "late", "after the dry run")
	g, err = other.Collect(ctx, CollectOptions{Force: true})
	if err != nil || g.Blobs != before-1 && g.Blobs != before { // the configuration is in both
		t.Errorf("force: %+v, %v", g, err)
	}
	if in, err := p.blobs.Open(ctx, mustFiles(t, first, late)[tensorsFile]); err != nil {
		t.Errorf("a file that no dry run has listed: %v", err)
	} else {
		in.Close()
	}
	mustAdd(t, other, "t", "a", "x")
	_, err = first.GarbageCollect(ctx, 0)
	wants(t, "a collection of the database that had the store", err, ErrForeign)
}

// mustFiles returns the digests of a version's files by name.
func mustFiles(t *testing.T, r *Registry, v Version) map[string]string {
	t.Helper()
	files, _, err := r.files(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range files {
		out[f.Name] = f.Digest
	}
	return out
}

func TestUnknownFiles(t *testing.T) { testUnknownFiles(t, localPlace(t)) }

// testUnknownFiles: where more than a tenth of the files are unknown to the database, as with an older copy of it,
// nothing is deleted; what was removed by a call or left by an upload that failed does not count.
func testUnknownFiles(t *testing.T, p place) {
	ctx := t.Context()
	r := p.open(t)
	for i := range 20 {
		mustAdd(t, r, "t", fmt.Sprint("n", i), fmt.Sprint(i))
	}
	for i := range 15 { // most of all files
		if err := r.Remove(ctx, "t", fmt.Sprint("n", i), ""); err != nil {
			t.Fatal(err)
		}
	}
	if g, err := r.GarbageCollect(ctx, 0); err != nil || g.Blobs != 15 || g.Unknown != 0 {
		t.Errorf("after removals: %+v, %v", g, err)
	}
	forget := func(n int) { // the rows of the n newest, as a restored older database does not have them
		for i := 20 - n; i < 20; i++ {
			for _, table := range []string{"versions", "files", "names", "history"} {
				if _, err := r.cfg.DB.Exec(ctx, "DELETE FROM adapter_"+table+" WHERE name = ?",
					fmt.Sprint("n", i)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	forget(2) // of 6 blobs
	before := p.stored(t)
	g, err := r.GarbageCollect(ctx, 0)
	wants(t, "a collection with an older database", err, ErrUnknownFiles)
	if g.Blobs != 0 || p.stored(t) != before {
		t.Errorf("%+v, %d of %d blobs are left", g, p.stored(t), before)
	}
	for i := range 20 {
		mustAdd(t, r, "t", fmt.Sprint("m", i), fmt.Sprint("m", i))
	}
	if g, err := r.GarbageCollect(ctx, 0); err != nil || g.Blobs != 2 || g.Unknown != 2 {
		t.Errorf("two of %d: %+v, %v", p.stored(t), g, err)
	}
}

func TestSecondLook(t *testing.T) { testSecondLook(t, localPlace(t)) }

// testSecondLook: a file is deleted only by a collection that comes a grace after the file was first seen without a
// version, or was removed; what is used again in between starts anew, and so does what a clock from the future noted.
func testSecondLook(t *testing.T, p place) {
	ctx := t.Context()
	r := p.open(t)
	now := time.Now()
	r.now = func() time.Time { return now }
	mustAdd(t, r, "t", "stays", "stays")
	collect := func(what string, want int) {
		t.Helper()
		if g, err := r.GarbageCollect(ctx, GarbageGrace); err != nil || g.Blobs != want {
			t.Errorf("%s: %+v, %v; want %d deleted", what, g, err, want)
		}
	}
	remove := func() {
		if err := r.Remove(ctx, "t", "a", ""); err != nil {
			t.Fatal(err)
		}
	}
	mustAdd(t, r, "t", "a", "x")
	remove()
	collect("at once", 0)
	now = now.Add(GarbageGrace - time.Minute)
	collect("before the grace is over", 0)
	mustAdd(t, r, "t", "a", "x")
	now = now.Add(2 * time.Minute)
	collect("used again", 0)
	remove()
	collect("removed again", 0)
	now = now.Add(-GarbageGrace)
	collect("a clock that was ahead was set right", 0)
	now = now.Add(GarbageGrace + time.Minute)
	collect("after the grace", 1)
	onlyReferred(t, r)
}

func TestOlderStore(t *testing.T) { testOlderStore(t, localPlace(t)) }

// testOlderStore: a store from before databases had an identity is adopted by the database that refers to its files,
// at the first collection or upload, and never by an empty one.
func testOlderStore(t *testing.T, p place) {
	ctx := t.Context()
	r := p.open(t)
	for i := range 3 {
		mustAdd(t, r, "t", fmt.Sprint("n", i), fmt.Sprint(i))
	}
	older := func() { // neither side has an identity
		if _, err := r.cfg.DB.Exec(ctx, "DELETE FROM adapter_store"); err != nil {
			t.Fatal(err)
		}
		if err := p.blobs.SetOwner(ctx, ""); err != nil {
			t.Fatal(err)
		}
	}
	older()
	empty := p.withDatabase(t).open(t)
	_, err := empty.GarbageCollect(ctx, 0)
	wants(t, "an empty database", err, ErrForeign)
	_, err = empty.Add(ctx, "t", "a", peftFolder(t, "x"), AddOptions{})
	wants(t, "an upload with an empty database", err, ErrForeign)
	if g, err := r.GarbageCollect(ctx, 0); err != nil || g.Garbage != 0 {
		t.Errorf("the database that refers to the files: %+v, %v", g, err)
	}
	older()
	mustAdd(t, r, "t", "more", "more")
	if owner, err := p.blobs.Owner(ctx); err != nil || owner == "" {
		t.Errorf("after an upload the store belongs to %q: %v", owner, err)
	}
	_, err = empty.GarbageCollect(ctx, 0)
	wants(t, "an empty database afterwards", err, ErrForeign)
}
