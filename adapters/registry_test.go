package adapters

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weft/internal/names"
	"weft/internal/store"
)

// checkFake is a Checker whose digest is that of the bytes; the word "other base" in the configuration is refused.
func checkFake(_ context.Context, dir string) (Meta, error) {
	h := sha256.New()
	for _, name := range []string{configFile, tensorsFile, ggufFile} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Meta{}, err
		}
		if bytes.Contains(text, []byte("other base")) {
			return Meta{}, fmt.Errorf("%w: for another base", ErrInvalid)
		}
		h.Write(text)
	}
	return Meta{Digest: hex.EncodeToString(h.Sum(nil)), Base: "base", Rank: 8, Targets: []string{"q_proj"}, Params: 100,
		Bytes: 1000}, nil
}

// place is where a test's registry is: each test of stores_test.go runs in all places.
type place struct {
	dsn   string
	blobs Blobs
	dir   string
}

func localPlace(t testing.TB) place {
	dir := t.TempDir()
	return place{filepath.Join(dir, "weft.db"), NewFolderBlobs(filepath.Join(dir, "blobs")), dir}
}

func (p place) open(t testing.TB) *Registry {
	t.Helper()
	db, err := store.Open(context.Background(), p.dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	r, err := NewRegistry(RegistryConfig{DB: db, Blobs: p.blobs, Dir: p.dir, Check: checkFake})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// peftFolder writes a folder that checkFake takes, with what tells it from others.
func peftFolder(t testing.TB, what string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, configFile, `{"peft_type":"LORA"}`)
	write(t, dir, tensorsFile, what)
	return dir
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func mustAdd(t testing.TB, r *Registry, tenant, name, what string) Version {
	t.Helper()
	v, err := r.Add(context.Background(), tenant, name, peftFolder(t, what), AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// content returns the tensors that a version loads.
func content(t testing.TB, r *Registry, v Version) string {
	t.Helper()
	dir, err := r.Dir(context.Background(), v)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, tensorsFile))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func resolves(t *testing.T, r *Registry, tenant, name, version string, want Version) {
	t.Helper()
	v, err := r.Resolve(t.Context(), tenant, name, version)
	if err != nil || v.Digest != want.Digest {
		t.Errorf("%s/%s@%s is %.8s (%v), want %.8s", tenant, name, version, v.Digest, err, want.Digest)
	}
}

func wants(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestVersions(t *testing.T) { testVersions(t, localPlace(t)) }

func testVersions(t *testing.T, p place) {
	r, ctx := p.open(t), t.Context()
	folder := peftFolder(t, "one")
	write(t, folder, templateFile, "{{ messages }}")
	write(t, folder, "optimizer.pt", "not ours")
	one, err := r.Add(ctx, "acme", "support", folder, AddOptions{Tag: "first"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	if one.Tenant != "acme" || one.Rank != 8 || one.Bytes != 1000 || !one.Current ||
		one.ChatTemplate != "{{ messages }}" || !slices.Equal(one.Tags, []string{"first"}) {
		t.Errorf("%+v", one)
	}
	two := mustAdd(t, r, "acme", "support", "two")
	if two.ChatTemplate != "" {
		t.Errorf("the template of another version: %q", two.ChatTemplate)
	}
	for version, want := range map[string]Version{"": two, "first": one, one.Digest: one, one.Digest[:8]: one,
		two.Digest[:12]: two} {
		resolves(t, r, "acme", "support", version, want)
	}
	if got := content(t, r, one); got != "one" {
		t.Errorf("version one loads %q", got)
	}
	for _, ref := range [][3]string{
		{"acme", "other", ""}, {"evil", "support", ""}, {"acme", "support", "nope"}, {"acme", "support", "00000000"},
		{"acme", "support", one.Digest[:7]},
		{"acme", "support", "FIRST"}, {"acme", "../support", ""}, {"acme", "support", "%"}, {"acme", "support",
			"' OR 1=1 --"}, {"", "support", ""},
	} {
		_, err := r.Resolve(ctx, ref[0], ref[1], ref[2])
		wants(t, fmt.Sprint(ref), err, ErrNotFound)
	}
	again := mustAdd(t, r, "acme", "support", "two")
	if again.Digest != two.Digest {
		t.Errorf("the same content again is another version")
	}
	all, err := r.List(ctx, "acme")
	if err != nil || len(all) != 2 {
		t.Fatalf("%d versions: %v", len(all), err)
	}
	if all, err := r.List(ctx, "evil"); err != nil || len(all) != 0 {
		t.Errorf("another tenant sees %d versions: %v", len(all), err)
	}
}

func TestRollback(t *testing.T) { testRollback(t, localPlace(t)) }

func testRollback(t *testing.T, p place) {
	r, ctx := p.open(t), t.Context()
	one, two, three := mustAdd(t, r, "t", "a", "one"), mustAdd(t, r, "t", "a", "two"), mustAdd(t, r, "t", "a", "three")
	back := func(want Version) {
		t.Helper()
		v, err := r.Rollback(ctx, "t", "a", "")
		if err != nil || v.Digest != want.Digest || !v.Current {
			t.Errorf("rolled back to %.8s (%v), want %.8s", v.Digest, err, want.Digest)
		}
		resolves(t, r, "t", "a", "", want)
	}
	back(two)
	back(one)
	_, err := r.Rollback(ctx, "t", "a", "")
	wants(t, "before the first", err, ErrConflict)
	if v, err := r.Rollback(ctx, "t", "a", three.Digest[:8]); err != nil || v.Digest != three.Digest {
		t.Errorf("to a version given: %v", err)
	}
	back(one)
	mustAdd(t, r, "t", "a", "four")
	wants(t, "remove the current one", r.Remove(ctx, "t", "a", mustAdd(t, r, "t", "a", "four").Digest), ErrConflict)
	if err := r.Remove(ctx, "t", "a", one.Digest); err != nil {
		t.Fatal(err)
	}
	_, err = r.Rollback(ctx, "t", "a", "")
	wants(t, "one was before four, and is gone; two and three were rolled back", err, ErrConflict)
	_, err = r.Rollback(ctx, "t", "a", one.Digest)
	wants(t, "to a removed version", err, ErrNotFound)
	_, err = r.Rollback(ctx, "t", "nope", "")
	wants(t, "an unknown name", err, ErrNotFound)
}

func TestTagPinRemove(t *testing.T) { testTagPinRemove(t, localPlace(t)) }

func testTagPinRemove(t *testing.T, p place) {
	r, ctx := p.open(t), t.Context()
	one, two := mustAdd(t, r, "t", "a", "one"), mustAdd(t, r, "t", "a", "two")
	other := mustAdd(t, r, "u", "a", "two")
	for tag, version := range map[string]string{"stable": one.Digest[:8], "next": ""} {
		if err := r.Tag(ctx, "t", "a", tag, version); err != nil {
			t.Fatal(err)
		}
	}
	resolves(t, r, "t", "a", "stable", one)
	resolves(t, r, "t", "a", "next", two)
	if err := r.Tag(ctx, "t", "a", "stable", "next"); err != nil {
		t.Fatal(err)
	}
	resolves(t, r, "t", "a", "stable", two)
	for _, tag := range []string{"", "Stable", "a/b", "deadbeef", "a..b", "x\x00", strings.Repeat("a", 65)} {
		wants(t, "tag "+names.Quote(tag), r.Tag(ctx, "t", "a", tag, ""), ErrInvalid)
	}
	wants(t, "tag of nothing", r.Tag(ctx, "t", "a", "x", "nope"), ErrNotFound)
	wants(t, "no such tag", r.Untag(ctx, "t", "a", "nope"), ErrNotFound)
	if err := r.Untag(ctx, "t", "a", "next"); err != nil {
		t.Error(err)
	}
	if err := r.Pin(ctx, "t", "a", true); err != nil {
		t.Fatal(err)
	}
	wants(t, "pin nothing", r.Pin(ctx, "t", "nope", true), ErrNotFound)
	pins, err := r.Pins(ctx)
	if err != nil || len(pins) != 2 || pins[one.Digest] || !pins[two.Digest] {
		t.Errorf("pins %v: %v", pins, err)
	}
	if v, err := r.Resolve(ctx, "u", "a", ""); err != nil || v.Pinned {
		t.Errorf("another tenant's version is pinned too: %v", err)
	}
	if err := r.Remove(ctx, "t", "a", ""); err != nil {
		t.Fatal(err)
	}
	_, err = r.Resolve(ctx, "t", "a", "stable")
	wants(t, "a removed adapter", err, ErrNotFound)
	_, err = r.Dir(ctx, one)
	wants(t, "the folder of a removed version", err, ErrNotFound)
	wants(t, "remove it again", r.Remove(ctx, "t", "a", ""), ErrNotFound)
	if _, err := r.GarbageCollect(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if got := content(t, r, other); got != "two" {
		t.Errorf("the other tenant loads %q", got)
	}
	if v := mustAdd(t, r, "t", "a", "one"); len(v.Tags) != 0 || v.Pinned {
		t.Errorf("a new adapter under a removed name has tags %v, pinned %v", v.Tags, v.Pinned)
	}
	_, err = r.Rollback(ctx, "t", "a", "")
	wants(t, "a removed name's history", err, ErrConflict)
}

func TestQuota(t *testing.T) { testQuota(t, localPlace(t)) }

func testQuota(t *testing.T, p place) {
	r, ctx := p.open(t), t.Context()
	size := int64(len(`{"peft_type":"LORA"}`) + 3)
	add := func(tenant, name, what string, opt AddOptions) error {
		_, err := r.Add(ctx, tenant, name, peftFolder(t, what), opt)
		return err
	}
	for i, c := range []struct {
		tenant, name, what string
		opt                AddOptions
		want               error
	}{
		{"t", "a", "one", AddOptions{MaxCount: 1, MaxBytes: size}, nil},
		{"t", "a", "one", AddOptions{MaxCount: 1, MaxBytes: size}, nil}, // the same costs nothing
		{"t", "a", "two", AddOptions{MaxCount: 1, MaxBytes: 2*size - 1}, ErrQuota},
		{"t", "b", "one", AddOptions{MaxCount: 1}, ErrQuota},
		{"u", "b", "one", AddOptions{MaxCount: 1, MaxBytes: size}, nil}, // another tenant has its own
		{"t", "a", "two", AddOptions{MaxCount: 1, MaxBytes: 2 * size}, nil},
	} {
		if err := add(c.tenant, c.name, c.what, c.opt); !errors.Is(err, c.want) {
			t.Errorf("%d: %v, want %v", i, err, c.want)
		}
	}
	// Ten at once, three of which fit.
	var wg sync.WaitGroup
	fit := make(chan string, 10)
	for i := range 10 {
		wg.Go(func() {
			what := fmt.Sprintf("%03d", i)
			if err := add("v", "n"+what, what, AddOptions{MaxCount: 3}); err == nil {
				fit <- what
			} else if !errors.Is(err, ErrQuota) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(fit) != 3 {
		t.Errorf("%d of 10 uploads at once fit into a quota of 3", len(fit))
	}
	g, err := r.GarbageCollect(ctx, 0)
	if err != nil || g.Blobs > 7 {
		t.Errorf("garbage %+v: %v", g, err)
	}
}

func TestSameUploadAtOnce(t *testing.T) { testSameUploadAtOnce(t, localPlace(t)) }

func testSameUploadAtOnce(t *testing.T, p place) {
	a, b := p.open(t), p.open(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			r := []*Registry{a, b}[i%2]
			if _, err := r.Add(t.Context(), "t", "same", peftFolder(t, "same"), AddOptions{}); err != nil {
				t.Error(err)
			}
			if _, err := r.GarbageCollect(t.Context(), time.Hour); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, r := range []*Registry{a, b} {
		all, err := r.List(t.Context(), "t")
		if err != nil || len(all) != 1 || content(t, r, all[0]) != "same" {
			t.Errorf("%d versions: %v", len(all), err)
		}
	}
}

// A change made through one Registry is seen through another within a second.
func TestChangeIsSeenElsewhere(t *testing.T) { testChangeIsSeenElsewhere(t, localPlace(t)) }

func testChangeIsSeenElsewhere(t *testing.T, p place) {
	a, b := p.open(t), p.open(t)
	resolves(t, b, "t", "a", "", mustAdd(t, a, "t", "a", "one"))
	two := mustAdd(t, a, "t", "a", "two")
	time.Sleep(pollEvery + 50*time.Millisecond)
	resolves(t, b, "t", "a", "", two)
	if err := a.Remove(t.Context(), "t", "a", ""); err != nil {
		t.Fatal(err)
	}
	time.Sleep(pollEvery + 50*time.Millisecond)
	_, err := b.Resolve(t.Context(), "t", "a", "")
	wants(t, "removed elsewhere", err, ErrNotFound)
}

func TestNamesAreRefused(t *testing.T) {
	r := localPlace(t).open(t)
	folder := peftFolder(t, "x")
	long := strings.Repeat("x", 10_000)
	for _, name := range []string{"", ".a", "-a", "a/b", "..", "a..b", "a b", "a\x00", "a\nb", "é", long, `a"; DROP TABLE adapter_names; --`, "a' OR '1'='1", "\x1b[2Ja", "a\r\n2026 INFO forged"} {
		for _, tn := range [][2]string{{"t", name}, {name, "a"}} {
			_, err := r.Add(t.Context(), tn[0], tn[1], folder, AddOptions{})
			if !errors.Is(err, ErrInvalid) || len(err.Error()) > 400 ||
				strings.ContainsAny(err.Error(), "\x00\x1b\r") || strings.Contains(err.Error(), "a\nb") {
				t.Errorf("%s: %v", names.Quote(name), err)
			}
			for _, err := range []error{r.Remove(t.Context(), tn[0], tn[1], ""), r.Pin(t.Context(), tn[0], tn[1], true),
				r.Tag(t.Context(), tn[0], tn[1], "x", "")} {
				if !errors.Is(err, ErrNotFound) || len(err.Error()) > 400 ||
					strings.ContainsAny(err.Error(), "\x00\x1b\r\n") {
					t.Errorf("%s: %v", names.Quote(name), err)
				}
			}
		}
	}
	if _, _, _, err := ParseRef("acme"); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if a, b, c, err := ParseRef("acme/support@v1"); err != nil || a+b+c != "acmesupportv1" {
		t.Error(a, b, c, err)
	}
	if all, err := r.List(t.Context(), ""); err != nil || len(all) != 0 {
		t.Errorf("%d versions: %v", len(all), err)
	}
}

func TestFoldersAreRefused(t *testing.T) {
	r := localPlace(t).open(t)
	outside := filepath.Join(t.TempDir(), "secret")
	write(t, filepath.Dir(outside), "secret", "secret")
	for what, damage := range map[string]func(dir string) error{
		"no configuration": func(dir string) error { return os.Remove(filepath.Join(dir, configFile)) },
		"no tensors":       func(dir string) error { return os.Remove(filepath.Join(dir, tensorsFile)) },
		"both kinds":       func(dir string) error { return os.WriteFile(filepath.Join(dir, ggufFile), nil, 0o600) },
		"a symlink": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, tensorsFile)),
				os.Symlink(outside, filepath.Join(dir, tensorsFile)))
		},
		"a named pipe": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, tensorsFile)),
				syscall.Mkfifo(filepath.Join(dir, tensorsFile), 0o600))
		},
		"a folder": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, tensorsFile)),
				os.Mkdir(filepath.Join(dir, tensorsFile), 0o700))
		},
		"a large configuration": func(dir string) error { return os.Truncate(filepath.Join(dir, configFile), 1<<20+1) },
		"a large template": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, templateFile), make([]byte, 1<<20+1), 0o600)
		},
		"another base": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, configFile), []byte("other base"), 0o600)
		},
		"gone": os.RemoveAll,
	} {
		dir := peftFolder(t, "x")
		if err := damage(dir); err != nil {
			t.Fatal(err)
		}
		_, err := r.Add(t.Context(), "t", "a", dir, AddOptions{})
		wants(t, what, err, ErrInvalid)
	}
	pickle := t.TempDir()
	write(t, pickle, configFile, "{}")
	write(t, pickle, "adapter_model.bin", "")
	if _, err := r.Add(t.Context(), "t", "a", pickle, AddOptions{}); !errors.Is(err, ErrInvalid) ||
		!strings.Contains(err.Error(), "pickle") {
		t.Error(err)
	}
	nothingLeft(t, r)
	gguf := filepath.Join(t.TempDir(), "x.gguf")
	write(t, filepath.Dir(gguf), "x.gguf", "GGUF")
	if _, err := r.Add(t.Context(), "t", "a", gguf, AddOptions{}); err != nil {
		t.Error(err)
	}
}

