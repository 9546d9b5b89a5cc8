package adapters

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"weft/internal/durable"
	"weft/internal/names"
	"weft/internal/store"
)

// Meta is the result of a Checker.
type Meta struct {
	Digest  string // over the canonical configuration and the tensors, 64 hexadecimal digits
	Base    string // digest of the base against which it was checked, "" for none
	Rank    int
	Targets []string
	Params  int64
	Bytes   int64 // on a device
	// Warnings are returned by Add; see Version.
	Warnings  []string
	Converted bool // the Checker has rewritten the files, which are stored as they are now
}

// Checker reads the adapter in a folder, and may rewrite its files in it; it returns an error with every reason why the
// adapter cannot be served. The folder is removed afterwards.
type Checker func(ctx context.Context, dir string) (Meta, error)

// RegistryConfig is the configuration of a Registry.
type RegistryConfig struct {
	DB    *store.DB
	Blobs Blobs
	Dir   string  // the data directory: folders tmp and versions are made in it
	Check Checker // needed only by Add
}

// Registry holds the versions of all tenants' adapters: rows in a database, files in a blob store. Every change is
// atomic: if a process is killed, the registry is as before the change or as after it. Safe for concurrent use, also by
// several processes on one data directory and several servers on one Postgres.
type Registry struct {
	cfg  RegistryConfig
	step func(point string) // called before and after every durable step; tests end the process there
	now  func() time.Time
	// how long an upload or a backup may take: its claim of files, and its work folder, are garbage afterwards
	claimLife time.Duration

	verified *lru.Cache[string, os.FileInfo] // by path: the file as it was when its digest was last checked

	mu       sync.Mutex
	changes  int64     // the counter of changes for which resolved is valid
	polled   time.Time // when the counter was last read
	resolved *lru.Cache[[3]string, Version]
}

// maxResolved and maxVerified limit what a Registry remembers.
const (
	maxResolved = 1 << 14
	maxVerified = 1 << 16
)

// pollEvery is how long Resolve may return an old answer after another process has made a change.
const pollEvery = 250 * time.Millisecond

// NewRegistry creates the data directory's folders and returns a Registry; the caller closes the database.
func NewRegistry(cfg RegistryConfig) (*Registry, error) {
	for _, dir := range []string{"tmp", "versions"} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, dir), 0o700); err != nil {
			return nil, fmt.Errorf("data directory: %w", err)
		}
	}
	if err := durable.SyncDir(cfg.Dir); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	r := &Registry{cfg: cfg, step: func(string) {}, now: time.Now, claimLife: time.Hour}
	var err error
	if r.verified, err = lru.New[string, os.FileInfo](maxVerified); err != nil {
		return nil, err
	}
	r.resolved, err = lru.New[[3]string, Version](maxResolved)
	return r, err
}

// AddOptions are a tag and limits for one Add; 0 means no limit.
type AddOptions struct {
	Tag      string // a tag for the version, or ""
	MaxCount int64  // names of adapters that the tenant may have
	MaxBytes int64  // bytes of files that all versions of the tenant may take in the store
}

// Add copies the PEFT folder (or GGUF file) dir into the store as tenant/name, makes it the current version and returns
// it. dir is not read again. Equal content is the same version, which becomes the current one. ErrInvalid, ErrQuota, or
// the Checker's error.
func (r *Registry) Add(ctx context.Context, tenant, name, dir string, opt AddOptions) (Version, error) {
	return r.add(ctx, tenant, name, opt, func(work string) ([]File, error) { return copyAdapter(ctx, dir, work) })
}

// add calls fill to put the files of an adapter into a new folder, checks them and publishes them.
func (r *Registry) add(ctx context.Context, tenant, name string, opt AddOptions,
	fill func(work string) ([]File, error)) (v Version, err error) {
	if err := errors.Join(CheckName("tenant", tenant), CheckAdapterName("adapter", name)); err != nil {
		return v, err
	}
	if opt.Tag != "" {
		if err := checkTag(opt.Tag); err != nil {
			return v, err
		}
	}
	if r.cfg.Check == nil {
		return v, errors.New("this registry cannot add adapters: it has no Checker")
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("add %s/%s: %w", tenant, name, explain(err))
		}
	}()
	work, err := r.workDir()
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	files, err := fill(work)
	r.step("files copied")
	if err != nil {
		return v, err
	}
	meta, err := r.cfg.Check(ctx, work)
	if err != nil {
		return v, err
	}
	if meta.Converted {
		if err := digestAgain(ctx, work, files); err != nil {
			return v, err
		}
	}
	p, err := newUpload(tenant, name, work, meta, files, r.now())
	if err != nil {
		return v, err
	}
	v, err = r.publish(ctx, p, opt)
	v.Warnings = meta.Warnings
	return v, err
}

