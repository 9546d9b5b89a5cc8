package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"weft/finetune/data"
	"weft/internal/bounded"
	"weft/internal/durable"
)

// Names in the output folder, besides checkpoints and those of the two results.
const (
	manifestFile = "weft-run.json"
	lockName     = ".lock"
	reportFile   = "run.json"
	pageFile     = "report.html"
	eventsDir    = "events"
	adapterDir   = "adapter"
	modelDir     = "model"
)

// manifest is weft-run.json: it says that weft made the output folder and which files in events, adapter and model are
// its own. Names are added before the files are written, so that a killed run leaves no file that is not listed. They
// are only compared with the names in the folder: nothing is opened or removed because it is listed.
type manifest struct {
	Version int      `json:"weft_train_output"`
	Events  []string `json:"events"`
	// Results are the files of adapter and model: path within the folder → SHA-256 of what runs wrote there.
	Results map[string][]string `json:"results"`
}

const (
	manifestVersion = 1
	maxManifest     = 4 << 20 // bytes
	maxForeign      = 5       // names in a message
)

// readManifest returns nil where there is none.
func readManifest(dir string) (*manifest, error) {
	text, err := bounded.ReadFileNoLink(filepath.Join(dir, manifestFile), maxManifest)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, bounded.ErrNotRegular) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var m manifest
	bad := json.Unmarshal(text, &m)
	if bad == nil && m.Version == manifestVersion {
		return &m, nil
	}
	return nil, nil // it proves nothing
}

func (m *manifest) write(dir string) error {
	m.Version = manifestVersion
	text, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	if err := durable.Replace(filepath.Join(dir, manifestFile), func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	}); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Join(dir, manifestFile), err)
	}
	return nil
}

// contents is what lies in an output folder.
type contents struct {
	manifest *manifest // nil: weft did not make the folder
	own      []string  // names in the folder of what runs left: checkpoints, events, results, reports
	begun    []string  // names of incomplete files of a killed run
	outside  []string  // names of files that are no run's
	within   []string  // paths of such files inside the folders that runs replace and remove
}

// survey reads an output folder; one that does not exist is empty.
func survey(dir string) (*contents, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return &contents{}, nil
	}
	if err != nil {
		return nil, err
	}
	c := &contents{}
	if c.manifest, err = readManifest(dir); err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := e.Name()
		regular, folder := e.Type().IsRegular(), e.IsDir()
		switch {
		case regular && name == lockName && empty(e):
		case regular && strings.HasPrefix(name, "."+manifestFile+"."):
			c.begun = append(c.begun, name)
		case c.manifest == nil:
			c.outside = append(c.outside, name)
		case regular && name == manifestFile:
		case regular && (name == reportFile || name == pageFile || name == data.SamplesName):
			c.own = append(c.own, name)
		case regular && (strings.HasPrefix(name, "."+reportFile+".") || strings.HasPrefix(name, "."+pageFile+".") ||
			strings.HasPrefix(name, "."+data.SamplesName+".")),
			folder && (strings.HasPrefix(name, "."+checkpointPrefix) || strings.HasPrefix(name, writingPrefix)):
			c.begun = append(c.begun, name)
		case folder && c.manifest.owner(name) != nil:
			c.own = append(c.own, name)
			if err := c.inside(dir, name); err != nil {
				return nil, err
			}
		default:
			c.outside = append(c.outside, name)
		}
	}
	return c, nil
}

func empty(e fs.DirEntry) bool {
	info, err := e.Info()
	return err == nil && info.Size() == 0
}

