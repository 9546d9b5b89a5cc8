package peft

import (
	"fmt"

	"weft/quant"
	"weft/runtime/lora"
	"weft/runtime/model"
	"weft/runtime/weights"
)

// Base is the model that an adapter is for. Config alone decides whether an adapter fits; the weights are read for
// DoRA's norms, for biases, and to recognize the unchanged embedding that some adapters bring along.
type Base interface {
	// Name is what the adapter's base_model_name_or_path is compared with, for a warning.
	Name() string
	Config() *model.Config
	// Matrix, Vector and Release are those of weights.Source, by Hugging Face name.
	Matrix(name string) (*quant.Matrix, error)
	Vector(name string) ([]float32, error)
	Release(name string)
}

// ModelFile is the Base of a model's files; nothing is loaded on a device. Close it after use.
type ModelFile struct {
	weights.Source
	name string
	cfg  *model.Config
}

// OpenModel opens a Hugging Face folder or a GGUF file as a Base.
func OpenModel(path, name string) (*ModelFile, error) {
	src, err := weights.Open(path)
	if err != nil {
		return nil, err
	}
	cfg, err := model.ConfigOf(path, src)
	if err != nil {
		src.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &ModelFile{src, name, cfg}, nil
}

// Name implements Base.
func (m *ModelFile) Name() string { return m.name }

// Config implements Base.
func (m *ModelFile) Config() *model.Config { return m.cfg }

// site is a linear layer of the base as stored in its files: W [out, in]. A fused one (Phi-3) contains several target
// modules, one after the other by rows.
type site struct {
	path    string
	layer   int // -1: the head
	out, in int
	parts   []part
	bias    bool // the base has one
}

// part is the part of a site for one target module: rows [begin, end) of its weight.
type part struct {
	target     lora.Target
	begin, end int
}

// sites lists the linear layers of the blocks and, last, the head.
func sites(c *model.Config) []site {
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	var out []site
	for l := range c.Layers {
		add := func(name string, in int, bias bool, targets []lora.Target, rows ...int) {
			s := site{path: fmt.Sprintf("model.layers.%d.%s", l, name), layer: l, in: in, bias: bias}
			for i, t := range targets {
				s.parts = append(s.parts, part{t, s.out, s.out + rows[i]})
				s.out += rows[i]
			}
			out = append(out, s)
		}
		one := func(t lora.Target) []lora.Target { return []lora.Target{t} }
		if c.Fused {
			add("self_attn.qkv_proj", c.Hidden, false, []lora.Target{lora.QProj, lora.KProj, lora.VProj}, q, kv, kv)
		} else {
			add("self_attn.q_proj", c.Hidden, c.QKVBias, one(lora.QProj), q)
			add("self_attn.k_proj", c.Hidden, c.QKVBias, one(lora.KProj), kv)
			add("self_attn.v_proj", c.Hidden, c.QKVBias, one(lora.VProj), kv)
		}
		add("self_attn.o_proj", q, c.OBias, one(lora.OProj), c.Hidden)
		if c.Fused {
			add("mlp.gate_up_proj", c.Hidden, false, []lora.Target{lora.GateProj, lora.UpProj}, c.FFN, c.FFN)
		} else {
			add("mlp.gate_proj", c.Hidden, c.MLPBias, one(lora.GateProj), c.FFN)
			add("mlp.up_proj", c.Hidden, c.MLPBias, one(lora.UpProj), c.FFN)
		}
		add("mlp.down_proj", c.FFN, c.MLPBias, one(lora.DownProj), c.Hidden)
	}
	return append(out, site{path: headPath, layer: -1, out: c.Vocab, in: c.Hidden})
}

// Site is a module that an adapter may change, as stored in the base's files: W [Out, In].
type Site struct {
	Path    string        // "model.layers.0.self_attn.q_proj", "model.embed_tokens", "lm_head"
	Layer   int           // -1 outside of the blocks
	Targets []lora.Target // its target modules, by rows; several where it is fused, none outside of the blocks
	Out, In int           // [V, H] of the embedding
	Bias    bool          // the base has one
}

// Sites lists the modules that can be adapted: the embedding, the linear layers of the blocks in their order, the head.
func Sites(c *model.Config) []Site {
	out := []Site{{Path: embedPath, Layer: -1, Out: c.Vocab, In: c.Hidden}}
	for _, s := range sites(c) {
		o := Site{Path: s.path, Layer: s.layer, Out: s.out, In: s.in, Bias: s.bias}
		for _, p := range s.parts {
			o.Targets = append(o.Targets, p.target)
		}
		out = append(out, o)
	}
	return out
}

// Embedding reports whether it is the embedding.
func (s *Site) Embedding() bool { return s.Path == embedPath }

// Head reports whether it is the output head.
func (s *Site) Head() bool { return s.Path == headPath }
