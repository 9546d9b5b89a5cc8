package train

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
)

// idle refuses a rank or alpha pattern that matches no adapted layer, because it would have no effect.
func (c *Config) idle(plan []adapted) error {
	for _, of := range []struct {
		key      string
		patterns map[string]string
	}{{"rank_pattern", c.RankPattern}, {"alpha_pattern", c.AlphaPattern}} {
		for _, pattern := range slices.Sorted(maps.Keys(of.patterns)) {
			re, err := regexp.Compile(`\A(?:.*\.)?(?:` + pattern + `)\z`) // as PEFT matches them
			if err != nil {
				return fmt.Errorf("%w: %s %q: %w", ErrConfig, of.key, pattern, err)
			}
			if !slices.ContainsFunc(plan, func(a adapted) bool { return re.MatchString(a.Path) }) {
				return fmt.Errorf("%w: %s: %q matches no adapted layer, as %s is one", ErrConfig, of.key, pattern,
					plan[0].Path)
			}
		}
	}
	return nil
}

// idleSettings lists settings that have no effect with the others; a user who gives one expects an effect.
func (c *Config) idleSettings() (bad []string) {
	needs := func(idle bool, what string) {
		if idle {
			bad = append(bad, what)
		}
	}
	evaluates := c.EvalData != "" || c.EvalFraction > 0
	needs(c.EvalData != "" && c.EvalFraction > 0,
		"eval_data and eval_fraction are two ways to hold samples out: choose one")
	needs(c.EvalData == "" && c.AllowOverlap, "allow_overlap is about the samples of eval_data")
	needs(!evaluates && c.EvalSteps > 0, "eval_steps needs eval_data or eval_fraction")
	needs(!evaluates && c.Patience > 0, "early_stopping_patience needs eval_data or eval_fraction")
	needs(c.Threshold != 0 && c.Patience == 0, "early_stopping_threshold needs early_stopping_patience")
	needs(c.Overwrite && c.Resume, "overwrite_output_dir removes the checkpoints that resume needs: choose one")
	needs(c.QuantType != "nf4" && !c.LoadIn4Bit, "bnb_4bit_quant_type needs load_in_4bit")
	needs(c.MinLRRate != DefaultMinLRRate && c.Scheduler != "cosine_with_min_lr",
		"min_lr_rate is of lr_scheduler_type cosine_with_min_lr")
	needs(c.DoubleQuant && !c.LoadIn4Bit, "bnb_4bit_use_double_quant needs load_in_4bit")
	needs(c.Scheduler == "constant" && (c.WarmupSteps > 0 || c.WarmupRatio > 0),
		"lr_scheduler_type constant has no warm-up: constant_with_warmup has")
	needs(c.InitAdapter != "" && c.InitWeights != "true",
		"init_adapter has the initial LoRA matrices: leave out init_lora_weights")
	if c.Method == "full" {
		for _, s := range []struct {
			key   string
			given bool
		}{
			{"target_modules", len(c.TargetModules) > 0 &&
				!slices.Equal(c.TargetModules, []string{"all-linear"})}, {"lora_dropout", c.Dropout != 0},
			{"use_dora", c.DoRA}, {"use_rslora", c.RsLoRA}, {"bias", c.Bias != "none"},
			{"rank_pattern", len(c.RankPattern) > 0},
			{"alpha_pattern", len(c.AlphaPattern) > 0}, {"layers_to_transform", len(c.LayersToTransform) > 0},
			{"modules_to_save", len(c.ModulesToSave) > 0},
			{"init_lora_weights", c.InitWeights != "true"}, {"init_adapter", c.InitAdapter != ""},
			{"loraplus_lr_ratio", c.LoraPlusRatio != 1},
		} {
			needs(s.given, s.key+" is of method lora")
		}
	}
	return bad
}
