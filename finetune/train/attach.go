package train

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

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

// plan lists the projections that the settings name, in the model's order, with PEFT's rules: a list matches names or suffixes of paths, one expression the whole
// path, all-linear everything but the head; patterns match suffixes, the first in the order of their text wins.
func (c *Config) plan(m *model.Config) ([]adapted, error) {
	if m.Fused {
		return nil, fmt.Errorf("%w: the projections of %s are stored fused; LoRA is not trained on them", ErrConfig, m.Architecture)
	}
	for _, l := range c.LayersToTransform {
		if l < 0 || l >= m.Layers {
			return nil, fmt.Errorf("%w: layers_to_transform names block %d, the model has %d", ErrConfig, l, m.Layers)
		}
	}
	ranks, err := patterns("rank_pattern", c.RankPattern, 1, 4096)
	if err != nil {
		return nil, err
	}
	alphas, err := patterns("alpha_pattern", c.AlphaPattern, 0, 1e6)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	var out []adapted
	for l := range m.Layers {
		if len(c.LayersToTransform) > 0 && !slices.Contains(c.LayersToTransform, l) {
			continue
		}
		for t, name := range grad.Projections {
			path := fmt.Sprintf("model.layers.%d.%s", l, name)
			by := c.targeted(path)
			if by == "" {
				continue
			}
			used[by] = true
			a := adapted{layer: l, target: lora.Target(t), path: path, rank: c.Rank, alpha: c.Alpha}
			if v, ok := match(ranks, path); ok {
				a.rank = int(v)
			}
			if v, ok := match(alphas, path); ok {
				a.alpha = v
			}
			out = append(out, a)
		}
	}
	for _, t := range c.TargetModules {
		if !used[t] {
			return nil, fmt.Errorf("%w: target_modules: %q matches no layer; the model has %s", ErrConfig, t, strings.Join(grad.Projections[:], ", "))
		}
	}
	return out, nil
}

// targeted returns the entry of TargetModules that names path, or "".
func (c *Config) targeted(path string) string {
	for _, t := range c.TargetModules {
		if t == "all-linear" || path == t || strings.HasSuffix(path, "."+t) {
			return t
		}
	}
	if len(c.TargetModules) == 1 {
		if re, err := regexp.Compile("^(?:" + c.TargetModules[0] + ")$"); err == nil && re.MatchString(path) {
			return c.TargetModules[0]
		}
	}
	return ""
}

type pattern struct {
	re    *regexp.Regexp
	value float64
}

func patterns(key string, in map[string]string, lo, hi float64) ([]pattern, error) {
	var out []pattern
	names := make([]string, 0, len(in))
	for k := range in {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		re, err := regexp.Compile(`^(?:.*\.)?(?:` + k + ")$")
		if err != nil {
			return nil, fmt.Errorf("%w: %s %q: %w", ErrConfig, key, k, err)
		}
		v, err := strconv.ParseFloat(in[k], 64)
		if err != nil || v < lo || v > hi || key == "rank_pattern" && v != math.Trunc(v) {
			return nil, fmt.Errorf("%w: %s %s=%s: a number from %v to %v is expected", ErrConfig, key, k, in[k], lo, hi)
		}
		out = append(out, pattern{re, v})
	}
	return out, nil
}

func match(list []pattern, path string) (float64, bool) {
	for _, p := range list {
		if p.re.MatchString(path) {
			return p.value, true
		}
	}
	return 0, false
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
			if a.lora.Magnitude, err = grad.NewParam(dev, peftPrefix+a.path+".lora_magnitude_vector", w.Rows(), 1); err != nil {
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
