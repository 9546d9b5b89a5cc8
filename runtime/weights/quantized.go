package weights

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"weft/internal/bounded"
	"weft/quant"
)

// Quantized is a checkpoint that stores a weight in several tensors: bitsandbytes' 4-bit form, AWQ or GPTQ. As a Source
// it has the plain names of the weights ("….q_proj.weight"), in their layouts; the tensors that they consist of are not
// listed.
type Quantized struct {
	tensorFiles
	weights map[string]*quantizedWeight
	parts   map[string]bool // tensors that a weight consists of
	packing *Quantization   // AWQ and GPTQ: how all of them are packed
}

// Info.Format of quantized weights; bitsandbytes' is followed by the kind.
const (
	formatBNB  = "bitsandbytes"
	formatAWQ  = "AWQ"
	formatGPTQ = "GPTQ"
)

// tensorFiles are the methods that Dir and Safetensors have in common.
type tensorFiles interface {
	Source
	Floats(name string) ([]float32, []int, error)
	Ints(name string) ([]int32, []int, error)
	raw(name string) ([]byte, error)
}

// quantizedWeight is one weight [out, in]; prefix is its name ("….q_proj.weight") for bitsandbytes, that of the layer
// ("….q_proj") for the others.
type quantizedWeight struct {
	prefix string
	shape  []int
	format string
	parts  []string
	state  *quantState // bitsandbytes
}

// openQuantized looks for quantized weights among the tensors of src; without any it returns src itself. folder holds
// the config.json. After an error src is closed.
func openQuantized(src tensorFiles, folder string) (Source, error) {
	q := &Quantized{tensorFiles: src, weights: map[string]*quantizedWeight{}, parts: map[string]bool{}}
	for _, name := range src.Names() {
		var err error
		if weight, kind, ok := strings.Cut(name, ".quant_state.bitsandbytes__"); ok {
			err = q.addBNB(weight, name, kind)
		} else if layer, ok := strings.CutSuffix(name, ".qweight"); ok {
			err = q.addPacked(layer, folder)
		}
		if err != nil {
			src.Close()
			return nil, fmt.Errorf("open model %s: tensor %q: %w", folder, name, err)
		}
	}
	if len(q.weights) == 0 {
		return src, nil
	}
	return q, nil
}

func (q *Quantized) add(name string, w *quantizedWeight) error {
	if q.weights[name] != nil {
		return fmt.Errorf("%w: it is quantized in two ways", ErrFormat)
	}
	for _, p := range w.parts {
		if _, ok := q.tensorFiles.Info(p); !ok {
			return fmt.Errorf("%w: %q, which belongs to it, is missing", ErrFormat, p)
		}
		q.parts[p] = true
	}
	q.weights[name] = w
	return nil
}

func (q *Quantized) addBNB(name, stateName, kind string) error {
	text, err := q.raw(stateName)
	if err != nil {
		return err
	}
	state, err := parseQuantState(text)
	if err != nil {
		return err
	}
	if kind != state.Kind {
		return fmt.Errorf("%w: its quant_state says %q", ErrFormat, state.Kind)
	}
	w := &quantizedWeight{prefix: name, shape: state.Shape, format: formatBNB + " " + state.Kind, state: state,
		parts: []string{name, name + ".absmax", name + ".quant_map", stateName}}
	if state.NestedOffset != nil {
		w.format += " double"
		w.parts = append(w.parts, name+".nested_absmax", name+".nested_quant_map")
	}
	return q.add(name, w)
}

