package optim

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"

	"weft/runtime/weights"
)

// AdamWConfig are the hyper-parameters of AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101).
type AdamWConfig struct {
	Beta1, Beta2, Eps float64 // 0.9, 0.999, 1e-8 are torch's and bitsandbytes' defaults
	EightBit          bool    // bitsandbytes' AdamW8bit: state of tensors of at least Min8Bit elements in 8 bits
	Min8Bit           int     // 0 means 4096
	// PageDir, if set, is a folder: the state is in a memory-mapped file there, without a name, so that the system can
	// reclaim its memory when it is short. The file is gone when the process ends, however it ends.
	PageDir string
}

func (c AdamWConfig) check() error {
	for _, b := range []float64{c.Beta1, c.Beta2} {
		if !(b >= 0 && b < 1) {
			return fmt.Errorf("%w: betas %v and %v must be in [0, 1)", ErrConfig, c.Beta1, c.Beta2)
		}
	}
	if !(c.Eps >= 0) || math.IsInf(c.Eps, 0) || c.Min8Bit < 0 {
		return fmt.Errorf("%w: eps %v and min_8bit_size %d must not be negative", ErrConfig, c.Eps, c.Min8Bit)
	}
	return nil
}

// AdamW updates parameters in place. It is used by one goroutine at a time.
type AdamW struct {
	cfg    AdamWConfig
	params []Param
	states []state // one per parameter
	chunks []chunk
	mem    *arena
	steps  int
}

// NewAdamW makes an optimizer for params, whose slices it keeps. Close frees its state.
func NewAdamW(cfg AdamWConfig, params []Param) (*AdamW, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if err := checkParams(params); err != nil {
		return nil, err
	}
	size := int64(0)
	for i := range params {
		size += cfg.StateBytes(len(params[i].Value), params[i].Wide)
	}
	mem, err := newArena(cfg.PageDir, int(size))
	if err != nil {
		return nil, fmt.Errorf("optimizer state: %w", err)
	}
	o := &AdamW{cfg: cfg, params: params, chunks: chunksOf(params), mem: mem}
	for i := range params {
		n := len(params[i].Value)
		o.states = append(o.states, newState(mem, cfg.eightBit(n, params[i].Wide), n))
	}
	return o, nil
}

func (c AdamWConfig) eightBit(elements int, wide bool) bool {
	return c.EightBit && !wide && elements >= cmp.Or(c.Min8Bit, 4096)
}

// StateBytes returns the bytes of the state of a parameter with that many elements; wide is Param.Wide.
func (c AdamWConfig) StateBytes(elements int, wide bool) int64 {
	return int64(stateSize(c.eightBit(elements, wide), elements))
}

// Close frees the state; State's tensors are invalid after it.
func (o *AdamW) Close() error { return o.mem.close() }

// Bytes returns the size of the state.
func (o *AdamW) Bytes() int64 { return int64(o.mem.size()) }

// Step makes one update with learning rate lr; every gradient is multiplied by scale first (clipping, unscaling; 1 for
// none). The caller makes sure that the gradients are finite, with GradNorm.
func (o *AdamW) Step(lr float64, scale float32) {
	o.steps++
	each(len(o.chunks), func(i int) {
		c := o.chunks[i]
		p := &o.params[c.param]
		k := o.cfg.coefficients(o.steps, lr*p.ratio(), p.WeightDecay, scale)
		s := &o.states[c.param]
		k.origin = p.Origin
		value, grad := p.Value[c.begin:c.end], p.Grad[c.begin:c.end]
		if s.eightBit {
			s.step8(k, value, grad, c.begin)
			return
		}
		step32(k, value, grad, s.m[c.begin:c.end], s.v[c.begin:c.end])
	})
}