// owner returns what decides whether a file, given by its path in the output folder, is a run's: nil for folders that
// no run makes.
func (m *manifest) owner(folder string) func(dir, name string) (own bool, why string, err error) {
	n, isCheckpoint := strings.CutPrefix(folder, checkpointPrefix)
	if isCheckpoint {
		_, err := strconv.ParseUint(n, 10, 62)
		isCheckpoint = err == nil
	}
	switch {
	case isCheckpoint:
		return func(_, name string) (bool, string, error) {
			return slices.Contains(checkpointFiles, path.Base(name)) && path.Dir(name) == folder, "", nil
		}
	case folder == eventsDir:
		return func(_, name string) (bool, string, error) {
			return path.Dir(name) == folder && slices.Contains(m.Events, path.Base(name)), "", nil
		}
	case folder == adapterDir, folder == modelDir:
		return func(dir, name string) (bool, string, error) {
			written := m.Results[name]
			if len(written) == 0 {
				return false, "", nil
			}
			digest, err := durable.SHA256(context.Background(), filepath.Join(dir, filepath.FromSlash(name)))
			return slices.Contains(written, digest), " (changed since it was written)", err
		}
	}
	return nil
}

// inside adds the files of a run's folder that are no run's.
func (c *contents) inside(dir, folder string) error {
	owner := c.manifest.owner(folder)
	return filepath.WalkDir(filepath.Join(dir, folder), func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if name == folder {
			return nil
		}
		if e.Type().IsRegular() {
			own, why, err := owner(dir, name)
			if err != nil || own {
				return err
			}
			name += why
		}
		c.within = append(c.within, name)
		if e.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}

// has reports whether a run left one of the names.
func (c *contents) has(names ...string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return slices.Contains(c.own, n) })
}

// Place is a file or folder that a run reads, under its name in messages.
type Place struct{ What, Path string }

// archive matches names of files that a user may expect a run to write.
var archive = regexp.MustCompile(
	`(?i)\.(tar|tgz|gz|bz2|xz|zst|zip|7z|safetensors|gguf|bin|pt|pth|ckpt|json|jsonl|ya?ml)$`)

// CheckOutputName refuses names that mean a stream or a file: a run writes a folder.
func CheckOutputName(out string) error {
	if out == "-" || archive.MatchString(filepath.Base(out)) {
		return fmt.Errorf("--out %s: a run writes a folder, no stream, file or archive: give a folder such as "+
			"runs/NAME; the adapter will be in its folder adapter", out)
	}
	return nil
}

// CheckOutput refuses, with ErrConfig and the reason, an output folder in which a run would replace or remove what no
// run of weft made: one that is, contains or lies in a place that the run reads, or that has files of others. It
// changes nothing. It also refuses the folder of an earlier run, unless the settings say to resume or to overwrite it.
func (c *Config) CheckOutput(dir string, reads ...Place) error {
	_, err := c.checkOutput(dir, reads)
	return err
}

func (c *Config) checkOutput(dir string, reads []Place) (*contents, error) {
	refuse := func(format string, args ...any) (*contents, error) {
		return nil, fmt.Errorf("%w: the output folder %s %s", ErrConfig, dir, fmt.Sprintf(format, args...))
	}
	if st, err := os.Stat(dir); err == nil && !st.IsDir() {
		return refuse("is a file: give a folder, which is created if it does not exist")
	}
	for _, p := range reads {
		if how := relation(dir, p.Path); how != "" {
			return refuse("%s the %s %s, which the run would change: choose another folder, such as runs/NAME", how,
				p.What, p.Path)
		}
	}
	in, err := survey(dir)
	if err != nil {
		return nil, fmt.Errorf("the output folder %s: %w", dir, err)
	}
	foreign := in.within
	if in.manifest == nil || !c.Resume {
		foreign = append(foreign, in.outside...)
	}
	if n := len(foreign); n > 0 {
		more := ""
		if n > maxForeign {
			more = fmt.Sprintf(" and %d more", n-maxForeign)
		}
		return refuse("has files that no run of weft wrote (%s%s): choose another folder, or move them away; nothing "+
			"was changed", strings.Join(foreign[:min(n, maxForeign)], ", "), more)
	}
	if c.Resume || c.Overwrite {
		return in, nil
	}
	const advice = "choose another folder, or overwrite_output_dir to remove it"
	if old, err := newestCheckpoint(dir); err == nil && old != "" {
		return refuse("has %s of an earlier run: continue it with --resume, %s", filepath.Base(old), advice)
	}
	if in.has(reportFile, adapterDir, modelDir) {
		return refuse("has a finished run: %s", advice)
	}
	return in, nil
}

