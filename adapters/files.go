package adapters

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"weft/adapters/peft"
	"weft/internal/durable"
	"weft/internal/names"
)

// File is a file of a version.
type File struct {
	Name   string
	Digest string // SHA-256 of its bytes, and its name in the blob store
	Bytes  int64
}

// Names of the files of an adapter; other files in its folder are not copied.
const (
	configFile   = "adapter_config.json"
	tensorsFile  = "adapter_model.safetensors"
	ggufFile     = "adapter.gguf"
	templateFile = "chat_template.jinja"
	parityFile   = "parity.json"
)

// MaxAdapterBytes is the largest accepted file of tensors.
const MaxAdapterBytes = 8 << 30

// maxFileBytes returns the limit of each file's length.
var maxFileBytes = map[string]int64{
	configFile: 1 << 20, tensorsFile: MaxAdapterBytes, ggufFile: MaxAdapterBytes, templateFile: 1 << 20,
	parityFile: 16 << 20,
}

// copyAdapter copies the files of the adapter in the folder dir, or the GGUF file dir, into the folder work and syncs
// them.
func copyAdapter(ctx context.Context, dir, work string) ([]File, error) {
	st, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if !st.IsDir() {
		if !strings.HasSuffix(dir, ".gguf") {
			return nil, fmt.Errorf("%w: %s: neither a folder nor a .gguf file", ErrInvalid, names.Quote(dir))
		}
		f, err := copyRegular(ctx, dir, work, ggufFile)
		return []File{f}, err
	}
	var files []File
	for name := range maxFileBytes {
		f, err := copyRegular(ctx, filepath.Join(dir, name), work, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, complete(files, func(name string) bool {
		_, err := os.Lstat(filepath.Join(dir, name))
		return err == nil
	})
}

// complete refuses a set of files that is not an adapter; beside reports whether the folder contains another file.
func complete(files []File, beside func(name string) bool) error {
	have := map[string]bool{}
	for _, f := range files {
		have[f.Name] = true
	}
	switch {
	case have[configFile] && have[tensorsFile] && !have[ggufFile], have[ggufFile] && !have[configFile] &&
		!have[tensorsFile]:
		return nil
	case have[ggufFile]:
		return fmt.Errorf("%w: the folder has both %s and a PEFT adapter: keep one of them", ErrInvalid, ggufFile)
	case !have[tensorsFile] && beside("adapter_model.bin"):
		return fmt.Errorf(
			"%w: adapter_model.bin is a pickle, which can run code: save it as %s (safe_serialization=True)",
			ErrInvalid, tensorsFile)
	case !have[configFile]:
		return fmt.Errorf("%w: %s is missing: a PEFT folder has it and %s", ErrInvalid, configFile, tensorsFile)
	}
	return fmt.Errorf("%w: %s is missing: a PEFT folder has it and %s", ErrInvalid, tensorsFile, configFile)
}

// copyRegular copies the regular file from to work/name. Links are refused: they may point outside of the folder, and
// may change; except those of a Hugging Face cache, which name their content.
func copyRegular(ctx context.Context, from, work, name string) (File, error) {
	from, err := peft.Followed(from)
	if err != nil {
		return File{}, err
	}
	st, err := os.Lstat(from)
	if err != nil {
		return File{}, err
	}
	if !st.Mode().IsRegular() {
		return File{}, fmt.Errorf("%w: %s is not a regular file: copy the file that a link points to (cp -L)",
			ErrInvalid, names.Quote(from))
	}
	in, err := os.Open(from)
	if err != nil {
		return File{}, err
	}
	defer in.Close()
	opened, err := in.Stat()
	if err != nil {
		return File{}, err
	}
	if !os.SameFile(st, opened) {
		return File{}, fmt.Errorf("%w: %s was replaced while it was read", ErrInvalid, names.Quote(from))
	}
	return writeFile(ctx, in, work, name)
}

// writeFile copies in, up to the limit of a file of that name, to a new file work/name, and syncs it.
func writeFile(ctx context.Context, in io.Reader, work, name string) (File, error) {
	limit := maxFileBytes[name]
	out, err := os.OpenFile(filepath.Join(work, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return File{}, err
	}
	defer out.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, h), io.LimitReader(durable.Reader(ctx, in), limit+1))
	if err != nil {
		return File{}, fmt.Errorf("copy %s: %w", name, err)
	}
	if n > limit {
		return File{}, fmt.Errorf("%w: %s is longer than %d bytes", ErrInvalid, name, limit)
	}
	return File{Name: name, Digest: hex.EncodeToString(h.Sum(nil)), Bytes: n}, errors.Join(out.Sync(), out.Close())
}

// digestAgain sets the length and digest of files that were rewritten in the folder work.
func digestAgain(ctx context.Context, work string, files []File) error {
	for i := range files {
		path := filepath.Join(work, files[i].Name)
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		if files[i].Digest, err = durable.SHA256(ctx, path); err != nil {
			return err
		}
		files[i].Bytes = st.Size()
	}
	return nil
}

func readIfThere(path string) (string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(text), err
}

// Dir returns a folder of the data directory that contains the version's files, whose digests were checked. An absent
// folder is made from the blob store. A process reads each file once for the check, and again when its size, time or
// inode has changed: a file that was rewritten in place with its time restored is only noticed by the next process.
// ErrNotFound, ErrCorrupt.
func (r *Registry) Dir(ctx context.Context, v Version) (string, error) {
	files, manifest, err := r.files(ctx, v)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(r.cfg.Dir, "versions", manifest)
	for attempt := 0; ; attempt++ {
		err := r.verify(ctx, dir, files)
		if err == nil {
			return dir, nil
		}
		if attempt == 2 || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrCorrupt) {
			return "", err
		}
		// garbage collection may remove the work folder
		if err := r.materialize(ctx, dir, files); err != nil && (attempt == 1 || !errors.Is(err, fs.ErrNotExist)) {
			return "", explain(err)
		}
	}
}

