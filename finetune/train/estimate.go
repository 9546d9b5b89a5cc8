package train

import (
	"fmt"
	"slices"

	"weft/adapters/peft"
	"weft/finetune/grad"
	"weft/finetune/optim"
	"weft/runtime/model"
)

// Estimate returns the memory of a run besides the base's weights: activations, parameters with gradients, the
// optimizer's state. It allocates none of it.
func (j *Job) Estimate(m *model.Config) (int64, error) {
	r := newRun(j)
	if err := r.plan(); err != nil {
		return 0, err
	}
	c := &j.Config
	g := grad.Config{MaxTokens: r.course.most, MaxSample: r.course.longest, Checkpoint: c.Checkpointing}
	params, use, err := c.parameterSizes(m)
	if err != nil {
		return 0, err
	}
	total := g.Bytes(m, use)
	if round, _ := c.masters(); round != nil {
		for _, n := range params {
			total += 4 * int64(n)
		}
	}
	state := optim.AdamWConfig{EightBit: c.Optimizer == "adamw_8bit"}
	for _, n := range params {
		total += 8*int64(n) + state.StateBytes(n, false)
	}
	if c.Method == "full" || slices.ContainsFunc(c.ModulesToSave, func(s string) bool { return s != "lm_head" }) {
		n := m.Vocab * m.Hidden
		total += state.StateBytes(n, true) - state.StateBytes(n, false)
	}
	return total, nil
}

// parameterSizes are the sizes of the trained parameters.
func (c *Config) parameterSizes(m *model.Config) (params []int, use grad.Adapters, err error) {
	if c.Method == "full" {
		return grad.Weights(m), use, nil
	}
	return c.adapterSizes(m)
}

// adapterSizes are the sizes of the trained parameters of a run with frozen weights.
func (c *Config) adapterSizes(m *model.Config) (params []int, use grad.Adapters, err error) {
	plan, err := c.plan(m)
	if err != nil {
		return nil, use, err
	}
	if err := c.idle(plan); err != nil {
		return nil, use, err
	}
	list, err := c.peft()
	if err != nil {
		return nil, use, err
	}
	use.Dropout, use.DoRA = c.Dropout > 0, c.DoRA
	adapts := map[string]bool{}
	for i := range plan {
		a := &plan[i]
		adapts[a.Path] = true
		params = append(params, a.rank*a.In, a.rank*a.Out)
		if c.DoRA {
			params = append(params, a.Out)
		}
		use.Rank = max(use.Rank, a.rank)
		switch {
		case a.Embedding():
			use.EmbedRank = a.rank
		case a.Head():
			use.HeadRank = a.rank
		}
	}
	for _, s := range peft.Sites(m) {
		if list.Saves(s.Path) {
			params = append(params, s.Out*s.In)
		}
		if s.Bias && (c.Bias == peft.BiasAll || c.Bias == peft.BiasLoRAOnly && adapts[s.Path]) {
			params = append(params, s.Out)
		}
	}
	return params, use, nil
}

// CheckMemory refuses a run that cannot fit, with the sizes, before the base is loaded: base is the size of its files.
func (j *Job) CheckMemory(m *model.Config, base int64) error {
	if j.MemoryLimit <= 0 {
		return nil
	}
	need, err := j.Estimate(m)
	if err != nil {
		return err
	}
	if need > j.MemoryLimit-base {
		return fmt.Errorf(
			"%w: the base takes %d MiB and training %d MiB more, %d MiB may be used: lower "+
				"per_device_train_batch_size or max_length, or set gradient_checkpointing",
			ErrMemory, base>>20, need>>20, j.MemoryLimit>>20)
	}
	return nil
}
