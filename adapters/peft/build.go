package peft

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"weft/quant"
	"weft/runtime/lora"
	"weft/runtime/model"
	"weft/runtime/tensor"
	"weft/runtime/weights"
)

// Load opens the adapter at path, converts it if it needs that (see Convert; its files stay as they are), checks it
// against base and returns it in host memory. The error lists all reasons against it.
func Load(path string, base Base) (*lora.Adapter, error) {
	a, err := open(path)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	if a.Config.Init != "" && a.file != nil {
		if _, err := a.convert(context.Background(), base, ConversionTime); err != nil {
			return nil, err
		}
	}
	return a.Build(base)
}

// Use calls use with the adapter at path, checked as by Load; one that needs a conversion is refused. Its LoRA matrices
// are in the file's mapped memory and invalid after use has returned. A file that is truncated meanwhile is
// weights.ErrChanged.
func Use(path string, base Base, use func(*lora.Adapter) error) error {
	a, err := open(path)
	if err != nil {
		return err
	}
	defer a.Close()
	if a.file == nil {
		_, err := a.Build(base)
		return err
	}
	a.reserved = true
	return a.file.Hold(func() error {
		built, err := a.Build(base)
		if err != nil {
			return err
		}
		return use(built)
	})
}

// Check returns a *RefusedError where the adapter does not fit a base of the configuration. It needs no weights of the
// base.
func (a *Adapter) Check(c *model.Config) error { return a.check(c).err(a.path) }

// check returns what is wrong with the adapter, with and without this base.
func (a *Adapter) check(c *model.Config) *reasons {
	r := &reasons{list: slices.Clip(slices.Clone(a.wrong.list)), more: a.wrong.more}
	if a.file != nil {
		a.checkBase(c, r)
	}
	return r
}

// Build checks the adapter against base and returns it in host memory. Everything is copied: afterwards the adapter's
// files may be removed. DoRA reads each adapted weight of the base once, a row at a time in float64.
func (a *Adapter) Build(base Base) (*lora.Adapter, error) {
	c := base.Config()
	r := a.check(c)
	if a.Config.Init != "" {
		r.add("convert it: weft adapters add with --model does, and so does PEFT's save_pretrained with "+
			"path_initial_model_for_weight_conversion", "init_lora_weights is %q, which "+
			"changed the base's weights, and it was not converted to a plain LoRA", a.Config.Init)
	}
	if err := r.err(a.path); err != nil {
		return nil, err
	}
	b := &builder{a: a, base: base, out: &lora.Adapter{Layers: make([][lora.NumTargets]lora.Module, c.Layers)}}
	for _, s := range sites(c) {
		if m := a.modules[s.path]; m != nil {
			if err := b.site(&s, m); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", a.path, s.path, err)
			}
		}
	}
	if m := a.modules[embedPath]; m != nil {
		if err := b.embedding(m); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", a.path, embedPath, err)
		}
	}
	for _, fill := range []func() error{b.tokenRows, b.tieHead, b.norms} {
		if err := fill(); err != nil {
			return nil, fmt.Errorf("%s: %w", a.path, err)
		}
	}
	if err := b.wrong.err(a.path); err != nil {
		return nil, err
	}
	return b.out, nil
}

// builder fills a lora.Adapter.
type builder struct {
	a     *Adapter
	base  Base
	out   *lora.Adapter
	wrong reasons
}

// site builds the modules of one linear layer.
func (b *builder) site(s *site, m map[kind]stored) error {
	whole, err := b.module(s, m)
	if err != nil {
		return err
	}
	if s.path == headPath {
		b.out.Head = whole
		b.out.HeadTable, err = b.table(headPath, m)
		return err
	}
	for _, p := range s.parts {
		b.out.Layers[s.layer][p.target] = cut(whole, p.begin, p.end)
	}
	return nil
}

// cut returns the module of rows [begin, end) of a fused layer; all of them use the same A.
func cut(m lora.Module, begin, end int) lora.Module {
	if m.B.Rows > 0 {
		row := len(m.B.Data) / m.B.Rows
		m.B.Data, m.B.Rows = m.B.Data[begin*row:end*row:end*row], end-begin
	}
	if m.Gain != nil {
		m.Gain = m.Gain[begin:end:end]
	}
	if m.Bias != nil {
		m.Bias = m.Bias[begin:end:end]
	}
	return m
}