// relation says how an output folder and a place that is read overlap: "is", "contains", "lies in", or "" if they do
// not. Links are followed, and both spellings count: a link in the output folder is removed with it.
func relation(out, read string) string {
	if read == "" || read == "-" {
		return ""
	}
	o, r := resolved(out), resolved(read)
	spelled, err := filepath.Abs(read)
	if err != nil {
		spelled = r
	}
	switch {
	case same(o, r):
		return "is"
	case liesIn(o, r), liesIn(o, filepath.Join(resolved(filepath.Dir(spelled)), filepath.Base(spelled))):
		return "contains"
	case liesIn(r, o):
		return "lies in"
	}
	return ""
}

// resolved is an absolute path without links; of a path that does not exist, what does exist of it is resolved.
func resolved(path string) string {
	path, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if up := filepath.Dir(path); up != path {
		return filepath.Join(resolved(up), filepath.Base(path))
	}
	return path
}

// same reports whether two paths are one file, also where a file system has several spellings of a name.
func same(a, b string) bool {
	if a == b {
		return true
	}
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// liesIn reports whether path lies in folder.
func liesIn(folder, path string) bool {
	for up := filepath.Dir(path); ; up = filepath.Dir(up) {
		if same(folder, up) {
			return true
		}
		if up == filepath.Dir(up) {
			return false
		}
	}
}

// claim makes the output folder this run's: it checks it, locks it against other runs, writes the manifest and removes
// the incomplete files of a killed run. unlock ends the lock.
func (r *run) claim() (unlock func(), err error) {
	if _, err := r.Config.checkOutput(r.Dir, r.Reads); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(r.Dir, 0o777); err != nil {
		return nil, fmt.Errorf("the run's folder %s: %w", r.Dir, err)
	}
	if unlock, err = durable.Lock(filepath.Join(r.Dir, lockName)); err != nil {
		if errors.Is(err, durable.ErrLocked) {
			err = fmt.Errorf("%w: %w", ErrBusy, err)
		}
		return nil, err
	}
	in, err := r.Config.checkOutput(r.Dir, r.Reads) // again: another run may just have ended
	if err == nil {
		r.manifest = in.manifest
		if r.manifest == nil {
			r.manifest = &manifest{}
			err = r.manifest.write(r.Dir)
		}
	}
	if err == nil {
		err = removeAll(r.Dir, in.begun)
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// clear removes what earlier runs left.
func (r *run) clear() error {
	in, err := r.Config.checkOutput(r.Dir, r.Reads)
	if err != nil {
		return err
	}
	if err := removeAll(r.Dir, in.own); err != nil {
		return err
	}
	r.manifest = &manifest{}
	return r.manifest.write(r.Dir)
}

func removeAll(dir string, names []string) (err error) {
	for _, name := range names {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, name)))
	}
	return err
}

// announce adds to the manifest the files of a result that is complete at made and is about to become Dir/name. Once it
// is there, settle takes those of the result that it replaced from the manifest.
func (r *run) announce(made, name string) (settle func() error, err error) {
	digests := map[string][]string{}
	err = filepath.WalkDir(made, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(made, p)
		if err != nil {
			return err
		}
		digest, err := durable.SHA256(context.Background(), p)
		digests[path.Join(name, filepath.ToSlash(rel))] = []string{digest}
		return err
	})
	if err != nil {
		return nil, err
	}
	if r.manifest.Results == nil {
		r.manifest.Results = map[string][]string{}
	}
	for p, written := range digests {
		r.manifest.Results[p] = append(r.manifest.Results[p], written...)
	}
	return func() error {
		maps.DeleteFunc(r.manifest.Results, func(p string, _ []string) bool { return strings.HasPrefix(p, name+"/") })
		maps.Copy(r.manifest.Results, digests)
		return r.manifest.write(r.Dir)
	}, r.manifest.write(r.Dir)
}
