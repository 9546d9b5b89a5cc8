package train

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"weft/adapters/peft"
	"weft/internal/rng"
	"weft/quant"
	"weft/runtime/model"
	"weft/runtime/weights"
)

// Scratch are the weights of an untrained model, as transformers initializes them: matrices normal with the
// configuration's initializer_range, the embedding of its pad_token_id and biases zero, norms one (Gemma's, to which
// one is added, zero). They are functions of seed, tensor and row; a tensor is computed when it is read.
type Scratch struct {
	shapes map[string][]int
	std    float64
	pad    int // row of the embedding, or -1
	norm   float32
	seed   uint64
}

var _ weights.Source = (*Scratch)(nil)

// NewScratch returns the weights for a config.json, whose text is given too.
func NewScratch(config []byte, c *model.Config, seed uint64) (*Scratch, error) {
	var h struct {
		Range *float64 `json:"initializer_range"`
	}
	if err := json.Unmarshal(config, &h); err != nil {
		return nil, fmt.Errorf("%w: config.json: %w", ErrConfig, err)
	}
	s := &Scratch{shapes: shapesOf(c), std: 0.02, pad: -1, norm: 1, seed: seed}
	if h.Range != nil {
		s.std = *h.Range
	}
	if !(s.std >= 0 && s.std <= 10) {
		return nil, fmt.Errorf("%w: config.json: initializer_range %v: 0 to 10", ErrConfig, s.std)
	}
	if c.Pad != nil {
		s.pad = *c.Pad
	}
	if c.NormPlusOne {
		s.norm = 0
	}
	return s, nil
}

// shapesOf lists a model's tensors as in its files.
func shapesOf(c *model.Config) map[string][]int {
	out := map[string][]int{"model.norm.weight": {c.Hidden}}
	for _, s := range peft.Sites(c) {
		if !s.Head() || !c.Tied {
			out[s.Path+".weight"] = []int{s.Out, s.In}
		}
		if s.Bias {
			out[s.Path+".bias"] = []int{s.Out}
		}
	}
	for l := range c.Layers {
		block := "model.layers." + strconv.Itoa(l) + "."
		norms := []string{"input_layernorm", "post_attention_layernorm"}
		if c.SandwichNorm {
			norms = append(norms, "pre_feedforward_layernorm", "post_feedforward_layernorm")
		}
		for _, n := range norms {
			out[block+n+".weight"] = []int{c.Hidden}
		}
		if c.QKNorm {
			out[block+"self_attn.q_norm.weight"], out[block+"self_attn.k_norm.weight"] = []int{c.HeadDim},
				[]int{c.HeadDim}
		}
	}
	return out
}

// Names implements weights.Source.
func (s *Scratch) Names() []string { return slices.Sorted(maps.Keys(s.shapes)) }

// Info implements weights.Source.
func (s *Scratch) Info(name string) (weights.Info, bool) {
	shape, ok := s.shapes[name]
	n := int64(4)
	for _, d := range shape {
		n *= int64(d)
	}
	return weights.Info{Shape: slices.Clone(shape), Format: "F32", Bytes: n}, ok
}

// Matrix implements weights.Source.
func (s *Scratch) Matrix(name string) (*quant.Matrix, error) {
	shape := s.shapes[name]
	if len(shape) != 2 {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	m := &quant.Matrix{Layout: quant.F32, Rows: shape[0], Cols: shape[1], Data: make([]byte, 4*shape[0]*shape[1])}
	tensor, padded := uint64(slices.Index(s.Names(), name)), name == "model.embed_tokens.weight"
	fill := func(begin, end int) {
		for r := begin; r < end; r++ {
			if padded && r == s.pad {
				continue
			}
			random := rng.New(s.seed, streamScratch, tensor, uint64(r))
			for v := range slices.Chunk(m.Data[4*r*m.Cols:][:4*m.Cols], 4) {
				binary.LittleEndian.PutUint32(v, math.Float32bits(float32(s.std*random.Normal())))
			}
		}
	}
	workers := min(runtime.GOMAXPROCS(0), m.Rows)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() { fill(w*m.Rows/workers, (w+1)*m.Rows/workers) })
	}
	wg.Wait()
	return m, nil
}

// Vector implements weights.Source.
func (s *Scratch) Vector(name string) ([]float32, error) {
	shape := s.shapes[name]
	if len(shape) != 1 {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	v := make([]float32, shape[0])
	if !strings.HasSuffix(name, ".bias") {
		for i := range v {
			v[i] = s.norm
		}
	}
	return v, nil
}

// Release implements weights.Source.
func (s *Scratch) Release(string) {}

// Close implements weights.Source.
func (s *Scratch) Close() error { return nil }
