package train

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"

	"weft/finetune/grad"
	"weft/quant"
	"weft/runtime/device"
	"weft/runtime/weights"
)

// masters returns the parameters of which the model uses rounded copies, and their rounding: all in a bfloat16 model,
// matrices for the products of fp16.
func (c *Config) masters() (grad.Rounding, func(p *grad.Param) bool) {
	switch {
	case c.FP16:
		return grad.ToFP16, func(p *grad.Param) bool { return !p.Vector }
	case c.BF16 && c.Method == "full":
		return grad.ToBF16, func(*grad.Param) bool { return true }
	}
	return nil, nil
}

// scaled checks a step's gradients under loss scaling: if they overflowed the step is skipped, and the scale changes
// for the next step.
func (r *run) scaled(info *StepInfo) error {
	s := r.at.Scaler
	// that is no overflow of gradients, and sound stops it
	if s == nil || math.IsNaN(info.Loss) || math.IsInf(info.Loss, 0) {
		return nil
	}
	overflow := math.IsNaN(info.GradNorm) || math.IsInf(info.GradNorm, 0)
	if overflow && s.Scale <= 1 {
		return fmt.Errorf(
			"%w at step %d: the gradients exceed float16 even with a loss scale of 1; train with bf16 or without fp16",
			ErrDiverged, info.Step)
	}
	if info.Skipped = s.Update(overflow); info.Skipped {
		info.GradNorm = 0
		r.at.Skipped++
		r.Log.Info("step skipped: its gradients exceed float16", "step", info.Step, "loss_scale", info.LossScale,
			"next", s.Scale)
	}
	return nil
}

// bf16Model reports whether a whole model is saved in bfloat16.
func (c *Config) bf16Model() bool {
	return c.SaveDType == "bfloat16" || c.SaveDType == "auto" && c.BF16
}

// toBF16 returns a float32 tensor rounded to bfloat16.
func toBF16(t weights.Tensor) weights.Tensor {
	v := floatsOf(t.Data)
	out := weights.Tensor{DType: "BF16", Shape: t.Shape, Data: make([]byte, 2*len(v))}
	for i, x := range v {
		h := quant.F32ToBF16(x)
		out.Data[2*i], out.Data[2*i+1] = byte(h), byte(h>>8)
	}
	return out
}

// modelConfig returns a base's config.json for weights of another data type: it replaces the data type and removes the
// quantization.
func modelConfig(text []byte, dtype string) ([]byte, error) {
	var members map[string]any
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&members); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	delete(members, "quantization_config")
	for _, name := range []string{"dtype", "torch_dtype"} {
		if _, ok := members[name]; ok {
			members[name] = dtype
		}
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(members)
	return out.Bytes(), err
}

// warnOfFloats logs a warning if bf16 was requested and the device computes the products in float32.
func (r *run) warnOfFloats() {
	if d, ok := r.Device.(interface{ Multiplies(p device.Precision) bool }); !ok || !d.Multiplies(device.BF16) {
		r.Log.Warn(
			"bf16: this device has no bfloat16 products; it uses float32, which is slower and at least as exact")
	}
}