func (b *builder) module(s *site, m map[kind]stored) (out lora.Module, err error) {
	if fa, fb, ok, _ := pair(m); ok {
		if out, err = b.pair(s.path, fa, fb); err != nil {
			return out, err
		}
		if b.interleaved(s) {
			if out.B.Data, err = undoInterleaving(out.B.Data, out.B.Rows, b.base.Config().HeadDim); err != nil {
				return out, err
			}
		}
	}
	if r, ok := m[kindMagnitude]; ok {
		if out.Gain, err = b.gain(s, r, &out); err != nil {
			return out, err
		}
	}
	out.Bias, err = b.bias(s, m, &out)
	return out, err
}

// interleaved reports whether the rows of the layer's B are in GGUF's order.
func (b *builder) interleaved(s *site) bool {
	if !b.a.gguf || !weights.Interleaved(b.a.arch) || len(s.parts) != 1 {
		return false
	}
	t := s.parts[0].target
	return t == lora.QProj || t == lora.KProj
}

// pair reads A and B and works out the scale.
func (b *builder) pair(path string, fa, fb stored) (m lora.Module, err error) {
	if m.A, err = b.a.loraMatrix(fa); err != nil {
		return m, err
	}
	if m.B, err = b.a.loraMatrix(fb); err != nil {
		return m, err
	}
	m.Scale = float32(b.a.scale(path, m.A.Rows))
	return m, nil
}

// scale returns the multiplier of BA.
func (a *Adapter) scale(path string, rank int) float64 {
	alpha := a.alpha(path)
	switch {
	case a.gguf && alpha == 0:
		return 1
	case a.Config.RSLoRA:
		return alpha / math.Sqrt(float64(rank))
	}
	return alpha / float64(rank)
}

func (a *Adapter) alpha(path string) float64 {
	if a.match == nil { // GGUF has one for all
		return a.Config.Alpha
	}
	return a.match.alpha(path)
}

// bias returns trained bias + scale · lora_B's bias − gain ⊙ the base's bias, where the trained bias is the base's if
// the file has none. This is added after the layer has added its own bias and the gain was applied. nil where it is
// zero.
func (b *builder) bias(s *site, m map[kind]stored, mod *lora.Module) ([]float32, error) {
	trained, hasTrained := m[kindBias]
	loraBias, hasLoRA := m[kindLoRABias]
	if !hasTrained && !hasLoRA && (mod.Gain == nil || !s.bias) {
		return nil, nil
	}
	sum := make([]float64, s.out)
	if s.bias && (hasTrained || mod.Gain != nil) {
		name := s.path + ".bias"
		own, err := b.base.Vector(name)
		if err != nil {
			return nil, err
		}
		b.base.Release(name)
		if len(own) != s.out {
			return nil, fmt.Errorf("the base's %s has %d values, expected %d", name, len(own), s.out)
		}
		for i, v := range own {
			if !hasTrained {
				sum[i] = float64(v)
			}
			gain := 1.0
			if mod.Gain != nil {
				gain = float64(mod.Gain[i])
			}
			sum[i] -= gain * float64(v)
		}
	}
	if hasTrained {
		if err := b.a.addFloats(sum, trained, 1); err != nil {
			return nil, err
		}
	}
	if hasLoRA {
		if err := b.a.addFloats(sum, loraBias, float64(mod.Scale)); err != nil {
			return nil, err
		}
	}
	out := make([]float32, len(sum))
	for i, v := range sum {
		out[i] = float32(v)
	}
	return out, nil
}

// addFloats adds scale times a vector of the file to sum.
func (a *Adapter) addFloats(sum []float64, r stored, scale float64) error {
	f, err := a.loraMatrix(stored{name: r.name, shape: []int{1, r.shape[0]}, format: r.format})
	if err != nil {
		return err
	}
	v := make([]float32, len(sum))
	matrix(f).Row(0, v)
	for i := range sum {
		sum[i] += scale * float64(v[i])
	}
	return nil
}

// embedding fills what the adapter does to the embedding.
func (b *builder) embedding(m map[kind]stored) (err error) {
	if fa, fb, ok, _ := pair(m); ok {
		if b.out.Embed, err = b.pair(embedPath, fa, fb); err != nil {
			return err
		}
	}
	b.out.EmbedTable, err = b.table(embedPath, m)
	return err
}

