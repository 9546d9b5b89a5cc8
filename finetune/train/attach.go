package train

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"weft/adapters/peft"
	"weft/finetune/grad"
	"weft/runtime/device"
	"weft/runtime/lora"
	"weft/runtime/model"
)

// adapted is one projection that LoRA is put on.
type adapted struct {
	layer  int
	target lora.Target
	path   string // model.layers.N.self_attn.q_proj
	rank   int
	alpha  float64
	lora   *grad.LoRA
	bias   *grad.Param
}

// scale is alpha/r, or alpha/sqrt(r) for rsLoRA (Kalajdzievski 2023, arXiv:2312.03732).
func (a *adapted) scale(rs bool) float32 {
	if rs {
		return float32(a.alpha / math.Sqrt(float64(a.rank)))
	}
	return float32(a.alpha / float64(a.rank))
}

// plan lists the projections that the settings name by PEFT's rules (peft.Config.Select), in the model's order.
func (c *Config) plan(m *model.Config) ([]adapted, error) {
	if m.Fused {
		return nil, fmt.Errorf("%w: the projections of %s are stored fused; LoRA is not trained on them", ErrConfig, m.Architecture)
	}
	for _, l := range c.LayersToTransform {
		if l < 0 || l >= m.Layers {
			return nil, fmt.Errorf("%w: layers_to_transform names block %d, the model has %d", ErrConfig, l, m.Layers)
		}
	}
	list, err := c.peft()
	if err != nil {
		return nil, err
	}
	choose, err := list.Select()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	var out []adapted
	for l := range m.Layers {
		if len(c.LayersToTransform) > 0 && !slices.Contains(c.LayersToTransform, l) {
			continue
		}
		for t, name := range grad.Projections {
			path := fmt.Sprintf("model.layers.%d.%s", l, name)
			if rank, alpha, ok := choose(path); ok {
				out = append(out, adapted{layer: l, target: lora.Target(t), path: path, rank: rank, alpha: alpha})
			}
		}
	}
	for _, t := range c.TargetModules {
		named := func(a adapted) bool { return a.path == t || strings.HasSuffix(a.path, "."+t) }
		if len(out) == 0 || list.Targets.Pattern == "" && !slices.ContainsFunc(out, named) {
			return nil, fmt.Errorf("%w: target_modules: %q matches no layer; the model has %s", ErrConfig, t, strings.Join(grad.Projections[:], ", "))
		}
	}
	return out, nil
}

// peft is what the settings say as an adapter's configuration. One target that is no layer's name is an expression for whole paths.
func (c *Config) peft() (peft.Config, error) {
	p := peft.Config{
		Rank: c.Rank, Alpha: c.Alpha, Dropout: c.Dropout, Targets: peft.Modules{Names: c.TargetModules}, Layers: c.LayersToTransform, RSLoRA: c.RsLoRA, DoRA: c.DoRA, Bias: c.Bias,
	}
	named := func(path string) bool {
		return path == c.TargetModules[0] || strings.HasSuffix(path, "."+c.TargetModules[0])
	}
	if len(c.TargetModules) == 1 && !slices.ContainsFunc(grad.Projections[:], named) {
		p.Targets = peft.Modules{Pattern: c.TargetModules[0]}
	}
	var err error
	if p.RankPattern, err = patterns("rank_pattern", c.RankPattern, 1, 4096); err != nil {
		return p, err
	}
	p.AlphaPattern, err = patterns("alpha_pattern", c.AlphaPattern, 0, 1e6)
	return p, err
}

// patterns are sorted by key, as PEFT saves them: where several match a layer, the first counts.
func patterns(key string, in map[string]string, lo, hi float64) ([]peft.Pattern, error) {
	var out []peft.Pattern
	for _, k := range slices.Sorted(maps.Keys(in)) {
		v, err := strconv.ParseFloat(in[k], 64)
		if err != nil || !(v >= lo && v <= hi) || key == "rank_pattern" && v != math.Trunc(v) {
			return nil, fmt.Errorf("%w: %s %s=%s: a number from %v to %v is expected", ErrConfig, key, k, in[k], lo, hi)
		}
		out = append(out, peft.Pattern{Key: k, Value: v})
	}
	return out, nil
}

const peftPrefix = "base_model.model."

// attach makes the factors, A uniform in ±1/√in as PEFT's default, B zero, and puts them on the model.
func (c *Config) attach(dev device.Device, g *grad.Model, frozen *model.Frozen, plan []adapted) error {
	rng := newRandom(c.Seed, streamInit)
	for i := range plan {
		a := &plan[i]
		w := frozen.Blocks[a.layer].Linear[a.target]
		A, err := grad.NewParam(dev, peftPrefix+a.path+".lora_A.weight", a.rank, w.Cols())
		if err != nil {
			return err
		}
		B, err := grad.NewParam(dev, peftPrefix+a.path+".lora_B.weight", w.Rows(), a.rank)
		if err != nil {
			return err
		}
		bound := 1 / math.Sqrt(float64(w.Cols()))
		for j, v := 0, A.Values(); j < len(v); j++ {
			v[j] = float32((2*rng.float() - 1) * bound)
		}
		a.lora = &grad.LoRA{A: A, B: B, Scale: a.scale(c.RsLoRA), Dropout: float32(c.Dropout)}
		if c.DoRA {
			if a.lora.Magnitude, err = grad.NewVector(dev, peftPrefix+a.path+".lora_magnitude_vector", w.Rows()); err != nil {
				return err
			}
		}
		g.AttachLoRA(a.layer, a.target, a.lora)
		if b := frozen.Blocks[a.layer].Bias[a.target]; c.Bias == "lora_only" && b != nil {
			if a.bias, err = g.AttachBias(a.layer, a.target, peftPrefix+a.path+".base_layer.bias"); err != nil {
				return err
			}
		}
	}
	return nil
}

// Streams of random numbers, each of its own seed.
const (
	streamInit = iota + 1
	streamDropout
)

// random is SplitMix64 (Steele, Lea, Flood 2014): the same numbers everywhere, for ever.
type random struct{ state uint64 }

func newRandom(seed uint64, stream ...uint64) *random {
	r := &random{seed}
	for _, s := range stream {
		r.state = r.next() ^ s*0x9e3779b97f4a7c15
	}
	return r
}

func (r *random) next() uint64 {
	r.state += 0x9e3779b97f4a7c15
	z := r.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// float is uniform in [0, 1).
func (r *random) float() float64 { return float64(r.next()>>11) / (1 << 53) }