// explain adds what a full disk means to an error.
func explain(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("the data directory's disk is full, so nothing was added: %w", err)
	}
	return err
}

// workDir creates a temporary folder below DIR/tmp.
func (r *Registry) workDir() (string, error) {
	return os.MkdirTemp(filepath.Join(r.cfg.Dir, "tmp"), "work-")
}

// upload is an adapter that is being added.
type upload struct {
	work     string
	files    []File
	version  Version
	manifest string
	bytes    int64 // of all files
}

// newUpload computes the version's digest: the Checker's, or, where the adapter has a chat template or a parity file,
// the SHA-256 of the lines "weft adapter 1", the Checker's digest and "FILE SHA256" for each of these, by name.
func newUpload(tenant, name, work string, meta Meta, files []File, now time.Time) (*upload, error) {
	if len(meta.Digest) != 64 || !isDigestPrefix(meta.Digest) {
		return nil, fmt.Errorf("the checker returned no digest: %s", names.Quote(meta.Digest))
	}
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	p := &upload{work: work, files: files, version: Version{
		Tenant: tenant, Name: name, Digest: meta.Digest, Base: meta.Base, Rank: meta.Rank, Targets: meta.Targets,
		Params: meta.Params, Bytes: meta.Bytes, Created: now,
	}}
	extra, manifest := sha256.New(), sha256.New()
	fmt.Fprintf(extra, "weft adapter 1\n%s\n", meta.Digest)
	extras := 0
	for _, f := range files {
		p.bytes += f.Bytes
		fmt.Fprintf(manifest, "%s %s\n", f.Name, f.Digest)
		if f.Name == templateFile || f.Name == parityFile {
			extras++
			fmt.Fprintf(extra, "%s %s\n", f.Name, f.Digest)
		}
	}
	p.manifest = hex.EncodeToString(manifest.Sum(nil))
	if extras > 0 {
		p.version.Digest = hex.EncodeToString(extra.Sum(nil))
	}
	text, err := readIfThere(filepath.Join(work, templateFile))
	p.version.ChatTemplate = text
	return p, err
}

// publish puts the files into the store and then, in one transaction, writes the rows that refer to them. The claim
// made first protects the files from garbage collection, which may run in another process, until the rows are written.
func (r *Registry) publish(ctx context.Context, p *upload, opt AddOptions) (Version, error) {
	if err := r.own(ctx); err != nil {
		return Version{}, fmt.Errorf("%w: %w", ErrConflict, err)
	}
	claim, err := r.claim(ctx, p, opt)
	if err != nil {
		return Version{}, err
	}
	r.step("files claimed")
	for _, f := range p.files {
		if err := r.cfg.Blobs.Put(ctx, f.Digest, filepath.Join(p.work, f.Name)); err != nil {
			err = fmt.Errorf("store %s: %w", f.Name, err)
			return Version{}, errors.Join(err, r.giveUp(context.WithoutCancel(ctx), claim, p))
		}
		r.step("file stored")
	}
	err = r.change(ctx, func(tx *store.Tx) error {
		res, err := tx.Exec(ctx, "DELETE FROM adapter_claims WHERE id = ?", claim)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err,
				fmt.Errorf("%w: the upload took too long and its files were removed as garbage: add it again",
					ErrConflict))
		}
		return insertVersion(ctx, tx, p, opt)
	})
	if err != nil {
		return Version{}, errors.Join(err, r.giveUp(context.WithoutCancel(ctx), claim, p))
	}
	return r.Resolve(ctx, p.version.Tenant, p.version.Name, p.version.Digest)
}

// claim protects the upload's files from garbage collection, or returns ErrQuota where the tenant's quota is used up.
func (r *Registry) claim(ctx context.Context, p *upload, opt AddOptions) (string, error) {
	id := rand.Text()
	return id, r.exclusive(ctx, func(tx *store.Tx) error {
		if err := checkQuota(ctx, tx, p, opt); err != nil {
			return err
		}
		for _, blob := range distinct(p.files) {
			if _, err := tx.Exec(ctx, "INSERT INTO adapter_claims (id, blob, at_ns) VALUES (?, ?, ?)", id, blob,
				r.now().UnixNano()); err != nil {
				return err
			}
		}
		return nil
	})
}

