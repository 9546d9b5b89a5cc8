package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weft/adapters"
	"weft/internal/store"
)

const tensors = "adapter_model.safetensors"

func checkFake(_ context.Context, dir string) (adapters.Meta, error) {
	text, err := os.ReadFile(filepath.Join(dir, tensors))
	sum := sha256.Sum256(text)
	return adapters.Meta{Digest: hex.EncodeToString(sum[:]), Base: "base", Rank: 8, Targets: []string{"q_proj"}}, err
}

// place is a store of a test with its registry.
type place struct {
	Store
	r *adapters.Registry
}

func openPlace(t testing.TB, dsn, dir string, blobs adapters.Blobs) place {
	t.Helper()
	db, err := store.Open(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	r, err := adapters.NewRegistry(adapters.RegistryConfig{DB: db, Blobs: blobs, Dir: dir, Check: checkFake})
	if err != nil {
		t.Fatal(err)
	}
	return place{Store{db, blobs, dir}, r}
}

func localPlace(t testing.TB, dir string) place {
	return openPlace(t, filepath.Join(dir, "weft.db"), dir, adapters.NewFolderBlobs(filepath.Join(dir, "blobs")))
}

// add gives t/name a version whose tensors are text.
func (p place) add(t testing.TB, name, text string) adapters.Version {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "adapter-")
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{"adapter_config.json": "{}", tensors: text} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	v, err := p.r.Add(context.Background(), "t", name, dir, adapters.AddOptions{Tag: "v-" + text[:1]})
	if err != nil {
		t.Error(err)
	}
	return v
}

// load reads every adapter; each version's tensors begin with its name.
func (p place) load(t testing.TB) []adapters.Version {
	t.Helper()
	all, err := p.r.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		dir, err := p.r.Dir(t.Context(), v)
		if err != nil {
			t.Errorf("%s: %v", v.Ref(), err)
			continue
		}
		if text, err := os.ReadFile(filepath.Join(dir, tensors)); err != nil ||
			!strings.HasPrefix(string(text), v.Name) {
			t.Errorf("%s loads %q: %v", v.Ref(), text, err)
		}
	}
	return all
}

