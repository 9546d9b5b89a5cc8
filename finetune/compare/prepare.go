package compare

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"weft/finetune/data"
	"weft/finetune/dataset"
	"weft/finetune/train"
	"weft/internal/durable"
	"weft/runtime/weights"
)

// Names in the output folder.
const (
	settingsName = "comparison.json"
	lockName     = ".lock"
	baseDir      = "base"
	dataDir      = "data"
	runsDir      = "runs"
	readyName    = "ready.json" // in dataDir and baseDir: they are complete
	resultName   = "result.json"
)

// Names of sets in dataDir besides those of runs.
const (
	validationSet = "validation"
	probeSet      = "general"
	replaySet     = "replay"
)

// comparison is one under way.
type comparison struct {
	*Config
	specs  []spec
	base   string            // path of the dequantized model
	sets   map[string]string // paths by name
	ratio  float64           // of replay, as far as the general samples allow
	counts map[string]int    // samples of sets
	plan   Plan
	inputs map[string]*train.Input // by run
}

// settings is the content of comparison.json.
type settings struct {
	Kind string `json:"kind"`
	Weft string `json:"weft"`
	Config
	ModelSHA256   string `json:"model_sha256"`
	DataSHA256    string `json:"data_sha256"`
	GeneralSHA256 string `json:"general_sha256"`
}

const settingsKind = "weft comparison of methods"

// open makes the output folder the comparison's, or finds that it is.
func (c *Config) open(ctx context.Context) (x *comparison, unlock func(), err error) {
	if err := c.Validate(); err != nil {
		return nil, nil, err
	}
	if c.Out, err = filepath.Abs(c.Out); err != nil {
		return nil, nil, err
	}
	list, err := os.ReadDir(c.Out)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	known := slices.ContainsFunc(list, func(e fs.DirEntry) bool { return e.Name() == settingsName })
	others := slices.DeleteFunc(list, func(e fs.DirEntry) bool { return e.Name() == lockName })
	if !known && len(others) > 0 {
		return nil, nil, fmt.Errorf("%w: --out %s has files that no comparison wrote (%s): give a new "+
			"folder", ErrConfig,
			c.Out, others[0].Name())
	}
	own := settings{Kind: settingsKind, Weft: c.Version, Config: *c}
	if own.ModelSHA256, err = weights.Digest(c.Model); err == nil {
		if own.DataSHA256, err = digest(ctx, c.Data); err == nil {
			own.GeneralSHA256, err = digest(ctx, c.General)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(c.Out, 0o777); err != nil {
		return nil, nil, err
	}
	if unlock, err = durable.Lock(filepath.Join(c.Out, lockName)); err != nil {
		if errors.Is(err, durable.ErrLocked) {
			err = fmt.Errorf("another comparison works in %s: %w", c.Out, err)
		}
		return nil, nil, err
	}
	if err = own.keep(filepath.Join(c.Out, settingsName), known); err != nil {
		unlock()
		return nil, nil, err
	}
	return &comparison{Config: c, specs: c.specs(), sets: map[string]string{}, counts: map[string]int{},
		inputs: map[string]*train.Input{}}, unlock, nil
}

// digest is that of all files which the paths name; none is the built-in demo.
func digest(ctx context.Context, paths []string) (string, error) {
	if len(paths) == 0 {
		return "demo", nil
	}
	var files []string
	for _, path := range paths {
		err := filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				files = append(files, p)
			}
			return err
		})
		if err != nil {
			return "", err
		}
	}
	slices.Sort(files)
	return durable.SHA256(ctx, files...)
}

// keep writes the settings, or compares them with those that are there: a comparison continues with its own only.
func (s *settings) keep(path string, known bool) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if !known {
		return writeFile(path, append(text, '\n'))
	}
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var a, b map[string]json.RawMessage
	if json.Unmarshal(old, &a) != nil || json.Unmarshal(text, &b) != nil {
		return fmt.Errorf("%s is damaged: give a new --out folder", path)
	}
	var differ []string
	for name := range b {
		var x, y bytes.Buffer
		if json.Compact(&x, a[name]) != nil || json.Compact(&y, b[name]) != nil || x.String() != y.String() {
			differ = append(differ, fmt.Sprintf("%s was %s and is %s", name, x.String(), y.String()))
		}
	}
	if len(differ) > 0 {
		slices.Sort(differ)
		return fmt.Errorf("%w: the comparison in %s has other settings (%s): repeat them to continue it, or give a "+
			"new "+
			"--out folder", ErrConfig, filepath.Dir(path), strings.Join(differ, "; "))
	}
	return nil
}