func distinct(files []File) []string {
	blobs := make([]string, len(files))
	for i, f := range files {
		blobs[i] = f.Digest
	}
	slices.Sort(blobs)
	return slices.Compact(blobs)
}

// giveUp ends a failed upload: what it has stored is garbage from now on, even where its claim was too old.
func (r *Registry) giveUp(ctx context.Context, claim string, p *upload) error {
	return r.exclusive(ctx, func(tx *store.Tx) error {
		for _, blob := range distinct(p.files) {
			if err := NoteGarbage(ctx, tx, r.now(), "(SELECT CAST(? AS TEXT) AS blob) stored WHERE 1 = 1",
				blob); err != nil {
				return err
			}
		}
		return r.endClaims(ctx, tx, "id = ?", claim)
	})
}

// endClaims removes claims; what they name and no version uses is garbage from now on.
func (r *Registry) endClaims(ctx context.Context, tx *store.Tx, where string, args ...any) error {
	if err := NoteGarbage(ctx, tx, r.now(), "adapter_claims c WHERE "+where+" AND NOT EXISTS (SELECT 1 FROM "+
		"adapter_files f WHERE f.blob = c.blob)", args...); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "DELETE FROM adapter_claims WHERE "+where, args...)
	return err
}

// checkQuota returns ErrQuota where an upload would exceed a limit of its tenant, and ErrConflict where its name is
// taken in another spelling. A version that exists already counts nothing.
func checkQuota(ctx context.Context, tx *store.Tx, p *upload, opt AddOptions) error {
	v := &p.version
	if err := checkUnique(ctx, tx, v.Tenant, v.Name); err != nil {
		return err
	}
	var same, named, names, bytes int64
	if err := tx.QueryRow(ctx, `SELECT
		(SELECT COUNT(*) FROM adapter_versions WHERE tenant = ? AND name = ? AND digest = ?),
		(SELECT COUNT(*) FROM adapter_names WHERE tenant = ? AND name = ?),
		(SELECT COUNT(*) FROM adapter_names WHERE tenant = ?),
		(SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM adapter_versions WHERE tenant = ?)`,
		v.Tenant, v.Name, v.Digest, v.Tenant, v.Name, v.Tenant, v.Tenant).Scan(
		&same, &named, &names, &bytes); err != nil {
		return err
	}
	if opt.MaxCount > 0 && named == 0 && names >= opt.MaxCount {
		return fmt.Errorf("%w: tenant %s has %d adapters of %d allowed: remove one first", ErrQuota, v.Tenant, names,
			opt.MaxCount)
	}
	if opt.MaxBytes > 0 && same == 0 && bytes+p.bytes > opt.MaxBytes {
		return fmt.Errorf("%w: tenant %s stores %d bytes of %d allowed, this version takes %d: remove versions first",
			ErrQuota, v.Tenant, bytes, opt.MaxBytes, p.bytes)
	}
	return nil
}

// info is the part of a version that no query filters by.
type info struct {
	Base    string   `json:"base,omitempty"`
	Rank    int      `json:"rank"`
	Targets []string `json:"targets"`
	Params  int64    `json:"params"`
	Bytes   int64    `json:"bytes"`
}

// insertVersion writes the rows of a version, makes it the current one and tags it. The rows of an existing version
// stay, except those of its files: the same tensors may be in a file with another header, and adding an adapter again
// repairs a damaged file.
func insertVersion(ctx context.Context, tx *store.Tx, p *upload, opt AddOptions) error {
	v := &p.version
	if err := checkQuota(ctx, tx, p, opt); err != nil {
		return err
	}
	text, err := json.Marshal(info{v.Base, v.Rank, v.Targets, v.Params, v.Bytes})
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `INSERT INTO adapter_versions
		(tenant, name, digest, created_ns, bytes, manifest, info, chat_template) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (tenant, name, digest) DO UPDATE
		SET bytes = excluded.bytes, manifest = excluded.manifest, info = excluded.info`,
		v.Tenant, v.Name, v.Digest, v.Created.UnixNano(), p.bytes, p.manifest, string(
			text), v.ChatTemplate); err != nil {
		return err
	}
	if err := deleteRows(ctx, tx, "tenant = ? AND name = ? AND digest = ?", []string{"files"}, v.Created, v.Tenant,
		v.Name, v.Digest); err != nil {
		return err
	}
	for _, f := range p.files {
		if _, err := tx.Exec(ctx,
			"INSERT INTO adapter_files (tenant, name, digest, file, blob, bytes) VALUES (?, ?, ?, ?, ?, ?)",
			v.Tenant, v.Name, v.Digest, f.Name, f.Digest, f.Bytes); err != nil {
			return err
		}
	}
	if opt.Tag != "" {
		if err := setTag(ctx, tx, v.Tenant, v.Name, opt.Tag, v.Digest); err != nil {
			return err
		}
	}
	at, err := pointer(ctx, tx, v.Tenant, v.Name)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if at.digest == v.Digest {
		return nil
	}
	return move(ctx, tx, v.Tenant, v.Name, v.Digest, at.seq, v.Created)
}

