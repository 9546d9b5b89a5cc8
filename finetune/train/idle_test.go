package train

import (
	"errors"
	"strings"
	"testing"
)

// A setting that would decide nothing is refused, not ignored.
func TestIdleSettings(t *testing.T) {
	full := func(change func(c *Config)) func(c *Config) {
		return func(c *Config) {
			c.Method = "full"
			change(c)
		}
	}
	for text, change := range map[string]func(c *Config){
		"eval_steps needs":                func(c *Config) { c.EvalSteps = 3 },
		"early_stopping_patience needs":   func(c *Config) { c.Patience = 3 },
		"early_stopping_threshold needs":  func(c *Config) { c.EvalFraction, c.Threshold = 0.1, 0.1 },
		"eval_data and eval_fraction":     func(c *Config) { c.EvalFraction, c.EvalData = 0.1, "file" },
		"bnb_4bit_use_double_quant needs": func(c *Config) { c.DoubleQuant = true },
		"constant has no warm-up":         func(c *Config) { c.Scheduler, c.WarmupRatio = "constant", 0.1 },
		"lora_dropout is of method lora":  full(func(c *Config) { c.Dropout = 0.1 }),
		"use_dora is of method lora":      full(func(c *Config) { c.DoRA = true }),
		"use_rslora is of method lora":    full(func(c *Config) { c.RsLoRA = true }),
		"bias is of method lora":          full(func(c *Config) { c.Bias = "lora_only" }),
		"rank_pattern is of method lora": full(
			func(c *Config) { c.RankPattern = map[string]string{"q_proj": "2"} }),
		"alpha_pattern is of method lora": full(
			func(c *Config) { c.AlphaPattern = map[string]string{"q_proj": "2"} }),
		"layers_to_transform is of":           full(func(c *Config) { c.LayersToTransform = []int{0} }),
		"modules_to_save is of method lora":   full(func(c *Config) { c.ModulesToSave = []string{"lm_head"} }),
		"loraplus_lr_ratio is of method lora": full(func(c *Config) { c.LoraPlusRatio = 16 }),
	} {
		c := settings(t)
		change(&c)
		if err := c.Validate(); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), text) ||
			strings.Contains(err.Error(), ";") {
			t.Errorf("%v, want one reason with %q", err, text)
		}
	}
	for name, change := range map[string]func(c *Config){
		"evaluated by fraction": func(c *Config) {
			c.EvalFraction, c.EvalSteps, c.Patience, c.Threshold = 0.1, 3, 2,
				0.1
		},
		"evaluated by file": func(c *Config) {
			c.EvalData, c.EvalSteps, c.Patience, c.Threshold = "file", 3, 2,
				0.1
		},
		"double": func(c *Config) { c.LoadIn4Bit, c.DoubleQuant = true, true },
		"full":   full(func(c *Config) {}),
	} {
		c := settings(t)
		change(&c)
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
