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

// masters says of which parameters the model computes with rounded copies, and how they are rounded: of all in a
// bfloat16 model, of matrices for fp16's products.
func (c *Config) masters() (grad.Rounding, func(p *grad.Param) bool) {
	switch {
	case c.FP16:
		return grad.ToFP16, func(p *grad.Param) bool { return !p.Vector }
	case c.BF16 && c.Method == "full":
		return grad.ToBF16, func(*grad.Param) bool { return true }
	}
	return nil, nil
}

// scaled judges a step's gradients under loss scaling: those that overflowed are forgotten, and the scale changes for
// the next step.
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

// bf16Model says that a whole model leaves in bfloat16.
func (c *Config) bf16Model() bool {
	return c.SaveDType == "bfloat16" || c.SaveDType == "auto" && c.BF16
}

// toBF16 is a tensor of float32 rounded to bfloat16.
func toBF16(t weights.Tensor) weights.Tensor {
	v := floatsOf(t.Data)
	out := weights.Tensor{DType: "BF16", Shape: t.Shape, Data: make([]byte, 2*len(v))}
	for i, x := range v {
		h := quant.F32ToBF16(x)
		out.Data[2*i], out.Data[2*i+1] = byte(h), byte(h>>8)
	}
	return out
}

// modelConfig is a base's config.json for weights of another type: what it says of their type and of how they were
// quantized would be wrong.
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

// warnOfFloats says that bf16 was asked for and the device makes the products in float32 all the same.
func (r *run) warnOfFloats() {
	if d, ok := r.Device.(interface{ Multiplies(p device.Precision) bool }); !ok || !d.Multiplies(device.BF16) {
		r.Log.Warn(
			"bf16: this device multiplies no bfloat16 numbers; products are made in float32, slower and not less exact")
	}
}
