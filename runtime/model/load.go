package model

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"weft/internal/bounded"
	"weft/quant"
	"weft/runtime/device"
	"weft/runtime/weights"
)

// Options size a model's working memory.
type Options struct {
	MaxBatchTokens int // tokens of one Forward
	MaxLogitRows   int // rows of one Logits
	MaxContext     int // positions; 0, or more than the configuration has: the configuration's

	// Wrap, if set, wraps the file's weights, as weights.FourBit does.
	Wrap func(weights.Source) weights.Source
}

// Open reads the configuration and the weights of a Hugging Face folder or a GGUF file and loads them.
func Open(path string, dev device.Device, opt Options) (Model, error) {
	src, err := weights.Open(path)
	if err != nil {
		return nil, err
	}
	defer src.Close() // closes the file; a wrapper owns nothing
	cfg, err := ConfigOf(path, src)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if opt.Wrap != nil {
		src = opt.Wrap(src)
	}
	m, err := Load(src, cfg, dev, opt)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// Check returns an error if weft does not support the model at path, from its configuration only.
func Check(path string) error {
	src, err := weights.Open(path)
	if err != nil {
		return err
	}
	defer src.Close()
	if _, err := ConfigOf(path, src); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// LeastBytes returns a lower bound of the memory for the weights of the model at path, from the headers of its files
// only: those that Options.Wrap changes are counted as wrap does.
func LeastBytes(path string, wrap func(weights.Source) weights.Source) (int64, error) {
	src, err := weights.Open(path)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	cfg, err := ConfigOf(path, src)
	if err != nil {
		return 0, err
	}
	if wrap != nil {
		src = wrap(src)
	}
	l, err := plan(src, cfg, Options{})
	if err != nil {
		return 0, err
	}
	var sum int64
	for name := range l.used {
		if info, ok := src.Info(name); ok && !(cfg.Tied && name == "lm_head.weight") {
			sum += info.Bytes
		}
	}
	return sum, nil
}

// ConfigOf reads the configuration of the model that src was opened from: GGUF metadata, or the config.json in or
// beside path. No tensor is read, except RoPE's divisors.
func ConfigOf(path string, src weights.Source) (*Config, error) {
	if g, ok := src.(*weights.GGUF); ok {
		has := func(name string) bool { _, ok := g.Info(name); return ok }
		cfg, err := ConfigFromGGUF(g.Meta(), has, g.Vector)
		if err == nil {
			cfg.NormPlusOne = cfg.SandwichNorm && !g.NormsIncludeOne()
		}
		return cfg, err
	}
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		path = filepath.Dir(path)
	}
	text, err := bounded.ReadFile(filepath.Join(path, "config.json"), maxConfigBytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return ParseConfig(text)
}

// loader moves tensors from a source to a device, one at a time, and remembers what it used.
type loader struct {
	src   weights.Source
	dev   device.Device
	cfg   *Config
	used  map[string]bool
	bytes map[string]int64
	held  []string // read and not yet released
	dry   bool     // only check that every tensor exists with its shape
	errs  []error
	free  []interface{ Free() }
}

// Load copies the weights of src to dev. src may be closed afterwards.
func Load(src weights.Source, cfg *Config, dev device.Device, opt Options) (Model, error) {
	if opt.MaxContext <= 0 || opt.MaxContext > cfg.MaxContext {
		opt.MaxContext = cfg.MaxContext
	}
	if opt.MaxBatchTokens < 1 || opt.MaxLogitRows < 1 {
		return nil, fmt.Errorf("%w: %d batch tokens and %d logit rows must be positive", ErrConfig, opt.MaxBatchTokens,
			opt.MaxLogitRows)
	}
	l, err := plan(src, cfg, opt)
	if err != nil {
		return nil, err
	}
	l.dev, l.dry = dev, false
	d := l.decoder(opt)
	if err := l.err(); err != nil {
		for _, f := range l.free {
			f.Free()
		}
		return nil, err
	}
	d.free = l.free
	return d, nil
}

// plan checks the configuration, that every tensor exists with its shape, and that none belongs to nothing. It reads
// none.
func plan(src weights.Source, cfg *Config, opt Options) (*loader, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	l := &loader{src: src, cfg: cfg, used: map[string]bool{}, bytes: map[string]int64{}, dry: true}
	l.decoder(opt)
	l.leftovers()
	return l, l.err()
}

// maxErrors bounds how many tensor errors one error lists.
const maxErrors = 20

func (l *loader) fail(err error) {
	if err != nil {
		l.errs = append(l.errs, err)
	}
}

func (l *loader) err() error {
	if n := len(l.errs); n > maxErrors {
		l.errs = append(l.errs[:maxErrors:maxErrors], fmt.Errorf("and %d more", n-maxErrors))
	}
	return errors.Join(l.errs...)
}

func (l *loader) decoder(opt Options) *decoder {
	c := l.cfg
	d := &decoder{cfg: c, dev: l.dev, opt: opt, bytes: l.bytes}
	d.embed = l.weight(l.matrix("model.embed_tokens.weight", c.Vocab, c.Hidden))
	d.head = d.embed
	if !c.Tied {
		d.head = l.weight(l.matrix("lm_head.weight", c.Vocab, c.Hidden))
	} else {
		l.sameAsEmbedding("lm_head.weight")
	}
	l.release()
	d.finalNorm = l.normWeight("model.norm.weight", c.Hidden)
	d.layers = make([]layer, c.Layers)
	for i := range d.layers {
		l.layer(&d.layers[i], fmt.Sprintf("model.layers.%d.", i))
		l.release()
	}
	if !l.dry && len(l.errs) == 0 {
		l.fail(d.allocate(l))
	}
	return d
}

// sameAsEmbedding accepts a tied head that a file stores a second time, if it equals the embedding.
func (l *loader) sameAsEmbedding(name string) {
	if _, ok := l.src.Info(name); !ok {
		return
	}
	head := l.matrix(name, l.cfg.Vocab, l.cfg.Hidden)
	embed := l.matrix("model.embed_tokens.weight", l.cfg.Vocab, l.cfg.Hidden)
	if head == nil || embed == nil {
		return
	}
	if head.Layout != embed.Layout || !bytes.Equal(head.Data, embed.Data) || !slices.Equal(head.Scales, embed.Scales) ||
		!slices.Equal(head.Mins, embed.Mins) {
		l.fail(fmt.Errorf(
			"%w: the configuration ties the head to the embedding, but %s differs from it: set "+
				"tie_word_embeddings to false", ErrConfig, name))
	}
}

func (l *loader) layer(y *layer, p string) {
	c := l.cfg
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	y.attnNorm = l.normWeight(p+"input_layernorm.weight", c.Hidden)
	if c.Fused {
		l.fused(p+"self_attn.qkv_proj.weight", c.Hidden, []int{q, kv, kv}, []*device.Weight{&y.q, &y.k, &y.v})
		l.fused(p+"mlp.gate_up_proj.weight", c.Hidden, []int{c.FFN, c.FFN}, []*device.Weight{&y.gate, &y.up})
	} else {
		y.q = l.weight(l.matrix(p+"self_attn.q_proj.weight", q, c.Hidden))
		y.k = l.weight(l.matrix(p+"self_attn.k_proj.weight", kv, c.Hidden))
		y.v = l.weight(l.matrix(p+"self_attn.v_proj.weight", kv, c.Hidden))
		y.gate = l.weight(l.matrix(p+"mlp.gate_proj.weight", c.FFN, c.Hidden))
		y.up = l.weight(l.matrix(p+"mlp.up_proj.weight", c.FFN, c.Hidden))
	}
	y.o = l.weight(l.matrix(p+"self_attn.o_proj.weight", c.Hidden, q))
	y.down = l.weight(l.matrix(p+"mlp.down_proj.weight", c.Hidden, c.FFN))
	if c.QKVBias {
		y.qBias, y.kBias, y.vBias = l.vector(p+"self_attn.q_proj.bias", q), l.vector(p+"self_attn.k_proj.bias", kv),
			l.vector(p+"self_attn.v_proj.bias", kv)
	}
	if c.OBias {
		y.oBias = l.vector(p+"self_attn.o_proj.bias", c.Hidden)
	}
	if c.MLPBias {
		y.gateBias, y.upBias, y.downBias = l.vector(p+"mlp.gate_proj.bias", c.FFN),
			l.vector(p+"mlp.up_proj.bias", c.FFN), l.vector(p+"mlp.down_proj.bias", c.Hidden)
	}
	if c.QKNorm {
		y.qNorm, y.kNorm = l.normWeight(p+"self_attn.q_norm.weight", c.HeadDim),
			l.normWeight(p+"self_attn.k_norm.weight", c.HeadDim)
	}
	if c.SandwichNorm {
		y.postAttn = l.normWeight(p+"post_attention_layernorm.weight", c.Hidden)
		y.mlpNorm = l.normWeight(p+"pre_feedforward_layernorm.weight", c.Hidden)
		y.postMLP = l.normWeight(p+"post_feedforward_layernorm.weight", c.Hidden)
	} else {
		y.mlpNorm = l.normWeight(p+"post_attention_layernorm.weight", c.Hidden)
	}
}

// matrix reads a tensor of the given shape, nil after a failure.
func (l *loader) matrix(name string, rows, cols int) *quant.Matrix {
	l.used[name] = true
	info, ok := l.src.Info(name)
	if !ok {
		l.fail(fmt.Errorf("%w: tensor %s is missing", ErrConfig, name))
		return nil
	}
	if !slices.Equal(info.Shape, []int{rows, cols}) {
		l.fail(fmt.Errorf("%w: tensor %s has shape %v, the configuration needs [%d %d]", ErrConfig, name, info.Shape,
			rows, cols))
		return nil
	}
	if l.dry {
		return nil
	}
	m, err := l.src.Matrix(name)
	l.fail(err)
	l.held = append(l.held, name)
	return m
}

// release releases the host memory of the tensors read so far, so that a model is in memory once while it loads.
func (l *loader) release() {
	for _, name := range l.held {
		l.src.Release(name)
	}
	l.held = l.held[:0]
}

// weight packs a matrix on the device.
func (l *loader) weight(m *quant.Matrix) device.Weight {
	if m == nil || len(l.errs) > 0 {
		return nil
	}
	w, err := l.dev.LoadMatrix(device.Weights, m)
	if err != nil {
		l.fail(err)
		return nil
	}
	l.bytes[w.Layout().String()] += w.Bytes()
	l.free = append(l.free, w)
	return w
}

// fused splits the rows of one stored matrix into several weights.
func (l *loader) fused(name string, cols int, rows []int, to []*device.Weight) {
	total := 0
	for _, n := range rows {
		total += n
	}
	m := l.matrix(name, total, cols)
	if m == nil {
		return
	}
	at := 0
	for i, n := range rows {
		*to[i] = l.weight(sliceRows(m, at, at+n))
		at += n
	}
}

// sliceRows returns rows [begin, end) of m, sharing its memory.
func sliceRows(m *quant.Matrix, begin, end int) *quant.Matrix {
	s := *m
	s.Rows = end - begin
	row := len(m.Data) / max(m.Rows, 1)
	s.Data = m.Data[begin*row : end*row]
	g := m.Groups()
	if m.Scales != nil {
		s.Scales = m.Scales[begin*g : end*g]
	}
	if m.Mins != nil {
		s.Mins = m.Mins[begin*g : end*g]
	}
	return &s
}

// values reads a vector of n values, nil after a failure.
func (l *loader) values(name string, n int) []float32 {
	l.used[name] = true
	info, ok := l.src.Info(name)
	if !ok {
		l.fail(fmt.Errorf("%w: tensor %s is missing", ErrConfig, name))
		return nil
	}
	if !slices.Equal(info.Shape, []int{n}) {
		l.fail(fmt.Errorf("%w: tensor %s has shape %v, the configuration needs [%d]", ErrConfig, name, info.Shape,
			n))
		return nil
	}
	if l.dry {
		return nil
	}
	v, err := l.src.Vector(name)
	l.fail(err)
	return v
}

func (l *loader) normWeight(name string, n int) device.Buffer {
	v := l.values(name, n)
	if l.cfg.NormPlusOne {
		v = slices.Clone(v)
		for i := range v {
			v[i]++
		}
	}
	return l.upload(v)
}

func (l *loader) vector(name string, n int) device.Buffer { return l.upload(l.values(name, n)) }

func (l *loader) upload(v []float32) device.Buffer {
	if v == nil || len(l.errs) > 0 {
		return nil
	}
	b, err := l.dev.Alloc(device.Weights, int64(4*len(v)))
	if err == nil {
		l.free = append(l.free, b)
		l.bytes["f32"] += int64(4 * len(v))
		err = b.Write(0, floatBytes(v))
	}
	l.fail(err)
	return b
}

func floatBytes(v []float32) []byte {
	out := make([]byte, 0, 4*len(v))
	for _, x := range v {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(x))
	}
	return out
}

// leftovers refuses tensors that no layer read: a model that silently ignores weights is another model.
func (l *loader) leftovers() {
	var extra []string
	for _, name := range l.src.Names() {
		if !l.used[name] && !l.harmless(name) {
			extra = append(extra, name)
		}
	}
	if n := len(extra); n > 0 {
		list := strings.Join(extra[:min(n, maxErrors)], ", ")
		if n > maxErrors {
			list += ", …"
		}
		l.fail(fmt.Errorf("%w: %d tensors belong to nothing in the configuration: %s", ErrConfig, n, list))
	}
}

// harmless reports whether a tensor that no layer read cannot change what the model computes: the configuration already
// has its content, or it belongs to another head or is no weight.
func (l *loader) harmless(name string) bool {
	rope := &l.cfg.Ropes[0]
	switch name {
	case "rope_freqs.weight":
		return rope.Kind != "longrope" && rope.Short != nil
	case "rope_factors_short.weight", "rope_factors_long.weight":
		return rope.Kind == "longrope"
	}
	info, _ := l.src.Info(name)
	return weights.Harmless(name, info.Shape)
}
