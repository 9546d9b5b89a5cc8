package train

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"weft/adapters/peft"
	"weft/runtime/model"
)

// start is an adapter from which a run starts, with a new optimizer.
type start struct {
	digest string
	values map[string][]float32 // by path and kind, as peft.Adapter.Trained names them
}

// startFrom reads the adapter of init_adapter and checks that it fits the base. Its rank, alpha, target modules and the
// other settings of its shape become those of the run; settings that say otherwise are refused.
func (in *Input) startFrom(m *model.Config) (err error) {
	c := &in.Config
	if c.InitAdapter == "" {
		return nil
	}
	refuse := func(err error) error { return fmt.Errorf("%w: init_adapter %s: %w", ErrConfig, c.InitAdapter, err) }
	a, err := peft.Open(c.InitAdapter)
	if err != nil {
		return refuse(err)
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	base, err := peft.OpenModel(in.Files.Model, in.Files.Ref)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, base.Close()) }()
	if _, err := a.Build(base); err != nil {
		return refuse(err)
	}
	shape, err := c.shapeOf(&a.Config, m)
	if err != nil {
		return refuse(err)
	}
	in.start = &start{}
	if in.start.digest, err = a.Digest(); err != nil {
		return refuse(err)
	}
	if in.start.values, err = a.Trained(); err != nil {
		return refuse(err)
	}
	in.Config = *shape
	return nil
}

// shapeOf returns the settings with the shape of an adapter: target modules are whole paths, so that its patterns need
// not be matched again.
func (c *Config) shapeOf(a *peft.Config, m *model.Config) (*Config, error) {
	if a.LoRABias {
		return nil, errors.New("lora_bias is not supported in training")
	}
	if len(a.Tokens.Embed)+len(a.Tokens.Head) > 0 || a.TieWeights {
		return nil, errors.New("trainable_token_indices and ensure_weight_tying are not supported in training: the " +
			"rows of its embedding that it trained would be lost")
	}
	choose, err := a.Select()
	if err != nil {
		return nil, err
	}
	out := *c
	out.Rank, out.Alpha, out.RsLoRA, out.DoRA, out.Bias = a.Rank, a.Alpha, a.RSLoRA, a.DoRA, a.Bias
	out.ModulesToSave, out.TargetModules, out.ExcludeModules, out.LayersToTransform = a.Save, nil, nil, nil
	out.RankPattern, out.AlphaPattern = nil, nil
	if out.Bias == "" {
		out.Bias = peft.BiasNone
	}
	set := func(patterns *map[string]string, path, value string) {
		if *patterns == nil {
			*patterns = map[string]string{}
		}
		(*patterns)[path] = value
	}
	for _, s := range peft.Sites(m) {
		rank, alpha, ok := choose(s.Path)
		if !ok {
			continue
		}
		out.TargetModules = append(out.TargetModules, s.Path)
		if rank != out.Rank {
			set(&out.RankPattern, s.Path, strconv.Itoa(rank))
		}
		if alpha != out.Alpha {
			set(&out.AlphaPattern, s.Path, strconv.FormatFloat(alpha, 'g', -1, 64))
		}
	}
	if given := c.shapeGiven(); len(given) > 0 && !c.sameShape(&out, m) {
		return nil, fmt.Errorf(
			"it has another shape (r %d, lora_alpha %g, …) than these settings: leave out %s, for the "+
				"adapter decides",
			a.Rank,
			a.Alpha,
			strings.Join(given, ", "),
		)
	}
	return &out, out.Validate()
}

// shapeGiven lists the settings of an adapter's shape that are not the defaults.
func (c *Config) shapeGiven() (given []string) {
	d := Default()
	for _, s := range []struct {
		key      string
		now, def any
	}{
		{"r", c.Rank, d.Rank}, {"lora_alpha", c.Alpha, d.Alpha}, {"target_modules", c.TargetModules, d.TargetModules},
		{"exclude_modules", len(c.ExcludeModules), 0}, {"layers_to_transform", len(c.LayersToTransform), 0},
		{"bias", c.Bias, d.Bias}, {"modules_to_save", len(c.ModulesToSave), 0}, {"use_rslora", c.RsLoRA, d.RsLoRA},
		{"use_dora", c.DoRA, d.DoRA}, {"rank_pattern", len(c.RankPattern), 0},
		{"alpha_pattern", len(c.AlphaPattern), 0},
	} {
		if !reflect.DeepEqual(s.now, s.def) {
			given = append(given, s.key)
		}
	}
	return given
}

// sameShape reports whether two settings give adapters of one shape.
func (c *Config) sameShape(other *Config, m *model.Config) bool {
	mine, err := c.plan(m)
	others, err2 := other.plan(m)
	return err == nil && err2 == nil && c.Bias == other.Bias && c.DoRA == other.DoRA &&
		slices.Equal(
			slices.Sorted(slices.Values(c.ModulesToSave)),
			slices.Sorted(slices.Values(other.ModulesToSave)),
		) &&
		slices.EqualFunc(mine, others, func(a, b adapted) bool {
			return a.Path == b.Path && a.rank == b.rank && a.scale(c.RsLoRA) == b.scale(other.RsLoRA)
		})
}

// warm gives the prepared parameters the values of the adapter that the run starts from: each has one, and none is
// left.
func (r *run) warm() error {
	if r.start == nil {
		return nil
	}
	left := maps.Clone(r.start.values)
	for i, p := range r.grad.Params() {
		name := strings.Replace(strings.TrimPrefix(p.Name, peftPrefix), ".base_layer.bias", ".bias", 1)
		v, ok := left[name]
		if !ok || len(v) != len(r.params[i].Value) {
			return fmt.Errorf(
				"%w: init_adapter %s has %d values of %s, not %d",
				ErrConfig,
				r.Config.InitAdapter,
				len(v),
				name,
				len(r.params[i].Value),
			)
		}
		copy(r.params[i].Value, v)
		delete(left, name)
	}
	if len(left) > 0 {
		return fmt.Errorf("%w: init_adapter %s has tensors that would not be trained: %s", ErrConfig,
			r.Config.InitAdapter, strings.Join(slices.Sorted(maps.Keys(left)), ", "))
	}
	r.Log.Info("starting from an adapter, with a new optimizer", "adapter", r.Config.InitAdapter, "r", r.Config.Rank,
		"lora_alpha", r.Config.Alpha, "modules", len(r.adapted))
	return r.grad.Renew()
}