// nothingLeft checks that a registry without versions has no files either.
func nothingLeft(t *testing.T, r *Registry) {
	t.Helper()
	for _, dir := range []string{"tmp", "blobs", "versions"} {
		filepath.WalkDir(filepath.Join(r.cfg.Dir, dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && d.Name() != ownerName {
				t.Errorf("%s is left", path)
			}
			return nil
		})
	}
}

func TestDamagedBlob(t *testing.T) {
	p := localPlace(t)
	r := p.open(t)
	v := mustAdd(t, r, "t", "a", "precious")
	dir, err := r.Dir(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	files, _, err := r.files(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	blob := p.blobs.(*FolderBlobs).path(
		files[slices.IndexFunc(files, func(f File) bool { return f.Name == tensorsFile })].Digest)
	for what, damage := range map[string]func() error{
		"one bit": func() error { return rewrite(blob, "preciouS") },
		"cut":     func() error { return rewrite(blob, "prec") },
		"another file": func() error {
			return errors.Join(os.Remove(blob),
				os.WriteFile(blob, []byte("precious!"), 0o600))
		},
		"the blob gone": func() error { return errors.Join(os.Remove(blob), os.RemoveAll(dir)) },
		"a folder there": func() error {
			return errors.Join(os.Remove(blob), os.Mkdir(blob, 0o700),
				os.RemoveAll(dir))
		},
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if what == "another file" { // the version's folder still links the old one
			if got := content(t, r, v); got != "precious" {
				t.Errorf("%s: %q", what, got)
			}
			os.RemoveAll(dir)
		}
		_, err := r.Dir(t.Context(), v)
		if !errors.Is(err, ErrCorrupt) && what != "a folder there" || err == nil {
			t.Errorf("%s: %v", what, err)
		}
		os.RemoveAll(blob)
		mustAdd(t, r, "t", "a", "precious") // heals
		if got := content(t, r, v); got != "precious" {
			t.Errorf("%s: after adding it again %q", what, got)
		}
	}
}

// rewrite changes a file in place.
func rewrite(path, text string) error {
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o600)
}

// fullBlobs has no space from its n-th Put on.
type fullBlobs struct {
	Blobs
	puts, n int
}

func (b *fullBlobs) Put(ctx context.Context, digest, path string) error {
	if b.puts++; b.puts >= b.n {
		return &fs.PathError{Op: "write", Path: path, Err: syscall.ENOSPC}
	}
	return b.Blobs.Put(ctx, digest, path)
}

func (b *fullBlobs) All(ctx context.Context) iter.Seq2[Blob, error] { return b.Blobs.All(ctx) }
func (b *fullBlobs) Open(ctx context.Context, digest string) (io.ReadCloser, error) {
	return b.Blobs.Open(ctx, digest)
}

func TestDiskFull(t *testing.T) {
	for n := 1; n <= 2; n++ {
		p := localPlace(t)
		room := p.blobs
		p.blobs = &fullBlobs{Blobs: room, n: n}
		r := p.open(t)
		_, err := r.Add(t.Context(), "t", "a", peftFolder(t, "x"), AddOptions{})
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "disk is full") {
			t.Errorf("Put %d fails: %v", n, err)
		}
		_, err = r.Resolve(t.Context(), "t", "a", "")
		wants(t, "after a full disk", err, ErrNotFound)
		if _, err := r.GarbageCollect(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		nothingLeft(t, r)
		p.blobs = room
		if got := content(t, r, mustAdd(t, p.open(t), "t", "a", "x")); got != "x" {
			t.Errorf("added again: %q", got)
		}
	}
}

// TestFullFileSystem adds until a real file system of one MiB is full; only root can make one.
func TestFullFileSystem(t *testing.T) {
	p := localPlace(t)
	if err := mountSmall(t, p.dir); err != nil {
		t.Skipf("a file system of our own cannot be mounted: %v; run as root, as CI does (TestDiskFull needs none)",
			err)
	}
	r := p.open(t)
	var last error
	added := 0
	for ; last == nil && added < 100; added++ {
		_, last = r.Add(t.Context(), "t", "a", peftFolder(t, strings.Repeat(string(rune('a'+added)), 300_000)),
			AddOptions{})
	}
	if last == nil || added < 2 {
		t.Fatalf("%d additions: %v", added, last)
	}
	all, err := r.List(t.Context(), "t")
	if err != nil || len(all) != added-1 {
		t.Fatalf("%d versions after %d additions: %v (%v)", len(all), added-1, err, last)
	}
	for _, v := range all {
		if got := content(t, r, v); len(got) != 300_000 {
			t.Errorf("%s has %d bytes", v.Ref(), len(got))
		}
	}
}

// A folder of a Hugging Face cache has links to its blobs, whose contents are copied.
func TestAddFromAHuggingFaceCache(t *testing.T) {
	r := localPlace(t).open(t)
	root := t.TempDir()
	snapshot, blobs := filepath.Join(root, "snapshots", "main"), filepath.Join(root, "blobs")
	if err := errors.Join(os.MkdirAll(snapshot, 0o700), os.MkdirAll(blobs, 0o700)); err != nil {
		t.Fatal(err)
	}
	from := peftFolder(t, "x")
	for i, file := range []string{configFile, tensorsFile} {
		hash := strings.Repeat(strconv.Itoa(i), 40)
		if err := errors.Join(os.Rename(filepath.Join(from, file), filepath.Join(blobs, hash)),
			os.Symlink("../../blobs/"+hash, filepath.Join(snapshot, file))); err != nil {
			t.Fatal(err)
		}
	}
	v, err := r.Add(t.Context(), "t", "a", snapshot, AddOptions{})
	if err != nil || v.Digest == "" {
		t.Errorf("%+v, %v", v, err)
	}
}

// Names are kept as written, and no two of a tenant differ only in capitals.
func TestNamesWithCapitals(t *testing.T) { testNamesWithCapitals(t, localPlace(t)) }

func testNamesWithCapitals(t *testing.T, p place) {
	r := p.open(t)
	v, err := r.Add(t.Context(), "acme", "SQL-Coder", peftFolder(t, "x"), AddOptions{Tag: "v1"})
	if err != nil || v.Name != "SQL-Coder" {
		t.Fatalf("%+v, %v", v, err)
	}
	for _, other := range []string{"sql-coder", "SQL-CODER"} {
		_, err := r.Add(t.Context(), "acme", other, peftFolder(t, "y"), AddOptions{})
		if !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "SQL-Coder") {
			t.Errorf("%s: %v", other, err)
		}
		if _, err := r.Resolve(t.Context(), "acme", other, ""); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", other, err)
		}
	}
	if _, err := r.Add(t.Context(), "globex", "sql-coder", peftFolder(t, "y"), AddOptions{}); err != nil {
		t.Errorf("another tenant's: %v", err)
	}
	if v, err := r.Add(t.Context(), "acme", "SQL-Coder", peftFolder(t, "z"), AddOptions{}); err != nil {
		t.Errorf("another version: %+v, %v", v, err)
	}
	if v, err := r.Resolve(t.Context(), "acme", "SQL-Coder", "v1"); err != nil || v.Name != "SQL-Coder" {
		t.Errorf("%+v, %v", v, err)
	}
}
