package train

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"weft/internal/durable"
	"weft/runtime/weights"
)

// Files of a checkpoint. progress.json is written last into a folder that is renamed at the end, so a checkpoint is
// complete or absent.
const (
	checkpointPrefix = "checkpoint-"
	parametersFile   = "parameters.safetensors"
	optimizerFile    = "optimizer.safetensors"
	bestFile         = "best.safetensors"
	progressFile     = "progress.json"
)

var checkpointFiles = []string{parametersFile, optimizerFile, bestFile, progressFile}

// decisive returns, as JSON, the settings that a resumed run must share with its checkpoint. Left out are those that do
// not change results, those that say how far to train, and names of files, whose contents have digests.
func (j *Job) decisive() json.RawMessage {
	c := j.Config
	c.Overwrite, c.Resume, c.SaveSteps, c.SaveLimit, c.LoggingSteps, c.PageDir = false, false, 0, 0, 0, ""
	c.Checkpointing = false // the results are the same either way
	c.Epochs, c.MaxSteps, c.Patience, c.Threshold = 0, 0, 0, 0
	c.EvalData, c.InitAdapter = "", ""
	if j.start != nil {
		c.InitAdapter = j.start.digest
	}
	settings, _ := json.Marshal(struct {
		Config
		AllowOverlap *bool `json:"allow_overlap,omitempty"` // hides the setting, which decides no result
	}{Config: c})
	return settings
}

func bytesOf(v []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 4*len(v))
}

func floatsOf(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

// tensors returns parameters as stored in a file; at selects the values.
func (r *run) tensors(at func(i int) []float32) map[string]weights.Tensor {
	out := map[string]weights.Tensor{}
	for i, p := range r.grad.Params() {
		shape := []int{p.Rows, p.Cols}
		if p.Vector {
			shape = shape[:1]
		}
		out[p.Name] = weights.Tensor{DType: "F32", Shape: shape, Data: bytesOf(at(i))}
	}
	return out
}

func (r *run) values(i int) []float32 { return r.params[i].Value }

// checkpoint writes everything from which the run resumes bit for bit, and removes old checkpoints.
func (r *run) checkpoint() error {
	final := filepath.Join(r.Dir, checkpointPrefix+strconv.Itoa(r.at.Step))
	if _, err := os.Stat(final); err == nil {
		return nil // this step was saved before
	}
	tmp, err := os.MkdirTemp(r.Dir, ".checkpoint-")
	if err != nil {
		return fmt.Errorf("%w of step %d: %w", ErrCheckpoint, r.at.Step, err)
	}
	defer os.RemoveAll(tmp)
	write := func() error {
		if err := weights.WriteSafetensors(filepath.Join(tmp, parametersFile), r.tensors(r.values), nil); err != nil {
			return err
		}
		if err := weights.WriteSafetensors(filepath.Join(tmp, optimizerFile), r.opt.State(), nil); err != nil {
			return err
		}
		if r.best != nil {
			if err := weights.WriteSafetensors(filepath.Join(tmp, bestFile),
				r.tensors(func(i int) []float32 { return r.best[i] }), nil); err != nil {
				return err
			}
		}
		if r.at.Files, err = digests(tmp); err != nil {
			return err
		}
		text, err := json.Marshal(r.at)
		if err != nil {
			return err
		}
		if err := durable.Create(filepath.Join(tmp, progressFile), text, 0o644); err != nil {
			return err
		}
		if err := durable.SyncDir(tmp); err != nil {
			return err
		}
		if err := os.Rename(tmp, final); err != nil {
			return err
		}
		return durable.SyncDir(r.Dir)
	}
	if err := write(); err != nil {
		return fmt.Errorf("%w of step %d: %w; older checkpoints are kept", ErrCheckpoint, r.at.Step, err)
	}
	return r.prune()
}

// digests returns the SHA-256 of each file of tensors in a checkpoint, by name.
func digests(dir string) (map[string]string, error) {
	out := map[string]string{}
	paths, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	for _, path := range paths {
		digest, bad := durable.SHA256(context.Background(), path)
		if bad != nil {
			return nil, bad
		}
		out[filepath.Base(path)] = digest
	}
	return out, err
}

// checkpoints lists the steps of the whole checkpoints of dir, ascending.
func checkpoints(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []int
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), checkpointPrefix)
		if n, bad := strconv.Atoi(name); ok && bad == nil && e.IsDir() {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, err
}

// newestCheckpoint returns the path of the newest one, "" if there is none.
func newestCheckpoint(dir string) (string, error) {
	steps, err := checkpoints(dir)
	if err != nil || len(steps) == 0 {
		return "", err
	}
	return filepath.Join(dir, checkpointPrefix+strconv.Itoa(steps[len(steps)-1])), nil
}