// coefficients are the values of one step, rounded to float32 where torch and bitsandbytes round them.
type coefficients struct {
	scale                float32
	beta1, beta2         float32
	oneMinus1, oneMinus2 float32
	decay                float32 // 1 - lr*wd
	stepSize             float32 // lr/(1-beta1^t)
	rootCorrection2      float32 // sqrt(1-beta2^t)
	eps                  float32
	stepSize8, eps8      float32 // bitsandbytes': stepSize*rootCorrection2, eps*rootCorrection2
	origin               float32 // Param.Origin
}

func (c AdamWConfig) coefficients(t int, lr, wd float64, scale float32) *coefficients {
	corr1, root2 := 1-math.Pow(c.Beta1, float64(t)), math.Sqrt(1-math.Pow(c.Beta2, float64(t)))
	return &coefficients{
		scale: scale, beta1: float32(c.Beta1), beta2: float32(c.Beta2), oneMinus1: float32(1 - c.Beta1),
		oneMinus2: float32(1 - c.Beta2),
		decay:     float32(1 - lr*wd), stepSize: float32(lr / corr1), rootCorrection2: float32(root2),
		eps:       float32(c.Eps),
		stepSize8: float32(lr * root2 / corr1), eps8: float32(root2 * c.Eps),
	}
}

// step32 is torch's single-tensor AdamW: decay first, then m, v and the update.
func step32(k *coefficients, value, grad, m, v []float32) {
	grad, m, v = grad[:len(value)], m[:len(value)], v[:len(value)]
	for i, p := range value {
		g := grad[i] * k.scale
		p = float32((p-k.origin)*k.decay) + k.origin
		m[i] += float32((g - m[i]) * k.oneMinus1)
		v[i] = float32(v[i]*k.beta2) + float32(float32(g*g)*k.oneMinus2)
		denom := float32(math.Sqrt(float64(v[i])))/k.rootCorrection2 + k.eps
		value[i] = p - float32(k.stepSize*m[i])/denom
	}
}

// State returns the number of steps and, for each parameter, its state as tensors that weights.WriteSafetensors takes.
// Their Data is the state itself: write it before the next Step.
//
//	NAME.exp_avg, NAME.exp_avg_sq       F32 [n]
//	NAME.state1, NAME.state2            U8 [n], with NAME.absmax1, NAME.absmax2 F32 [ceil(n/256)], for 8-bit state
//	step                                I64 []
func (o *AdamW) State() map[string]weights.Tensor {
	out := map[string]weights.Tensor{
		"step": {DType: "I64", Shape: []int{}, Data: binary.LittleEndian.AppendUint64(nil, uint64(o.steps))},
	}
	for i := range o.states {
		for _, f := range o.states[i].fields() {
			out[o.params[i].Name+"."+f.name] = weights.Tensor{DType: f.dtype, Shape: []int{f.n}, Data: f.data}
		}
	}
	return out
}

// Restore takes a state that State returned, of the same parameters and configuration; read returns the stored tensor
// of a name. After an error the optimizer is unchanged.
func (o *AdamW) Restore(read func(name string) (weights.Tensor, error)) error {
	step, err := read("step")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	if len(step.Data) != 8 {
		return fmt.Errorf("%w: step has %d bytes, want 8", ErrState, len(step.Data))
	}
	steps := binary.LittleEndian.Uint64(step.Data)
	if steps > math.MaxInt32 {
		return fmt.Errorf("%w: step %d", ErrState, steps)
	}
	type copied struct{ to, from []byte }
	var all []copied
	for i := range o.states {
		for _, f := range o.states[i].fields() {
			name := o.params[i].Name + "." + f.name
			t, err := read(name)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrState, err)
			}
			if t.DType != f.dtype || len(t.Data) != len(f.data) {
				return fmt.Errorf("%w: %s is %s of %d bytes, want %s of %d", ErrState, name, t.DType, len(t.Data),
					f.dtype, len(f.data))
			}
			all = append(all, copied{f.data, t.Data})
		}
	}
	for _, c := range all {
		copy(c.to, c.from)
	}
	o.steps = int(steps)
	return nil
}