func (q *Quantized) addPacked(layer, folder string) error {
	if q.packing == nil {
		var err error
		if q.packing, err = readQuantization(folder); err != nil {
			return err
		}
	}
	info, _ := q.tensorFiles.Info(layer + ".qweight")
	if len(info.Shape) != 2 || info.Shape[0] > 1<<28 || info.Shape[1] > 1<<28 {
		return fmt.Errorf("%w: shape %v", ErrFormat, info.Shape)
	}
	w := &quantizedWeight{prefix: layer, parts: []string{layer + ".qweight", layer + ".qzeros", layer + ".scales"}}
	switch q.packing.Method {
	case methodAWQ:
		w.shape, w.format = []int{8 * info.Shape[1], info.Shape[0]}, formatAWQ
	case methodGPTQ:
		w.shape, w.format = []int{info.Shape[1], 8 * info.Shape[0]}, formatGPTQ
		if _, ok := q.tensorFiles.Info(layer + ".g_idx"); ok {
			w.parts = append(w.parts, layer+".g_idx")
		}
		q.hideZeroBias(layer + ".bias")
	default:
		return fmt.Errorf("%w: the quant_method %q has no such tensors", ErrFormat, q.packing.Method)
	}
	return q.add(layer+".weight", w)
}

// hideZeroBias leaves a bias of zeros out of Names: AutoGPTQ writes one for every layer, whether the model has it or
// not.
func (q *Quantized) hideZeroBias(name string) {
	bias, _, err := q.Floats(name)
	if err == nil && !slices.ContainsFunc(bias, func(v float32) bool { return v != 0 }) {
		q.parts[name] = true
	}
}

// readQuantization reads how a folder's checkpoint was quantized: from config.json, or from the quantize_config.json of
// older AutoGPTQ.
func readQuantization(folder string) (*Quantization, error) {
	text, err := readSmall(filepath.Join(folder, "config.json"), maxSmallBytes)
	if err != nil {
		return nil, err
	}
	var config struct {
		Quantization json.RawMessage `json:"quantization_config"`
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, fmt.Errorf("%w: config.json: %w", ErrFormat, err)
	}
	if config.Quantization != nil {
		return ParseQuantization(config.Quantization)
	}
	text, err = readSmall(filepath.Join(folder, "quantize_config.json"), maxSmallBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: config.json has no quantization_config, which says how it is packed", ErrFormat)
	}
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, fmt.Errorf("%w: quantize_config.json: %w", ErrFormat, err)
	}
	if fields["quant_method"] == nil {
		fields["quant_method"] = methodGPTQ
	}
	if text, err = json.Marshal(fields); err != nil {
		return nil, err
	}
	return ParseQuantization(text)
}

// maxSmallBytes bounds the JSON files beside the weights.
const maxSmallBytes = 16 << 20

