package peft

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"weft/internal/durable"
	"weft/internal/priority"
	"weft/quant"
	"weft/runtime/lora"
	"weft/runtime/weights"
)

// ConversionTime is how long a conversion may take; see Convert.
const ConversionTime = 5 * time.Minute

// The values of init_lora_weights with which PEFT changes the base's weights to W − scale·B₀A₀, such that W alone
// determines B₀A₀.
const (
	initPiSSA = "pissa" // B₀A₀·scale is the best approximation of W of the adapter's rank
	initOLoRA = "olora" // B₀A₀ is the first rank columns of Q times the first rank rows of R, where QR = W
)

// convertInPEFT is what to do about an adapter whose initial matrices are known only where it was trained.
const convertInPEFT = "convert it where it was trained: save the adapter once before training, as INITIAL with " +
	"init_lora_weights=True, and after training call model.save_pretrained(DIR, " +
	"path_initial_model_for_weight_conversion=INITIAL); or call merge_and_unload() and serve the merged model"

// changedBase lists initializations, by the beginning of their name, after which the adapter belongs to a base that
// cannot be computed again from the original one.
var changedBase = []struct{ prefix, why, fix string }{
	{"pissa_niter_", "PEFT subtracted a randomized approximation from the base's weights", convertInPEFT},
	{"corda", "PEFT subtracted matrices from the base's weights that depend on its calibration data", convertInPEFT},
	{"lora_ga", "PEFT subtracted matrices from the base's weights that depend on gradients of its training data",
		convertInPEFT},
	{"loftq", "PEFT replaced the base's weights by quantized ones",
		"save the base that it was trained on (model.get_base_model().save_pretrained) and the adapter with " +
			"init_lora_weights=True, and serve both; or call merge_and_unload() and serve the merged model"},
}

// setInit reads init_lora_weights. What leaves the base as it is, is Init "".
func (c *Config) setInit(v json.RawMessage, r *reasons) {
	var name string
	if json.Unmarshal(v, &name) != nil { // true, false or null
		return
	}
	switch strings.ToLower(name) {
	case "", "true", "false", "gaussian", "eva", "orthogonal", "mica":
		return
	case initOLoRA:
		c.Init = initOLoRA
		return
	}
	if name == initPiSSA {
		c.Init = initPiSSA
		return
	}
	for _, k := range changedBase {
		if strings.HasPrefix(name, k.prefix) {
			r.add(k.fix, "init_lora_weights is %.200q: %s, so that the adapter does not fit the original ones", name,
				k.why)
			return
		}
	}
	r.add("write true if the adapter was trained on the unchanged base",
		"init_lora_weights is %.200q, which weft does not know: it could have changed the base's weights", name)
}

// Convert turns the PEFT folder dir, where its initialization changed the base (PiSSA, OLoRA), into a plain LoRA for
// the unchanged base: of twice the rank, BA − B₀A₀, as PEFT's conversion does. It rewrites both files and returns what
// it did in words, "" where nothing was to be done. A *RefusedError says that it does not fit base or cannot be
// converted, also because that takes longer than ConversionTime. Equal adapters and bases give equal files.
func Convert(ctx context.Context, dir string, base Base) (did string, err error) {
	a, err := open(dir)
	if err != nil {
		return "", err
	}
	defer a.Close()
	if a.Config.Init == "" || a.file == nil {
		return "", nil
	}
	if base == nil {
		var r reasons
		r.add("give the base model (--model)", "init_lora_weights is %q: only with the base's weights can it be "+
			"converted to a plain LoRA", a.Config.Init)
		return "", r.err(dir)
	}
	if did, err = a.convert(ctx, base, ConversionTime); err != nil {
		return "", err
	}
	return did, a.rewrite()
}

