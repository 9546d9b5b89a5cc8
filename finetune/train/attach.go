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
	"weft/internal/rng"
	"weft/runtime/device"
	"weft/runtime/model"
)

// adapted is one module that LoRA is attached to.
type adapted struct {
	peft.Site
	rank  int
	alpha float64
	lora  *grad.LoRA
}

// scale is alpha/r, or alpha/sqrt(r) for rsLoRA (Kalajdzievski 2023, arXiv:2312.03732).
func (a *adapted) scale(rs bool) float32 {
	if rs {
		return float32(a.alpha / math.Sqrt(float64(a.rank)))
	}
	return float32(a.alpha / float64(a.rank))
}

// plan lists the modules that the settings select by PEFT's rules (peft.Config.Select), in the model's order.
func (c *Config) plan(m *model.Config) ([]adapted, error) {
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
	var names []string
	sites := peft.Sites(m)
	if err := c.checkExclude(sites); err != nil {
		return nil, err
	}
	for _, s := range sites {
		if name := lastName(s.Path); !slices.Contains(names, name) {
			names = append(names, name)
		}
		if s.Layer >= 0 && len(c.LayersToTransform) > 0 && !slices.Contains(c.LayersToTransform, s.Layer) {
			continue
		}
		if rank, alpha, ok := choose(s.Path); ok {
			if s.Embedding() && c.DoRA {
				return nil,
					fmt.Errorf(
						"%w: use_dora with %s in target_modules: DoRA on the embedding is not served; name it in "+
							"modules_to_save, or leave one of them out", ErrConfig, s.Path)
			}
			out = append(out, adapted{Site: s, rank: rank, alpha: alpha})
		}
	}
	for _, t := range c.TargetModules {
		ofPlan := func(a adapted) bool { return ends(a.Path, t) }
		leftOut := func(s peft.Site) bool { return ends(s.Path, t) && len(c.ExcludeModules)+len(c.ModulesToSave) > 0 }
		if len(out) == 0 || list.Targets.Pattern == "" && !slices.ContainsFunc(out, ofPlan) &&
			!slices.ContainsFunc(sites, leftOut) {
			return nil,
				fmt.Errorf(
					"%w: target_modules: %q matches no layer that modules_to_save and exclude_modules leave; the "+
						"model has %s", ErrConfig, t, strings.Join(names, ", "))
		}
	}
	return out, nil
}

// modulesToSave are the valid names in modules_to_save.
var modulesToSave = []string{"lm_head", "embed_tokens", "model.embed_tokens"}

func lastName(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

// ends reports whether a name is a path or its last parts.
func ends(path, name string) bool { return path == name || strings.HasSuffix(path, "."+name) }

// peft returns the settings as an adapter's configuration.
func (c *Config) peft() (peft.Config, error) {
	p := peft.Config{
		Rank: c.Rank, Alpha: c.Alpha, Dropout: c.Dropout, Targets: modules(c.TargetModules),
		Exclude: modules(c.ExcludeModules), Layers: c.LayersToTransform,
		RSLoRA: c.RsLoRA, DoRA: c.DoRA, Bias: c.Bias, Save: c.ModulesToSave,
	}
	var err error
	if p.RankPattern, err = patterns("rank_pattern", c.RankPattern, 1, 4096); err != nil {
		return p, err
	}
	p.AlphaPattern, err = patterns("alpha_pattern", c.AlphaPattern, 0, 1e6)
	return p, err
}

// modules returns names; a single one with characters of a regular expression, or all-linear, matches whole paths.
func modules(list []string) peft.Modules {
	if len(list) == 1 && (list[0] == peft.AllLinear || strings.ContainsAny(list[0], `\*+?()[]{}|^$`)) {
		return peft.Modules{Pattern: list[0]}
	}
	return peft.Modules{Names: list}
}

// checkExclude refuses entries that exclude nothing.
func (c *Config) checkExclude(sites []peft.Site) error {
	of := func(m peft.Modules, what string) error {
		leaves, err := (&peft.Config{Targets: m}).Select()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrConfig, err)
		}
		if !slices.ContainsFunc(sites, func(s peft.Site) bool { _, _, ok := leaves(s.Path); return ok }) {
			return fmt.Errorf("%w: exclude_modules: %q matches no layer", ErrConfig, what)
		}
		return nil
	}
	if m := modules(c.ExcludeModules); m.Pattern != "" {
		return of(m, m.Pattern)
	}
	for _, name := range c.ExcludeModules {
		if err := of(peft.Modules{Names: []string{name}}, name); err != nil {
			return err
		}
	}
	return nil
}

