package optim

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/internal/numtest"
	"weft/runtime/weights"
)

// Every learning rate of transformers' get_scheduler, for 8 schedules × 3 lengths. cosine_with_restarts was recorded
// with 2 cycles, cosine_with_min_lr with a tenth.
func TestSchedulesEqualTransformers(t *testing.T) { goldens.Each(t, testSchedulesEqualTransformers) }

func testSchedulesEqualTransformers(t *testing.T) {
	text, err := os.ReadFile(goldens.Path(t, "train", "B_curves", "schedules.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want struct {
		Base  float64              `json:"base_lr"`
		Rates map[string][]float64 `json:"lr_used_at_step"`
	}
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	for name, rates := range want.Rates {
		part := strings.Split(name, "/")
		s := Schedule{Kind: part[0], Cycles: 2, MinLR: want.Base / 10}
		s.Total, _ = strconv.Atoi(strings.TrimPrefix(part[1], "total="))
		s.Warmup, _ = strconv.Atoi(strings.TrimPrefix(part[2], "warmup="))
		if err := s.Check(want.Base); err != nil || len(rates) != s.Total {
			t.Fatalf("%s: %d rates: %v", name, len(rates), err)
		}
		kinds[s.Kind] = true
		for i, r := range rates {
			if got := s.LR(want.Base, i); !(math.Abs(got-r) <= 4e-16*want.Base) {
				t.Errorf("%s: step %d: %v, want %v", name, i, got, r)
			}
		}
	}
	for _, k := range ScheduleKinds {
		if !kinds[k] {
			t.Errorf("no golden for %s", k)
		}
	}
}

// bnbCase is one adamw8bit file: the gradients of 20 steps and what bitsandbytes made of them.
type bnbCase struct {
	File    string
	N       int
	LR      float64
	Decay   float64   `json:"weight_decay"`
	Betas   []float64 `json:"betas"`
	Eps     float64
	Steps   int
	Eight   bool `json:"eight_bit"`
	tensors *weights.Safetensors
}

func bnbCases(t *testing.T) []bnbCase {
	t.Helper()
	dir := goldens.Path(t, "train", "D_bnb")
	text, err := os.ReadFile(filepath.Join(dir, "cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		AdamW8bit []bnbCase `json:"adamw8bit"`
	}
	if err := json.Unmarshal(text, &all); err != nil || len(all.AdamW8bit) == 0 {
		t.Fatalf("%d cases: %v", len(all.AdamW8bit), err)
	}
	for i := range all.AdamW8bit {
		c := &all.AdamW8bit[i]
		s, err := weights.OpenSafetensors(filepath.Join(dir, c.File))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		c.tensors = s
	}
	return all.AdamW8bit
}

func (c *bnbCase) floats(t *testing.T, name string) []float32 {
	t.Helper()
	v, _, err := c.tensors.Floats(name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (c *bnbCase) config(eight bool) AdamWConfig {
	return AdamWConfig{Beta1: c.Betas[0], Beta2: c.Betas[1], Eps: c.Eps, EightBit: eight}
}

// replay runs the recorded gradients and calls after behind each step.
func (c *bnbCase) replay(t *testing.T, cfg AdamWConfig, after func(step int, o *AdamW, p []float32)) {
	t.Helper()
	p, grads := append([]float32(nil), c.floats(t, "p0")...), c.floats(t, "grads")
	param := Param{Name: "p", Value: p, Grad: make([]float32, c.N), WeightDecay: c.Decay}
	o, err := NewAdamW(cfg, []Param{param})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for s := range c.Steps {
		copy(param.Grad, grads[s*c.N:])
		o.Step(c.LR, 1)
		after(s+1, o, p)
	}
}

// The 8-bit states and parameters are bitsandbytes' by its exact rule: at most 0.1 % of the codes off by one, 99.9 % of
// the parameters within 1e-6, all within lr (goldens' README).
func TestAdamW8bitEqualsBitsandbytes(t *testing.T) { goldens.Each(t, testAdamW8bitEqualsBitsandbytes) }

func testAdamW8bitEqualsBitsandbytes(t *testing.T) {
	for _, c := range bnbCases(t) {
		t.Run(c.File, func(t *testing.T) {
			c.replay(t, c.config(true), func(step int, o *AdamW, p []float32) {
				if step != c.Steps { // the files hold the last step's tensors under the names of the earlier ones too
					return
				}
				c.compareParams(t, step, p)
				state := o.State()
				if !c.Eight {
					if state["p.exp_avg"].DType != "F32" {
						t.Fatalf("a tensor of %d elements has the state %v", c.N, state)
					}
					return
				}
				for _, k := range []string{"1", "2"} {
					c.compareCodes(t, step, k, state)
				}
			})
		})
	}
}

func (c *bnbCase) compareParams(t *testing.T, step int, p []float32) {
	t.Helper()
	want, far := c.floats(t, fmt.Sprintf("step%d.param8", step)), 0
	for i := range p {
		d := math.Abs(float64(p[i]) - float64(want[i]))
		if !(d <= 1e-6) {
			far++
		}
		if !(d <= c.LR) {
			t.Fatalf("step %d: parameter %d = %v, want %v", step, i, p[i], want[i])
		}
	}
	if far > c.N/1000 {
		t.Errorf("step %d: %d of %d parameters differ by more than 1e-6", step, far, c.N)
	}
}

func (c *bnbCase) compareCodes(t *testing.T, step int, k string, state map[string]weights.Tensor) {
	t.Helper()
	want, _, err := c.tensors.Ints(fmt.Sprintf("step%d.state%s", step, k))
	if err != nil {
		t.Fatal(err)
	}
	off := 0
	for i, got := range state["p.state"+k].Data {
		d := int(got) - int(want[i])
		if d < -1 || d > 1 {
			t.Fatalf("step %d: state%s[%d] = %d, want %d", step, k, i, got, want[i])
		}
		if d != 0 {
			off++
		}
	}
	if off > c.N/1000 {
		t.Errorf("step %d: %d of %d codes of state%s are off", step, off, c.N, k)
	}
	absmax := make([]float32, len(state["p.absmax"+k].Data)/4)
	for i := range absmax {
		absmax[i] = math.Float32frombits(binary.LittleEndian.Uint32(state["p.absmax"+k].Data[4*i:]))
	}
	wantMax, worst := c.floats(t, fmt.Sprintf("step%d.absmax%s", step, k)), 0.0
	for i := range absmax {
		worst = max(worst, math.Abs(float64(absmax[i]/wantMax[i])-1))
	}
	if !(worst <= 1e-5) {
		t.Errorf("step %d: absmax%s is off by %.2g", step, k, worst)
	}
}

// The 32-bit optimizer against bitsandbytes' 32-bit AdamW, which decays after the update.
func TestAdamW32EqualsReference(t *testing.T) { goldens.Each(t, testAdamW32EqualsReference) }

func testAdamW32EqualsReference(t *testing.T) {
	for _, c := range bnbCases(t) {
		c.replay(t, c.config(false), func(step int, _ *AdamW, p []float32) {
			if step == c.Steps {
				numtest.MaxAbs(t, c.File, p, c.floats(t, fmt.Sprintf("step%d.param32", step)), 1e-6)
			}
		})
	}
}