// dump is every row that a backup holds.
func (p place) dump(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := p.DB.CopyTo(t.Context(), path, append([]string{"adapter_changes", "tenant_changes"},
		transient...)...); err != nil {
		t.Fatal(err)
	}
	db, err := store.OpenExisting(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var b strings.Builder
	for _, q := range []string{
		"SELECT version FROM schema_version ORDER BY 1",
		"SELECT name || created_ns || settings FROM tenants ORDER BY 1",
		"SELECT id || tenant || hash || created_ns || expires_ns || revoked_ns || settings FROM tenant_keys ORDER BY 1",
		"SELECT tenant || day || adapter || key_id || server || requests || prompt_tokens || cached_tokens || " +
			"completion_tokens FROM tenant_days ORDER BY 1",
		"SELECT tenant || server || minute || requests || prompt_tokens || output_tokens FROM tenant_usage ORDER BY 1",
		"SELECT tenant || name || digest || created_ns || bytes || manifest || info || chat_template FROM " +
			"adapter_versions ORDER BY 1",
		"SELECT tenant || name || digest || file || blob || bytes FROM adapter_files ORDER BY 1",
		"SELECT tenant || name || digest || seq || pinned FROM adapter_names ORDER BY 1",
		"SELECT tenant || name || seq || digest || back || at_ns FROM adapter_history ORDER BY 1",
		"SELECT tenant || name || tag || digest FROM adapter_tags ORDER BY 1",
	} {
		rows, err := db.Query(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var s string
			if err := rows.Scan(&s); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(&b, s)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// verify opens and closes a backup.
func verify(ctx context.Context, path string) (Manifest, error) {
	b, err := Open(ctx, path)
	if err != nil {
		return Manifest{}, err
	}
	return b.Manifest, b.Close()
}

// restore restores a backup.
func restore(ctx context.Context, path string, s Store, replace bool) (Manifest, error) {
	b, err := Open(ctx, path)
	if err != nil {
		return Manifest{}, err
	}
	err = b.Restore(ctx, s, replace)
	return b.Manifest, errors.Join(err, b.Close())
}

// fill gives a place a tenant, a key, usage and three versions of two adapters.
func (p place) fill(t testing.TB) {
	t.Helper()
	for _, q := range []string{
		`INSERT INTO tenants VALUES ('t', 5, '{"weight": 2}')`,
		"INSERT INTO tenant_keys VALUES ('key_1', 't', 'ab', 1, 2, 3, '{}')",
		"INSERT INTO tenant_days VALUES (20000, 't', 'a', 'key_1', 's', 1, 2, 3, 4)",
		"INSERT INTO tenant_usage VALUES ('t', 's', 9, 1, 2, 3)",
	} {
		if _, err := p.DB.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	p.add(t, "a", "a one")
	p.add(t, "a", "a two")
	p.add(t, "b", "b "+strings.Repeat("x", 100_000))
	if err := p.r.Pin(t.Context(), "t", "a", true); err != nil {
		t.Fatal(err)
	}
}

func wants(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func namesIn(t testing.TB, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestBackup(t *testing.T) {
	testBackup(t, localPlace(t, t.TempDir()), localPlace(t, t.TempDir()), localPlace(t, t.TempDir()))
}

// testBackup brings everything from a to the empty b by a folder and from there to the empty c by a tar file.
func testBackup(t *testing.T, a, b, c place) {
	ctx, out := t.Context(), t.TempDir()
	a.fill(t)
	want := a.dump(t)
	if n := strings.Count(want, "\n"); n < 20 {
		t.Fatalf("%d rows:\n%s", n, want)
	}
	last := a
	for i, to := range []place{b, c} {
		path := filepath.Join(out, []string{"folder", "file.tar"}[i])
		m, err := Write(ctx, last.Store, path, "v1")
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Files) != 5 || m.Weft != "v1" { // three tensors, one configuration
			t.Errorf("%+v", m)
		}
		_, err = Write(ctx, last.Store, path, "v1")
		wants(t, "a backup in the place of another", err, ErrExists)
		if _, err := verify(ctx, path); err != nil {
			t.Fatal(err)
		}
		changes, err := to.r.Changes(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := restore(ctx, path, to.Store, false); err != nil {
			t.Fatal(err)
		}
		if got := to.dump(t); got != want {
			t.Errorf("restored:\n%s\nwant:\n%s", got, want)
		}
		if n, err := to.r.Changes(ctx); err != nil || n <= changes {
			t.Errorf("%d changes after %d: running servers see nothing: %v", n, changes, err)
		}
		if all := to.load(t); len(all) != 3 {
			t.Errorf("%d versions", len(all))
		}
		_, err = restore(ctx, path, to.Store, false)
		wants(t, "into a store that is not empty", err, ErrExists)
		if got := to.dump(t); got != want {
			t.Error("a refused restore has changed something")
		}
		last = to
	}
	if left := namesIn(t, out); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
	// In the place of something else; a server that has resolved a name sees that it is another.
	b.add(t, "a", "a three")
	if _, err := b.r.Resolve(ctx, "t", "a", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := restore(ctx, filepath.Join(out, "file.tar"), b.Store, true); err != nil {
		t.Fatal(err)
	}
	if got := b.dump(t); got != want {
		t.Errorf("replaced:\n%s", got)
	}
	for _, p := range []place{a, b, c} {
		var claims int
		if err := p.DB.QueryRow(ctx, "SELECT COUNT(*) FROM adapter_claims").Scan(&claims); err != nil || claims != 0 {
			t.Errorf("%d claims are left: %v", claims, err)
		}
		if left := namesIn(t, filepath.Join(p.Dir, "tmp")); len(left) > 0 {
			t.Errorf("left in tmp: %v", left)
		}
	}
}

// A store that has lost or damaged a file says whose it is, and there is no backup.
func TestDamagedStore(t *testing.T) {
	for _, what := range []string{"lost", "changed", "shortened"} {
		dir, out := t.TempDir(), t.TempDir()
		p := localPlace(t, dir)
		p.fill(t)
		sum := sha256.Sum256([]byte("a two"))
		path := filepath.Join(dir, filepath.FromSlash(blobName(hex.EncodeToString(sum[:]))))
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if text := map[string]string{"changed": "a twO", "shortened": "a"}[what]; text != "" {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"b", "b.tar"} {
			_, err := Write(t.Context(), p.Store, filepath.Join(out, name), "")
			wants(t, what, err, adapters.ErrCorrupt)
			if err == nil || !strings.Contains(err.Error(), "t/a "+tensors) {
				t.Errorf("%s: %v does not say whose file it is", what, err)
			}
		}
		if left := namesIn(t, out); len(left) > 0 {
			t.Errorf("%s: left %v", what, left)
		}
	}
}

// Whatever is done to a backup is found before anything is restored.
func TestDamagedBackup(t *testing.T) {
	p, dir := localPlace(t, t.TempDir()), t.TempDir()
	p.fill(t)
	folder, file := filepath.Join(dir, "folder"), filepath.Join(dir, "file.tar")
	for _, path := range []string{folder, file} {
		if _, err := Write(t.Context(), p.Store, path, ""); err != nil {
			t.Fatal(err)
		}
	}
	target := localPlace(t, t.TempDir())
	refused := func(what, path string) {
		t.Helper()
		_, err := verify(t.Context(), path)
		wants(t, what, err, ErrDamaged)
		_, err = restore(t.Context(), path, target.Store, false)
		wants(t, what, err, ErrDamaged)
		if left := namesIn(t, target.Dir); strings.Contains(strings.Join(left, " "), "blobs") {
			t.Fatalf("%s: files are in the store: %v", what, left)
		}
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(dir, "bad.tar")
	damaged := func(what string, text []byte) {
		t.Helper()
		if err := os.WriteFile(bad, text, 0o600); err != nil {
			t.Fatal(err)
		}
		refused(what, bad)
	}
	for n := 0; n < len(whole)-1024; n += 10_007 { // the last 1024 bytes are the end mark
		damaged(fmt.Sprintf("cut to %d bytes", n), whole[:n])
	}
	for at := 100; at < len(whole)-3000; at += 9001 {
		text := bytes.Clone(whole)
		text[at] ^= 1
		if err := os.WriteFile(bad, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := verify(t.Context(), bad); err == nil && !padding(whole, at) {
			t.Errorf("a bit is flipped at %d, and nothing is found", at)
		}
	}
	entries := tarEntries(t, whole)
	for i := range entries {
		without := slices.Delete(slices.Clone(entries), i, i+1)
		damaged("without entry "+strconv.Itoa(i), tarOf(t, without))
		damaged("with entry twice "+strconv.Itoa(i), tarOf(t, append(slices.Clone(entries), entries[i])))
	}
	err = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name := filepath.Base(path)
		changed := bytes.Clone(text)
		changed[len(changed)/2] ^= 1
		for what, instead := range map[string][]byte{"shorter": text[:len(text)-1],
			"longer":  append(bytes.Clone(text), '}'),
			"changed": changed} {
			if err := os.WriteFile(path, instead, 0o600); err != nil {
				return err
			}
			if _, err := verify(t.Context(), folder); err == nil {
				t.Errorf("%s is %s, and nothing is found", name, what)
			}
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		refused("without "+name, folder)
		return os.WriteFile(path, text, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	var m Manifest
	text, err := os.ReadFile(filepath.Join(folder, manifestName))
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	rewrite := func(m Manifest) {
		text, err := json.Marshal(m)
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, manifestName), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	less, evil := m, m
	less.Files = m.Files[:len(m.Files)-1]
	rewrite(less)
	refused("a manifest without a file of the database", folder)
	evil.Files = append(append([]File{}, m.Files...), File{"../../x", 1, strings.Repeat("0", 64)})
	rewrite(evil)
	refused("a manifest that leads out", folder)
	later := m
	later.Format = format + 1
	rewrite(later)
	if _, err := verify(t.Context(), folder); err == nil || !strings.Contains(err.Error(), "or a later one") {
		t.Errorf("a later format: %v", err)
	}
	rewrite(m)
	if _, err := restore(t.Context(), folder, target.Store, false); err != nil {
		t.Error(err)
	}
}

type tarEntry struct {
	head *tar.Header
	text []byte
}

func tarEntries(t *testing.T, whole []byte) (out []tarEntry) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(whole)); ; {
		head, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, tarEntry{head, text})
	}
}

func tarOf(t *testing.T, entries []tarEntry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		err := w.WriteHeader(e.head)
		if err == nil {
			_, err = w.Write(e.text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// padding says whether the byte lies behind a file's end in its last block of a tar.
func padding(whole []byte, at int) bool { return whole[at] == 0 }

// slowBlobs gives the others time while a backup reads.
type slowBlobs struct{ adapters.Blobs }

func (b slowBlobs) Open(ctx context.Context, digest string) (io.ReadCloser, error) {
	time.Sleep(2 * time.Millisecond)
	return b.Blobs.Open(ctx, digest)
}

// While adapters come and go and garbage is collected without any grace, every backup is whole: each of its adapters
// loads where it is restored.
func TestBackupUnderLoad(t *testing.T) {
	p := localPlace(t, t.TempDir())
	testBackupUnderLoad(t, p, 12)
}

func testBackupUnderLoad(t *testing.T, p place, backups int) {
	// Collects with the same database and files, as another server does.
	collector := openRegistry(t, p, p.Blobs)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("%c", 'a'+w*4+i%4)
				p.add(t, name, fmt.Sprintf("%s %d %d", name, w, i))
				if i%3 == 2 {
					if err := p.r.Remove(context.Background(), "t", name, ""); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			if _, err := collector.GarbageCollect(context.Background(), 0); err != nil {
				t.Error(err)
			}
		}
	})
	out, versions := t.TempDir(), 0
	slow := p.Store
	slow.Blobs = slowBlobs{p.Blobs}
	for i := range backups {
		path := filepath.Join(out, fmt.Sprint(i)+[]string{"", ".tar"}[i%2])
		if _, err := Write(t.Context(), slow, path, ""); err != nil {
			t.Errorf("backup %d: %v", i, err)
			continue
		}
		to := localPlace(t, t.TempDir())
		if _, err := restore(t.Context(), path, to.Store, false); err != nil {
			t.Errorf("backup %d: %v", i, err)
			continue
		}
		versions += len(to.load(t))
	}
	stop()
	wg.Wait()
	if versions < backups {
		t.Errorf("%d versions in %d backups: nothing happened meanwhile", versions, backups)
	}
}

func openRegistry(t *testing.T, p place, blobs adapters.Blobs) *adapters.Registry {
	t.Helper()
	r, err := adapters.NewRegistry(adapters.RegistryConfig{DB: p.DB, Blobs: blobs, Dir: p.Dir, Check: checkFake})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// deadlyBlobs ends the process with SIGKILL at its nth operation, in the middle of it.
type deadlyBlobs struct {
	adapters.Blobs
	left *int
}

func (b deadlyBlobs) die() {
	if *b.left--; *b.left == 0 {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func (b deadlyBlobs) Open(ctx context.Context, digest string) (io.ReadCloser, error) {
	in, err := b.Blobs.Open(ctx, digest)
	return deadlyReader{in, b}, err
}

type deadlyReader struct {
	io.ReadCloser
	b deadlyBlobs
}

func (r deadlyReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p[:min(len(p), 50_000)])
	r.b.die()
	return n, err
}

func (b deadlyBlobs) Put(ctx context.Context, digest, path string) error {
	b.die()
	err := b.Blobs.Put(ctx, digest, path)
	b.die()
	return err
}

// TestKilledChild is the child of TestKilled: it makes a backup or restores one, and may be killed meanwhile.
func TestKilledChild(t *testing.T) {
	dir, path := os.Getenv("WEFT_TEST_BACKUP_DIR"), os.Getenv("WEFT_TEST_BACKUP_PATH")
	if dir == "" {
		dir, path = t.TempDir(), filepath.Join(t.TempDir(), "new")
	}
	left, _ := strconv.Atoi(os.Getenv("WEFT_TEST_BACKUP_KILL"))
	p := localPlace(t, dir)
	p.Blobs = deadlyBlobs{p.Blobs, &left}
	var err error
	if os.Getenv("WEFT_TEST_BACKUP_RESTORE") != "" {
		_, err = restore(t.Context(), path, p.Store, false)
	} else {
		_, err = Write(t.Context(), p.Store, path, "")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A backup or a restore that is killed at any read or write of a file leaves nothing under the final name, or a store
// as it was; repeated, it works.
func TestKilled(t *testing.T) {
	source := t.TempDir()
	p := localPlace(t, source)
	p.fill(t)
	want := p.dump(t)
	child := func(dir, path string, at int, restore string) (killed bool) {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledChild$")
		cmd.Env = append(os.Environ(), "WEFT_TEST_BACKUP_DIR="+dir, "WEFT_TEST_BACKUP_PATH="+path,
			"WEFT_TEST_BACKUP_KILL="+strconv.Itoa(at), "WEFT_TEST_BACKUP_RESTORE="+restore)
		out, err := cmd.CombinedOutput()
		var ended *exec.ExitError
		if errors.As(err, &ended) && ended.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
			return true
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return false
	}
	kills := 0
	for _, name := range []string{"folder", "file.tar"} {
		dir := t.TempDir()
		path := filepath.Join(dir, name)
		for at := 1; child(source, path, at, ""); at++ {
			kills++
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("killed at %d: %s is there: %v", at, name, err)
			}
		}
		for at := 1; ; at++ {
			to := filepath.Join(t.TempDir(), "data")
			killed := child(to, path, at, "1")
			q := localPlace(t, to)
			if !killed {
				if got := q.dump(t); got != want {
					t.Errorf("restored:\n%s", got)
				}
				q.load(t)
				break
			}
			kills++
			if all := q.load(t); len(all) != 0 {
				t.Errorf("killed at %d: %d versions", at, len(all))
			}
			for b, err := range q.Blobs.All(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				f, err := describe(t.Context(), filepath.Join(to, filepath.FromSlash(blobName(b.Digest))))
				if err != nil || f.SHA256 != b.Digest {
					t.Errorf("killed at %d: half a file is under the name %s: %v", at, b.Digest, err)
				}
			}
			if _, err := restore(t.Context(), path, q.Store, false); err != nil {
				t.Errorf("again after a kill at %d: %v", at, err)
			}
			if got := q.dump(t); got != want {
				t.Errorf("again after a kill at %d:\n%s", at, got)
			}
		}
	}
	if kills < 20 {
		t.Errorf("%d kills only", kills)
	}
}

// TestTarOfAnother: a backup that appeared while this one was written is not replaced.
func TestTarOfAnother(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "work"))
	if err != nil {
		t.Fatal(err)
	}
	mine := &tarFile{f, tar.NewWriter(f)}
	defer mine.close()
	out := filepath.Join(dir, "out.tar")
	if err := os.WriteFile(out, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	wants(t, "the name of another backup", mine.commit(out), ErrExists)
	if text, err := os.ReadFile(out); err != nil || string(text) != "another" {
		t.Errorf("the other backup is now %q, %v", text, err)
	}
}