func (r *run) prune() error {
	steps, err := checkpoints(r.Dir)
	if err != nil {
		return err
	}
	for _, n := range steps[:max(0, len(steps)-r.Config.SaveLimit)] {
		if err := os.RemoveAll(filepath.Join(r.Dir, checkpointPrefix+strconv.Itoa(n))); err != nil {
			return err
		}
	}
	return nil
}

// restore reads a checkpoint completely before it changes anything; it refuses one of another run with the differences.
func (r *run) restore(path string) error {
	fail := func(err error) error { return fmt.Errorf("%w %s: %w", ErrCheckpoint, path, err) }
	damaged := func(err error) error { return fail(fmt.Errorf("%w: it is damaged; %s", err, r.without(path))) }
	text, err := os.ReadFile(filepath.Join(path, progressFile))
	if err != nil {
		return damaged(err)
	}
	var at progress
	if err := json.Unmarshal(text, &at); err != nil {
		return damaged(err)
	}
	if err := r.same(&at); err != nil {
		return fail(err)
	}
	switch files, err := digests(path); {
	case err != nil:
		return damaged(err)
	case !maps.Equal(files, at.Files):
		return damaged(errors.New("its files are not those that were written"))
	}
	if s := at.Scaler; r.Config.FP16 && (s == nil || !(s.Scale >= 1 && s.Scale <= 1<<24) || s.Window < 1) {
		return fail(errors.New("it does not say how the loss was scaled"))
	}
	values, err := r.readParams(filepath.Join(path, parametersFile))
	if err != nil {
		return damaged(err)
	}
	var best [][]float32
	if _, err := os.Stat(filepath.Join(path, bestFile)); err == nil {
		if best, err = r.readParams(filepath.Join(path, bestFile)); err != nil {
			return damaged(err)
		}
	}
	src, err := weights.OpenSafetensors(filepath.Join(path, optimizerFile))
	if err != nil {
		return damaged(err)
	}
	defer src.Close()
	if err := r.opt.Restore(src.Raw); err != nil {
		return damaged(err)
	}
	for i := range values {
		copy(r.params[i].Value, values[i])
	}
	planned := at.Total
	at.Settings, at.Total = r.at.Settings, r.at.Total
	r.at, r.best = at, best
	r.Log.Info("resuming from a checkpoint", "checkpoint", path, "step", at.Step, "of", r.course.total)
	if planned != r.course.total {
		r.Log.Info(
			"the number of steps has changed: the learning rate continues on the schedule of the new number, as "+
				"with transformers",
			"before",
			planned,
			"now",
			r.course.total,
		)
	}
	return r.grad.Renew()
}

// same refuses a checkpoint of another run and lists the differences.
func (r *run) same(at *progress) error {
	const advice = "continue with the same, or train in another folder"
	for _, d := range []struct{ what, have, want string }{{"base model", at.Base, r.Base}, {"data", at.Data, r.Data}} {
		if d.have != d.want {
			return fmt.Errorf("it was made with other %s (%.12s, now %.12s); %s", d.what, d.have, d.want, advice)
		}
	}
	differs, err := differences(at.Settings, r.at.Settings)
	if err != nil {
		return err
	}
	if len(differs) > 0 {
		return fmt.Errorf("it was made with other settings (%s); %s", strings.Join(differs, "; "), advice)
	}
	if at.Step > r.course.total {
		return fmt.Errorf("it has %d steps, more than the %d of these settings: raise num_train_epochs or max_steps, "+
			"or train in another folder", at.Step, r.course.total)
	}
	return nil
}

// differences lists the members in which two objects differ.
func differences(a, b json.RawMessage) (out []string, err error) {
	var before, now map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(a, &before), json.Unmarshal(b, &now)); err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(now)) {
		if !bytes.Equal(before[key], now[key]) {
			out = append(out, fmt.Sprintf("%s was %s, now %s", key, orNone(before[key]), now[key]))
		}
	}
	return out, nil
}

func orNone(v json.RawMessage) string {
	if len(v) == 0 {
		return "not there"
	}
	return string(v)
}

// without returns a hint for a checkpoint at path that cannot be read.
func (r *run) without(path string) string {
	steps, _ := checkpoints(r.Dir)
	if len(steps) < 2 {
		return fmt.Sprintf("remove %s to start again", path)
	}
	return fmt.Sprintf("remove %s to resume from %s%d", path, checkpointPrefix, steps[len(steps)-2])
}

// readParams reads the tensors of all parameters.
func (r *run) readParams(path string) ([][]float32, error) {
	src, err := weights.OpenSafetensors(path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	out := make([][]float32, len(r.params))
	for i, p := range r.params {
		t, err := src.Raw(p.Name)
		if err != nil {
			return nil, err
		}
		if t.DType != "F32" || len(t.Data) != 4*len(p.Value) {
			return nil, fmt.Errorf("%s is %s of %d bytes, want F32 of %d", p.Name, t.DType, len(t.Data), 4*len(p.Value))
		}
		out[i] = make([]float32, len(p.Value))
		copy(bytesOf(out[i]), t.Data)
	}
	return out, nil
}