// files lists the files of a version and their manifest's digest, which names the folder. Where the tenant has removed
// the version, it lists those of another tenant's version of the same digest: Resolve has checked the access, and one
// load may serve requests of both tenants.
func (r *Registry) files(ctx context.Context, v Version) (files []File, manifest string, err error) {
	rows, err := r.cfg.DB.Query(ctx, `SELECT f.file, f.blob, f.bytes, v.manifest, v.tenant || '/' || v.name
		FROM adapter_files f
		JOIN adapter_versions v ON v.tenant = f.tenant AND v.name = f.name AND v.digest = f.digest
		WHERE f.digest = ? ORDER BY CASE WHEN f.tenant = ? AND f.name = ? THEN 0 ELSE 1 END, v.tenant, v.name`,
		v.Digest, v.Tenant, v.Name)
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for first := ""; rows.Next(); {
		var f File
		var m, owner string
		if err := rows.Scan(&f.Name, &f.Digest, &f.Bytes, &m, &owner); err != nil {
			return nil, "", err
		}
		if first == "" {
			first, manifest = owner, m
		}
		if owner == first {
			files = append(files, f)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, "", err
	}
	if len(files) == 0 {
		return nil, "", fmt.Errorf("%w: version %.12s was removed", ErrNotFound, v.Digest)
	}
	return files, manifest, nil
}

// verify checks the digests of the files that have changed since it last read them. fs.ErrNotExist, ErrCorrupt.
func (r *Registry) verify(ctx context.Context, dir string, files []File) error {
	for _, f := range files {
		path := filepath.Join(dir, f.Name)
		st, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if known, ok := r.verified.Get(path); ok && os.SameFile(known, st) && known.Size() == st.Size() &&
			known.ModTime().Equal(st.ModTime()) {
			continue
		}
		if !st.Mode().IsRegular() || st.Size() != f.Bytes {
			return fmt.Errorf("%w: %s has %d bytes, not %d: add the adapter again", ErrCorrupt, f.Name, st.Size(),
				f.Bytes)
		}
		got, err := durable.SHA256(ctx, path)
		if err != nil {
			return err
		}
		if got != f.Digest {
			return fmt.Errorf("%w: %s has SHA-256 %.12s…, not %.12s…: add the adapter again", ErrCorrupt, f.Name,
				got, f.Digest)
		}
		r.verified.Add(path, st)
	}
	return nil
}

// materialize makes the folder dir from the blob store and replaces a damaged one: with links to the blobs where that
// is possible, else with copies. Files are not synced: after a loss of power the folder is verified and made again.
func (r *Registry) materialize(ctx context.Context, dir string, files []File) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	work, err := r.workDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	for _, f := range files {
		if err := r.fetch(ctx, f, work); err != nil {
			return err
		}
		r.step("file fetched")
	}
	old := work + "-old"
	if err := os.Rename(dir, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer os.RemoveAll(old)
	r.step("old folder gone")
	// Another process may have put its folder there meanwhile, which serves as well: the caller verifies it.
	if err := os.Rename(work, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	r.step("folder there")
	return nil
}

// fetch copies or links a blob into the folder work; the caller checks its digest.
func (r *Registry) fetch(ctx context.Context, f File, work string) error {
	if l, ok := r.cfg.Blobs.(linker); ok && l.Link(f.Digest, filepath.Join(work, f.Name)) == nil {
		return nil
	}
	in, err := r.cfg.Blobs.Open(ctx, f.Digest)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: the stored file %s is missing: add the adapter again", ErrCorrupt, f.Name)
	}
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = writeFile(ctx, in, work, f.Name)
	return err
}