// table returns the weight that replaces the base's embedding or head, nil where there is none. A saved weight that
// equals the base's needs no table; one that differs is refused, since PEFT would compute with it.
func (b *builder) table(path string, m map[kind]stored) (*quant.Matrix, error) {
	if r, ok := m[kindBase]; ok {
		same, err := b.sameAsBase(path, r)
		if err != nil {
			return nil, err
		}
		if !same {
			b.wrong.add(b.a.otherBase(), "tensor %q should equal the base's weight, but differs from it", r.name)
		}
	}
	r, ok := m[kindWeight]
	if !ok {
		return nil, nil
	}
	f, err := b.a.loraMatrix(r)
	if err != nil {
		return nil, err
	}
	if b.a.reserved { // native code of a device reads it, and reading a missing page ends the process
		f.Data = bytes.Clone(f.Data)
	}
	return matrix(f), nil
}

// sameAsBase compares a saved weight with the base's: values may differ by the rounding of either type; a quantized
// base by a tenth of the size of the whole.
func (b *builder) sameAsBase(path string, r stored) (bool, error) {
	name := b.tableName(path)
	w, err := b.base.Matrix(name)
	if err != nil {
		return false, err
	}
	defer b.base.Release(name)
	f, err := b.a.loraMatrix(r)
	if err != nil {
		return false, err
	}
	saved := matrix(f)
	x, y := make([]float32, w.Cols), make([]float32, w.Cols)
	var diff, size float64
	close := true
	for i := range w.Rows {
		w.Row(i, x)
		saved.Row(i, y)
		for j := range x {
			d, s := float64(x[j])-float64(y[j]), float64(y[j])
			diff += d * d
			size += s * s
			close = close && math.Abs(d) <= 0x1p-7*math.Abs(s)+1e-7
		}
	}
	if w.Layout >= quant.Int8 {
		return diff <= 0.01*size, nil
	}
	return close, nil
}

// loraMatrix returns a matrix of the file, a copy unless a.reserved is set; GGUF's quantized ones become F32. The
// embedding's A of a GGUF is transposed.
func (a *Adapter) loraMatrix(r stored) (lora.Matrix, error) {
	f := lora.Matrix{Rows: r.shape[0], Cols: r.shape[1]}
	switch r.format {
	case "F32":
		f.DType = tensor.F32
	case "F16":
		f.DType = tensor.F16
	case "BF16":
		f.DType = tensor.BF16
	default:
		return a.dequantized(r)
	}
	err := a.bytes(r, func(data []byte) error {
		if f.Data = data; !a.reserved {
			f.Data = bytes.Clone(data)
		}
		return nil
	})
	if r.flipped {
		f.Data = transposed(f.Data, f.Rows, f.DType.Size())
	}
	return f, err
}

// bytes calls use with a tensor's values.
func (a *Adapter) bytes(r stored, use func(data []byte) error) error {
	if r.data != nil {
		return use(r.data)
	}
	return a.file.Bytes(r.name, use)
}

func (a *Adapter) dequantized(r stored) (lora.Matrix, error) {
	m, err := a.file.Matrix(r.name)
	if err != nil {
		return lora.Matrix{}, err
	}
	f := lora.Matrix{DType: tensor.F32, Rows: r.shape[0], Cols: r.shape[1], Data: make([]byte, 0, 4*m.Rows*m.Cols)}
	row := make([]float32, m.Cols)
	for i := range m.Rows {
		m.Row(i, row)
		for _, v := range row {
			f.Data = binary.LittleEndian.AppendUint32(f.Data, math.Float32bits(v))
		}
	}
	if i := notFinite("F32", f.Data); i >= 0 {
		return f, fmt.Errorf("%w: tensor %q holds NaN or an infinity at value %d", ErrRefused, r.name, i)
	}
	if r.flipped {
		f.Data = transposed(f.Data, f.Rows, 4)
	}
	return f, nil
}

// transposed turns [cols, rows] values of size bytes into [rows, cols].
func transposed(data []byte, rows, size int) []byte {
	out := make([]byte, len(data))
	cols := len(data) / size / rows
	for i := range rows {
		for j := range cols {
			copy(out[(i*cols+j)*size:][:size], data[(j*rows+i)*size:])
		}
	}
	return out
}

// matrix returns a view of f from which rows can be read.
func matrix(f lora.Matrix) *quant.Matrix {
	layout := map[tensor.DType]quant.Layout{tensor.F32: quant.F32, tensor.F16: quant.F16,
		tensor.BF16: quant.BF16}[f.DType]
	return &quant.Matrix{Layout: layout, Rows: f.Rows, Cols: f.Cols, Data: f.Data}
}