// rewrite replaces both files of the folder by the adapter as it is now.
func (a *Adapter) rewrite() error {
	tensors := map[string]weights.Tensor{}
	err := a.file.Hold(func() error {
		for _, path := range a.paths() {
			for _, k := range sortedKinds(a.modules[path]) {
				t := a.modules[path][k]
				if err := a.bytes(t, func(data []byte) error {
					tensors[t.name] = weights.Tensor{DType: t.format, Shape: t.shape, Data: data}
					return nil
				}); err != nil {
					return err
				}
			}
		}
		return weights.WriteSafetensors(filepath.Join(a.path, WeightsFile), tensors, map[string]string{"format": "pt"})
	})
	if err != nil {
		return err
	}
	text, err := a.Config.encode()
	if err != nil {
		return err
	}
	return durable.Replace(filepath.Join(a.path, ConfigFile), func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}

// convert is Convert in memory, within a limit of time. The adapter must not be in use.
func (a *Adapter) convert(ctx context.Context, base Base, limit time.Duration) (did string, err error) {
	cfg := base.Config()
	r := a.check(cfg)
	if _, _, adapted, _ := pair(a.modules[headPath]); adapted && cfg.Tied {
		r.add(convertInPEFT, "init_lora_weights is %q and lm_head is a target module: the head is the base's "+
			"embedding, and the training changed both", a.Config.Init)
	}
	if err := r.err(a.path); err != nil {
		return "", err
	}
	limited, stop := context.WithTimeout(ctx, limit)
	defer stop()
	found, err := a.initialMatrices(limited, base)
	if err == nil {
		err = a.subtract(found)
	}
	if err == nil {
		err = a.dropHead(base, found[headPath], r)
	}
	if limited.Err() != nil && ctx.Err() == nil {
		err = nil
		r.add(convertInPEFT, "init_lora_weights is %q: computing its initial matrices took longer than %v",
			a.Config.Init, limit)
	}
	var not *unrepeatableError
	if errors.As(err, &not) {
		err = nil
		r.add(convertInPEFT, "init_lora_weights is %q: %v", a.Config.Init, not)
	}
	if err = errors.Join(err, r.err(a.path)); err != nil {
		return "", err
	}
	did = fmt.Sprintf("init_lora_weights is %q, which changed the base's weights: weft subtracts the initial LoRA "+
		"matrices, so that the adapter fits the unchanged base, with rank %d instead of %d", a.Config.Init,
		2*a.Config.Rank, a.Config.Rank)
	a.double()
	return did, nil
}

// unrepeatableError says why initial matrices cannot be computed again.
type unrepeatableError struct{ why string }

func (e *unrepeatableError) Error() string { return e.why }

func unrepeatable(format string, args ...any) error {
	return &unrepeatableError{fmt.Sprintf(format, args...)}
}

// initialMatrices computes A₀ and B₀ of every linear layer with a LoRA. Several layers are computed at once, below the
// priority of the threads that serve.
func (a *Adapter) initialMatrices(ctx context.Context, base Base) (map[string]*initial, error) {
	work := make(chan site)
	var mu sync.Mutex
	found := map[string]*initial{}
	var failed error
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			priority.Lower()
			for s := range work {
				i, err := a.initialOf(ctx, base, &s)
				mu.Lock()
				if found[s.path] = i; err != nil {
					failed = errors.Join(failed, err)
					stop()
				}
				mu.Unlock()
			}
		})
	}
	for _, s := range sites(base.Config()) {
		if _, _, ok, _ := pair(a.modules[s.path]); ok && ctx.Err() == nil {
			work <- s
		}
	}
	close(work)
	wg.Wait()
	return found, errors.Join(failed, ctx.Err())
}

// initial is a layer's initial LoRA: A [r, in] by rows, B [out, r] by columns.
type initial struct{ a, b [][]float64 }

