package adapters

import (
	"context"
	"iter"
	"testing"
	"time"
)

// collectingBlobs collects garbage after each Put, as another server may at any time. The collector's list of blobs is
// one that was made before the upload: all are old.
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

func (b *collectingBlobs) All(ctx context.Context) iter.Seq2[Blob, error] {
	return func(yield func(Blob, error) bool) {
		for blob, err := range b.Blobs.All(ctx) {
			if !yield(Blob{Digest: blob.Digest}, err) {
				return
			}
		}
	}
}

func TestGarbageOfUploads(t *testing.T) { testGarbageOfUploads(t, localPlace(t)) }

// testGarbageOfUploads: files that an upload has claimed outlive a garbage collection in the middle of it. Where the
// claim itself is older than the grace, they go and the upload says so.
func testGarbageOfUploads(t *testing.T, p place) {
	collector := &collectingBlobs{Blobs: p.blobs}
	p.blobs = collector
	r, other := p.open(t), place{p.dsn, p.blobs, t.TempDir()}.open(t)
	removed, grace := 0, time.Hour
	collector.collect = func(ctx context.Context) error {
		g, err := other.GarbageCollect(ctx, grace)
		removed += g.Blobs
		return err
	}
	v := mustAdd(t, r, "t", "a", "claimed")
	if got := content(t, r, v); removed > 0 || got != "claimed" {
		t.Errorf("%d blobs of an upload under way were collected; it loads %q", removed, got)
	}
	if err := r.Remove(t.Context(), "t", "a", ""); err != nil {
		t.Fatal(err)
	}
	grace = 0
	_, err := r.Add(t.Context(), "t", "a", peftFolder(t, "too slow"), AddOptions{})
	wants(t, "an upload whose claim is older than the grace", err, ErrConflict)
	if err := collector.collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	onlyReferred(t, r)
}
