package adapters

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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

// TestLinkedStore: a folder of files that is a link, as to another disk, is listed and collected as any other; files
// that cannot be renamed into it are copied, and copies that were not finished are removed later.
func TestLinkedStore(t *testing.T) {
	ctx := t.Context()
	p := localPlace(t)
	disk, link := t.TempDir(), filepath.Join(t.TempDir(), "blobs")
	if err := os.Symlink(disk, link); err != nil {
		t.Fatal(err)
	}
	blobs := NewFolderBlobs(link)
	blobs.rename = func(from, to string) error {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: syscall.EXDEV}
	}
	p.blobs = blobs
	r := p.open(t)
	v := mustAdd(t, r, "t", "a", "x")
	if got := content(t, r, v); got != "x" {
		t.Errorf("the stored file has %q", got)
	}
	if err := r.Remove(ctx, "t", "a", ""); err != nil {
		t.Fatal(err)
	}
	unfinished, err := os.CreateTemp(mustDir(t, disk), ".copy")
	if err != nil {
		t.Fatal(err)
	}
	unfinished.Close()
	g, err := r.Collect(ctx, CollectOptions{DryRun: true})
	if err != nil || g.Stored != 2 || g.Garbage != 2 {
		t.Errorf("dry run: %+v, %v", g, err)
	}
	if _, err := os.Lstat(unfinished.Name()); err != nil {
		t.Errorf("a copy that may go on: %v", err)
	}
	r.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	g, err = r.GarbageCollect(ctx, 0)
	if err != nil || g.Blobs != 2 || p.stored(t) != 0 {
		t.Errorf("%+v, %v, %d blobs are left", g, err, p.stored(t))
	}
	if _, err := os.Lstat(unfinished.Name()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a copy that was not finished: %v", err)
	}
}

// mustDir returns a folder in dir.
func mustDir(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			return filepath.Join(dir, e.Name())
		}
	}
	t.Fatal("no folder", err)
	return ""
}

// TestStoreGone: while the folder of files is missing nothing is added to an empty one in its place, and a request for
// an adapter is not told that its file is lost; when it is back all is as before.
func TestStoreGone(t *testing.T) {
	ctx := t.Context()
	p := localPlace(t)
	root := filepath.Join(t.TempDir(), "blobs")
	p.blobs = NewFolderBlobs(root)
	r := p.open(t)
	v := mustAdd(t, r, "t", "a", "x")
	if err := os.Rename(root, root+"-away"); err != nil {
		t.Fatal(err)
	}
	_, err := r.Add(ctx, "t", "b", peftFolder(t, "y"), AddOptions{})
	wants(t, "an upload", err, ErrForeign)
	if err == nil || !strings.Contains(err.Error(), "it is empty") {
		t.Errorf("an upload: %v", err)
	}
	_, err = r.GarbageCollect(ctx, 0)
	wants(t, "a collection", err, ErrForeign)
	if _, err := r.Dir(ctx, v); !errors.Is(err, errNoFolder) || errors.Is(err, ErrCorrupt) {
		t.Errorf("a request: %v", err)
	}
	if _, err := os.Lstat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder was made: %v", err)
	}
	if err := os.Rename(root+"-away", root); err != nil {
		t.Fatal(err)
	}
	if got := content(t, r, v); got != "x" {
		t.Errorf("the stored file has %q", got)
	}
	mustAdd(t, r, "t", "b", "y")
}