func (a *Adapter) initialOf(ctx context.Context, base Base, s *site) (*initial, error) {
	name := s.path + ".weight"
	w, err := base.Matrix(name)
	if err != nil {
		return nil, err
	}
	defer base.Release(name)
	if w.Layout >= quant.Int8 {
		return nil, unrepeatable("the initial matrices come from the weights before they were quantized, and the " +
			"base's are quantized: add it with the model that it was trained on")
	}
	if w.Rows != s.out || w.Cols != s.in {
		return nil, fmt.Errorf("the base's %s is [%d %d], expected [%d %d]", name, w.Rows, w.Cols, s.out, s.in)
	}
	fa := a.modules[s.path][kindA]
	r := fa.shape[0]
	scale := a.scale(s.path, r)
	if scale == 0 {
		return nil, nil
	}
	var i *initial
	if a.Config.Init == initOLoRA {
		i, err = olora(w, r)
	} else {
		i, err = pissa(ctx, w, r, scale)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	return i, nil
}

// pissa returns A₀, an orthonormal basis V of the right singular vectors with the largest singular values, and
// B₀ = WV / scale. PEFT divides the singular values between both otherwise and chooses the signs of the vectors as its
// SVD does, but scale·B₀A₀ = WVVᵀ depends only on the space that V spans.
func pissa(ctx context.Context, w *quant.Matrix, r int, scale float64) (*initial, error) {
	v, err := dominant(ctx, w, r)
	if err != nil {
		return nil, err
	}
	out := &initial{a: v, b: newVectors(r, w.Rows)}
	row := make([]float32, w.Cols)
	for i := range w.Rows {
		w.Row(i, row)
		for k := range v {
			var sum float64
			for j, x := range row {
				sum += float64(x) * v[k][j]
			}
			out.b[k][i] = sum / scale
		}
	}
	return out, nil
}

// olora returns B₀, an orthonormal basis Q of the first r columns of W, and A₀ = QᵀW. B₀A₀ does not depend on the signs
// that a QR decomposition chooses.
func olora(w *quant.Matrix, r int) (*initial, error) {
	out := &initial{a: newVectors(r, w.Cols), b: newVectors(r, w.Rows)}
	row := make([]float32, w.Cols)
	for i := range w.Rows {
		w.Row(i, row)
		for k := range min(r, w.Cols) {
			out.b[k][i] = float64(row[k])
		}
	}
	for k, q := range out.b {
		before := norm(q)
		orthogonalize(q, out.b[:k], nil)
		after := norm(q)
		if after <= 1e-6*before { // float32 leaves only rounding errors of the column
			return nil, unrepeatable("column %d of the base's weight depends on those before it, so that QR "+
				"decompositions differ", k)
		}
		scaleBy(q, 1/after)
	}
	for i := range w.Rows {
		w.Row(i, row)
		for k, q := range out.b {
			c := q[i]
			for j, x := range row {
				out.a[k][j] += c * float64(x)
			}
		}
	}
	return out, nil
}

// subtract replaces A by [A; A₀] and B by [B, −B₀], in float32. The embedding, which no initialization changes, gets
// zeros, so that all ranks are doubled.
func (a *Adapter) subtract(found map[string]*initial) error {
	for _, path := range a.paths() {
		m := a.modules[path]
		fa, fb, ok, _ := pair(m)
		if !ok {
			continue
		}
		ma, err := a.loraMatrix(fa)
		if err != nil {
			return err
		}
		mb, err := a.loraMatrix(fb)
		if err != nil {
			return err
		}
		kindOfA, kindOfB := kindA, kindB
		if path == embedPath {
			kindOfA, kindOfB = kindEmbedA, kindEmbedB
		}
		m[kindOfA], m[kindOfB] = doubled(fa, fb, ma, mb, found[path])
	}
	return nil
}

// dropHead removes the head's changed weight W − scale·B₀A₀, which PEFT saves beside an adapter on the head. Another
// weight there is a reason against the adapter.
func (a *Adapter) dropHead(base Base, i *initial, r *reasons) error {
	m := a.modules[headPath]
	t, ok := m[kindBase]
	if !ok || i == nil {
		return nil
	}
	name := headPath + ".weight"
	w, err := base.Matrix(name)
	if err != nil {
		return err
	}
	defer base.Release(name)
	saved, err := a.loraMatrix(t)
	if err != nil {
		return err
	}
	scale := a.scale(headPath, len(i.a))
	row, kept, changed := make([]float32, w.Cols), make([]float32, w.Cols), make([]float64, w.Cols)
	var diff, size float64
	for o := range w.Rows {
		w.Row(o, row)
		matrix(saved).Row(o, kept)
		for j, v := range row {
			changed[j] = float64(v)
		}
		for k := range i.a {
			axpy(changed, -scale*i.b[k][o], i.a[k])
		}
		for j, v := range changed {
			size += v * v
			v -= float64(kept[j])
			diff += v * v
		}
	}
	if delete(m, kindBase); diff > 1e-4*size {
		r.add(
			a.otherBase(),
			"tensor %q should be the base's weight without the initial LoRA matrices (%s), but differs",
			t.name,
			a.Config.Init,
		)
	}
	return nil
}

// doubled returns [A; A₀] and [B, −B₀]; i nil means zeros.
func doubled(fa, fb stored, ma, mb lora.Matrix, i *initial) (stored, stored) {
	r := ma.Rows
	put := func(b []byte, v float32) []byte { return binary.LittleEndian.AppendUint32(b, math.Float32bits(v)) }
	da, db := make([]byte, 0, 8*r*ma.Cols), make([]byte, 0, 8*mb.Rows*r)
	row := make([]float32, max(ma.Cols, r))
	for k := range r {
		matrix(ma).Row(k, row[:ma.Cols])
		for _, v := range row[:ma.Cols] {
			da = put(da, v)
		}
	}
	for k := range r {
		for j := range ma.Cols {
			var v float32
			if i != nil {
				v = float32(i.a[k][j])
			}
			da = put(da, v)
		}
	}
	for o := range mb.Rows {
		matrix(mb).Row(o, row[:r])
		for _, v := range row[:r] {
			db = put(db, v)
		}
		for k := range r {
			var v float32
			if i != nil {
				v = float32(-i.b[k][o])
			}
			db = put(db, v)
		}
	}
	return stored{name: fa.name, shape: []int{2 * r, ma.Cols}, format: "F32", bytes: int64(len(da)), data: da},
		stored{name: fb.name, shape: []int{mb.Rows, 2 * r}, format: "F32", bytes: int64(len(db)), data: db}
}

// double doubles the ranks of the configuration and keeps every scale.
func (a *Adapter) double() {
	c := &a.Config
	grow := 2.0
	if c.RSLoRA {
		grow = math.Sqrt2
	}
	c.Init, c.Rank, c.Alpha = "", 2*c.Rank, grow*c.Alpha
	c.RankPattern, c.AlphaPattern = slices.Clone(c.RankPattern), slices.Clone(c.AlphaPattern)
	for i := range c.RankPattern {
		c.RankPattern[i].Value *= 2
	}
	for i := range c.AlphaPattern {
		c.AlphaPattern[i].Value *= grow
	}
}