// patterns are sorted by key, as PEFT saves them: if several match a layer, the first counts.
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

// attach adds the trained parameters to the model: LoRA A and B matrices, biases, copies of whole modules. own counts
// those parameters that the base has already.
func (c *Config) attach(dev device.Device, g *grad.Model, frozen *model.Frozen, plan []adapted) (own int64, err error) {
	random := rng.New(c.Seed, streamInit)
	for i := range plan {
		if err := c.attachLoRA(dev, g, &plan[i], random); err != nil {
			return 0, err
		}
	}
	list, err := c.peft()
	if err != nil {
		return 0, err
	}
	for _, s := range peft.Sites(frozen.Config) {
		name := peftPrefix + s.Path
		switch {
		case list.Saves(s.Path) && s.Embedding():
			err = g.AttachEmbed(name + ".weight")
		case list.Saves(s.Path):
			err = g.AttachHead(name + ".weight")
		case s.Bias && c.Bias != peft.BiasNone:
			onLoRA := slices.ContainsFunc(plan, func(a adapted) bool { return a.Path == s.Path })
			if onLoRA {
				name += ".base_layer"
			}
			if onLoRA || c.Bias == peft.BiasAll {
				var p *grad.Param
				if p, err = g.AttachBias(s.Layer, s.Targets[0], name+".bias"); err == nil {
					own += int64(p.Len())
				}
			}
		}
		if err != nil {
			return 0, err
		}
	}
	return own, nil
}

// refusedInit says why a value of init_lora_weights is not offered, "" where it is. Those that change the base's
// weights would need a base of their own in memory beside the one that is served.
func refusedInit(value string) string {
	const offered = "; weft offers true and gaussian, and serves adapters that PEFT trained with it (docs/adapters.md)"
	switch {
	case value == "true" || value == "gaussian":
		return ""
	case value == "pissa" || value == "olora":
		return fmt.Sprintf("init_lora_weights %s changes the base's weights, and weft trains on those that it serves%s",
			value, offered)
	case slices.Contains([]string{"false", "orthogonal", "eva", "mica"}, value):
		return fmt.Sprintf("init_lora_weights %s is not offered in training%s", value, offered)
	}
	return fmt.Sprintf("init_lora_weights %.200q: one of true, gaussian", value)
}

// attachLoRA initializes A and B as PEFT does: A uniform in ±1/√in, or normal with deviation 1/r for gaussian, and B
// zero; of the embedding A zero and B normal.
func (c *Config) attachLoRA(dev device.Device, g *grad.Model, a *adapted, random *rng.Source) error {
	nameA, nameB, in, out := ".lora_A.weight", ".lora_B.weight", a.In, a.Out
	if a.Embedding() {
		nameA, nameB, in, out = ".lora_embedding_A", ".lora_embedding_B", a.Out, a.In
	}
	A, err := grad.NewParam(dev, peftPrefix+a.Path+nameA, a.rank, in)
	if err != nil {
		return err
	}
	B, err := grad.NewParam(dev, peftPrefix+a.Path+nameB, out, a.rank)
	if err != nil {
		return err
	}
	a.lora = &grad.LoRA{A: A, B: B, Scale: a.scale(c.RsLoRA), Dropout: float32(c.Dropout)}
	if a.Embedding() {
		for j, v := 0, B.Values(); j < len(v); j++ {
			v[j] = float32(random.Normal())
		}
		g.AttachEmbedLoRA(a.lora)
		return nil
	}
	bound := 1 / math.Sqrt(float64(in))
	for j, v := 0, A.Values(); j < len(v); j++ {
		if c.InitWeights == "gaussian" {
			v[j] = float32(random.Normal() / float64(a.rank))
			continue
		}
		v[j] = float32((2*random.Float64() - 1) * bound)
	}
	if c.DoRA {
		if a.lora.Magnitude, err = grad.NewVector(dev, peftPrefix+a.Path+".lora_magnitude_vector", out); err != nil {
			return err
		}
	}
	if a.Head() {
		g.AttachHeadLoRA(a.lora)
	} else {
		g.AttachLoRA(a.Layer, a.Targets, a.lora)
	}
	return nil
}

// Streams of random values, each with its own seed.
const (
	streamInit = iota + 1
	streamDropout
	streamScratch
)