func writeFile(path string, text []byte) error {
	return durable.Replace(path, func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}

func (x *comparison) path(parts ...string) string {
	return filepath.Join(append([]string{x.Out}, parts...)...)
}

// once makes a folder of the comparison, unless it is complete.
func (x *comparison) once(dir string, v any, fill func() error) error {
	ready := x.path(dir, readyName)
	if text, err := os.ReadFile(ready); err == nil {
		return json.Unmarshal(text, v)
	}
	if err := os.RemoveAll(x.path(dir)); err != nil {
		return err
	}
	if err := os.MkdirAll(x.path(dir), 0o777); err != nil {
		return err
	}
	if err := fill(); err != nil {
		return err
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFile(ready, text)
}

// prepare makes the sets of samples and the model that all runs start from.
func (x *comparison) prepare() error {
	var d struct {
		Sets   map[string]string // paths, those in the output folder relative to it
		Counts map[string]int
		Ratio  float64
	}
	if err := x.once(dataDir, &d, func() error {
		err := x.makeSets()
		for name, path := range x.sets {
			if in, err := filepath.Rel(x.Out, path); err == nil && filepath.IsLocal(in) {
				x.sets[name] = in
			}
		}
		d.Sets, d.Counts, d.Ratio = x.sets, x.counts, x.ratio
		return err
	}); err != nil {
		return err
	}
	x.sets, x.counts, x.ratio = d.Sets, d.Counts, d.Ratio
	for name, path := range x.sets {
		if !filepath.IsAbs(path) {
			x.sets[name] = x.path(path)
		}
	}
	var base string
	err := x.once(baseDir, &base, func() error {
		fmt.Fprintln(x.Terminal, "writing the dequantized model, from which all runs start")
		path, err := train.Dequantize(x.Model, x.path(baseDir))
		if err == nil {
			base, err = filepath.Rel(x.Out, path)
		}
		return err
	})
	x.base = x.path(base)
	return err
}

// makeSets writes the files that runs train on and are measured on.
func (x *comparison) makeSets() error {
	own, err := x.sides("data", x.Data, "repairs.jsonl", x.Validation)
	if err != nil {
		return err
	}
	general, err := x.sides("general", x.General, "general.jsonl", 0.5)
	if err != nil {
		return err
	}
	x.sets[ownSet], x.sets[replaySet] = own["train"], general["train"]
	if x.counts[ownSet], err = count(own["train"]); err != nil {
		return err
	}
	if x.counts[replaySet], err = count(general["train"]); err != nil {
		return err
	}
	small := max(1, int(x.SmallPart*float64(x.counts[ownSet])+0.5))
	for _, s := range []struct {
		name, from string
		most       int
	}{{validationSet, own["validation"], x.EvalSamples}, {probeSet, general["validation"], x.EvalSamples},
		{smallSet, own["train"], small}} {
		if x.sets[s.name], x.counts[s.name], err = x.thin(s.from, s.name, s.most); err != nil {
			return err
		}
	}
	if !slices.Contains(x.Studies, Replay) {
		return nil
	}
	x.sets[mixedSet] = x.path(dataDir, mixedSet+".jsonl")
	x.ratio = min(x.ReplayRatio, float64(x.counts[replaySet])/float64(x.counts[ownSet]))
	m, err := dataset.Mix([]string{x.sets[ownSet]}, x.sets[replaySet], x.sets[mixedSet], x.ratio, x.Seed,
		data.Options{})
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	x.counts[mixedSet] = m.Samples
	return nil
}

// sides returns the training and the validation side of a data set: those of a folder of `weft data split`, or of files
// that are split here.
func (x *comparison) sides(flag string, paths []string, demo string, validation float64) (map[string]string, error) {
	if len(paths) == 0 {
		path, err := writeDemo(x.path(dataDir), demo)
		if err != nil {
			return nil, err
		}
		paths = []string{path}
	}
	out := x.path(dataDir, flag+"-sides")
	for _, path := range paths {
		sides, err := data.SidesOf(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for side, path := range sides {
			if sides[side], err = filepath.Abs(path); err != nil {
				return nil, err
			}
		}
		if len(paths) > 1 {
			return nil, fmt.Errorf("%w: --%s: give one folder of weft data split, or files", ErrConfig, flag)
		}
		for _, side := range []string{"train", "validation"} {
			if sides[side] == "" {
				return nil, fmt.Errorf("%w: --%s %s has no %s side: split it with weft data split --validation 0.2",
					ErrConfig, flag, path, side)
			}
		}
		return sides, nil
	}
	_, _, err := dataset.Split(paths, out, dataset.SplitOptions{Validation: validation, Seed: x.Seed,
		Dedup: dataset.DedupExact, Group: dataset.GroupConversation}, data.Options{Guess: true}, x.Version)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	return data.SidesOf(out)
}

func noWork() func(*data.Row) (struct{}, error) {
	return func(*data.Row) (struct{}, error) { return struct{}{}, nil }
}

func count(path string) (n int, err error) {
	_, err = data.Each([]string{path}, data.Options{}, noWork, func(*data.Row, struct{}) error {
		n++
		return nil
	})
	return n, err
}

// thin writes at most the given number of a file's samples, evenly spaced.
func (x *comparison) thin(from, name string, most int) (path string, n int, err error) {
	all, err := count(from)
	if err != nil {
		return "", 0, err
	}
	n = min(most, all)
	var out bytes.Buffer
	i := 0
	_, err = data.Each([]string{from}, data.Options{}, func() func(*data.Row) ([]byte, error) {
		return func(r *data.Row) ([]byte, error) {
			line, _, err := r.Record.Append(nil, data.ToSame)
			return line, err
		}
	}, func(_ *data.Row, line []byte) error {
		if i*n/all != (i+1)*n/all {
			out.Write(append(line, '\n'))
		}
		i++
		return nil
	})
	if err != nil {
		return "", 0, err
	}
	path = x.path(dataDir, name+".jsonl")
	return path, n, writeFile(path, out.Bytes())
}