// readSmall reads a regular file of at most limit bytes; another is ErrFormat.
func readSmall(path string, limit int64) ([]byte, error) {
	text, err := bounded.ReadFile(path, limit)
	if errors.Is(err, bounded.ErrTooLong) || errors.Is(err, bounded.ErrNotRegular) {
		err = fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return text, err
}

// Names lists the tensors, weights under their plain names, sorted.
func (q *Quantized) Names() []string {
	var out []string
	for _, name := range q.tensorFiles.Names() {
		if !q.parts[name] {
			out = append(out, name)
		}
	}
	for name := range q.weights {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// Info describes a tensor without reading it.
func (q *Quantized) Info(name string) (Info, bool) {
	w := q.weights[name]
	if w == nil {
		return q.tensorFiles.Info(name)
	}
	out := Info{Shape: slices.Clone(w.shape), Format: w.format}
	for i, p := range w.parts {
		part, _ := q.tensorFiles.Info(p)
		out.Bytes += part.Bytes
		if i == 0 {
			out.File = part.File
		}
	}
	return out, true
}

// Matrix returns a two-dimensional tensor; a quantized one is unpacked into new memory, without loss (see
// quant.Blocks4, PackedAWQ, PackedGPTQ).
func (q *Quantized) Matrix(name string) (*quant.Matrix, error) {
	w := q.weights[name]
	if w == nil {
		return q.tensorFiles.Matrix(name)
	}
	var m *quant.Matrix
	var err error
	if w.state == nil {
		m, err = q.packed(w)
	} else {
		var b *quant.Blocks4
		if b, err = q.blocks(w); err == nil {
			m, err = b.Matrix()
		}
	}
	if errors.Is(err, quant.ErrBlocks4) || errors.Is(err, quant.ErrPacked4) {
		err = fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if err != nil {
		return nil, fmt.Errorf("tensor %q: %w", name, err)
	}
	return m, nil
}

// Release implements Source.
func (q *Quantized) Release(name string) {
	w := q.weights[name]
	if w == nil {
		q.tensorFiles.Release(name)
		return
	}
	for _, p := range w.parts {
		q.tensorFiles.Release(p)
	}
}

// blocks reads a weight in bitsandbytes' form. The packed codes may be stored as any type (quant_storage): only their
// bytes count.
func (q *Quantized) blocks(w *quantizedWeight) (*quant.Blocks4, error) {
	codes, err := q.table(w.prefix+".quant_map", 16)
	if err != nil {
		return nil, err
	}
	b := &quant.Blocks4{Codes: (*[16]float32)(codes), Rows: w.shape[0], Cols: w.shape[1], BlockLen: w.state.BlockLen}
	if b.Packed, err = q.raw(w.prefix); err != nil {
		return nil, err
	}
	if w.state.NestedOffset == nil {
		b.Absmax, _, err = q.Floats(w.prefix + ".absmax")
		return b, err
	}
	n := &quant.Nested8{BlockLen: w.state.NestedLen, Offset: *w.state.NestedOffset}
	b.Nested = n
	table, err := q.table(w.prefix+".nested_quant_map", 256)
	if err != nil {
		return nil, err
	}
	n.Map = (*[256]float32)(table)
	if info, _ := q.tensorFiles.Info(w.prefix + ".absmax"); info.Format != "U8" {
		return nil, fmt.Errorf("%w: nested absmaxes of type %s, not U8", ErrFormat, info.Format)
	}
	if n.Codes, err = q.raw(w.prefix + ".absmax"); err != nil {
		return nil, err
	}
	n.Absmax, _, err = q.Floats(w.prefix + ".nested_absmax")
	return b, err
}

// table reads a vector of n floats.
func (q *Quantized) table(name string, n int) ([]float32, error) {
	v, _, err := q.Floats(name)
	if err == nil && len(v) != n {
		err = fmt.Errorf("%w: %q has %d values, want %d", ErrFormat, name, len(v), n)
	}
	return v, err
}

// packed reads a weight in AWQ's or GPTQ's form.
func (q *Quantized) packed(w *quantizedWeight) (m *quant.Matrix, err error) {
	var words, zeros, groupOf []int32
	if words, _, err = q.Ints(w.prefix + ".qweight"); err != nil {
		return nil, err
	}
	if zeros, _, err = q.Ints(w.prefix + ".qzeros"); err != nil {
		return nil, err
	}
	scales, _, err := q.Floats(w.prefix + ".scales")
	if err != nil {
		return nil, err
	}
	if info, _ := q.tensorFiles.Info(w.prefix + ".scales"); info.Format != "F16" {
		for _, s := range scales {
			if quant.F16ToF32(quant.F32ToF16(s)) != s {
				return nil, fmt.Errorf("%w: scales of type %s that binary16 does not hold", ErrUnsupported, info.Format)
			}
		}
	}
	out, in, group := w.shape[0], w.shape[1], q.packing.GroupLen
	if group == 0 {
		group = in
	}
	if q.packing.Method == methodAWQ {
		m, err = (&quant.PackedAWQ{In: in, Out: out, GroupLen: group, QWeight: words, QZeros: zeros,
			Scales: scales}).Matrix()
	} else {
		if slices.Contains(w.parts, w.prefix+".g_idx") {
			if groupOf, _, err = q.Ints(w.prefix + ".g_idx"); err != nil {
				return nil, err
			}
		}
		m, err = (&quant.PackedGPTQ{In: in, Out: out, GroupLen: group, QWeight: words, QZeros: zeros, Scales: scales,
			GroupOf: groupOf, ZeroLess: q.packing.ZeroLess}).Matrix()
	}
	return m, err
}