// exclusive runs f in a transaction that runs alone among the transactions of this function. In SQLite all are; in
// Postgres they wait for a lock, which is taken before the first query, so that f sees all that was committed before.
func (r *Registry) exclusive(ctx context.Context, f func(*store.Tx) error) error {
	return r.cfg.DB.Tx(ctx, func(tx *store.Tx) error {
		if r.cfg.DB.Postgres() {
			if _, err := tx.Exec(ctx, "LOCK TABLE adapter_changes IN EXCLUSIVE MODE"); err != nil {
				return err
			}
		}
		return f(tx)
	})
}

// change runs f in an exclusive transaction that counts as a change of the registry.
func (r *Registry) change(ctx context.Context, f func(*store.Tx) error) error {
	err := r.exclusive(ctx, func(tx *store.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "UPDATE adapter_changes SET n = n + 1 WHERE id = 1")
		r.step("before commit")
		return err
	})
	r.step("after commit")
	r.mu.Lock()
	r.polled = time.Time{}
	r.mu.Unlock()
	return err
}

// Changes returns a number that grows with every change of the registry, by any process.
func (r *Registry) Changes(ctx context.Context) (int64, error) {
	var n int64
	err := r.cfg.DB.QueryRow(ctx, "SELECT n FROM adapter_changes WHERE id = 1").Scan(&n)
	return n, err
}

// position is the current version of a name.
type position struct {
	digest string
	seq    int64 // number of the history entry that set it
}

// pointer reads the current version of a name. ErrNotFound.
func pointer(ctx context.Context, tx *store.Tx, tenant, name string) (p position, err error) {
	err = tx.QueryRow(ctx, "SELECT digest, seq FROM adapter_names WHERE tenant = ? AND name = ?", tenant,
		name).Scan(&p.digest, &p.seq)
	if errors.Is(err, sql.ErrNoRows) {
		err = notFound(tenant, name, "")
	}
	return p, err
}

// move makes digest the current version of a name; back is the history entry to which a rollback returns.
func move(ctx context.Context, tx *store.Tx, tenant, name, digest string, back int64, at time.Time) error {
	var seq int64
	if err := tx.QueryRow(ctx, "SELECT COALESCE(MAX(seq), 0) + 1 FROM adapter_history WHERE tenant = ? AND name = ?",
		tenant, name).Scan(&seq); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx,
		"INSERT INTO adapter_history (tenant, name, seq, digest, back, at_ns) VALUES (?, ?, ?, ?, ?, ?)",
		tenant, name, seq, digest, back, at.UnixNano()); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `INSERT INTO adapter_names (tenant, name, digest, seq, pinned) VALUES (?, ?, ?, ?, 0)
		ON CONFLICT (tenant, name) DO UPDATE SET digest = excluded.digest, seq = excluded.seq`,
		tenant, name, digest, seq)
	return err
}

func setTag(ctx context.Context, tx *store.Tx, tenant, name, tag, digest string) error {
	_, err := tx.Exec(ctx, `INSERT INTO adapter_tags (tenant, name, tag, digest) VALUES (?, ?, ?, ?)
		ON CONFLICT (tenant, name, tag) DO UPDATE SET digest = excluded.digest`, tenant, name, tag, digest)
	return err
}

func notFound(tenant, name, version string) error {
	if version != "" {
		return fmt.Errorf("%w: %s/%s@%s", ErrNotFound, names.Quote(tenant), names.Quote(name), names.Quote(version))
	}
	return fmt.Errorf("%w: %s/%s", ErrNotFound, names.Quote(tenant), names.Quote(name))
}
