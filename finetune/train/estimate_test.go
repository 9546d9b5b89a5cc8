package train

import (
	"errors"
	"testing"

	"weft/runtime/device"
)

// A run takes the memory that was estimated.
func TestEstimate(t *testing.T) {
	for name, change := range map[string]func(c *Config){
		"lora": func(*Config) {}, "checkpointing": func(c *Config) { c.Checkpointing = true }, "dora": func(
			c *Config) {
			c.DoRA = true
		},
		"8-bit": func(c *Config) { c.Optimizer = "adamw_8bit" }, "full": full, "full bf16": all(full, bfloat),
		"full fp16": all(full, halfPrecision), "fp16": halfPrecision,
	} {
		t.Run(name, func(t *testing.T) {
			dev := newDevice(t)
			j := smallJob(t, dev, t.TempDir())
			change(&j.Config)
			held := dev.InUse(device.Activations)
			want, err := j.Estimate(j.Model.Config)
			if err != nil {
				t.Fatal(err)
			}
			var got int64
			j.OnBegin = func(_, _, bytes int64) { got = bytes - held }
			if _, err := j.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if float64(got) < 0.9*float64(want) || float64(got) > 1.02*float64(want) {
				t.Errorf("the run takes %d bytes, the estimate was %d", got, want)
			}
			j.MemoryLimit = want / 2
			if err := j.CheckMemory(j.Model.Config, 0); !errors.Is(err, ErrMemory) {
				t.Errorf("half of the memory: %v", err)
			}
		})
	}
}
