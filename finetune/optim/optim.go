// Package optim updates trained parameters: AdamW with 32-bit or blockwise 8-bit state, learning-rate schedules,
// gradient clipping, loss scaling.
//
// Everything is elementwise over fixed chunks, or a sum over the chunks in their order: results are bitwise the same
// for any number of goroutines. Float products that are added to are rounded first (float32(a*b) + c), so that no build
// may fuse them.
package optim

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
)

// Errors of this package; test with errors.Is.
var (
	// ErrConfig says that hyper-parameters or parameters are invalid.
	ErrConfig = errors.New("optimizer configuration")
	// ErrState says that a stored state belongs to other parameters or another optimizer.
	ErrState = errors.New("optimizer state does not fit")
)

// Param is one trained tensor. Value is updated in place; Grad is read. Both belong to the caller and have one length.
// They are float32 whatever the model's data type: for a bf16 model Value is the master copy, which the caller rounds
// to the device after a step.
type Param struct {
	Name        string // unique; names the state
	Value, Grad []float32
	WeightDecay float64 // decoupled: the parameter's distance from Origin shrinks by lr * WeightDecay a step
	Origin      float32 // 1 for a Value that is 1 + w, of which w decays: Gemma's norms
	Wide        bool    // state in 32 bits also where other parameters have 8
	LRRatio     float64 // times the learning rate (LoRA+: 16 for B); 0 means 1
}

func (p *Param) ratio() float64 {
	if p.LRRatio == 0 {
		return 1
	}
	return p.LRRatio
}

func checkParams(params []Param) error {
	seen := map[string]bool{}
	for i := range params {
		p := &params[i]
		switch {
		case p.Name == "" || seen[p.Name]:
			return fmt.Errorf("%w: parameter %d: the name %q is empty or taken", ErrConfig, i, p.Name)
		case len(p.Value) != len(p.Grad):
			return fmt.Errorf("%w: %s: %d values, %d gradients", ErrConfig, p.Name, len(p.Value), len(p.Grad))
		case !(p.WeightDecay >= 0) || math.IsInf(p.WeightDecay, 0):
			return fmt.Errorf("%w: %s: weight decay %v must be finite and not negative", ErrConfig, p.Name,
				p.WeightDecay)
		case !(p.LRRatio >= 0) || math.IsInf(p.LRRatio, 0):
			return fmt.Errorf("%w: %s: learning-rate ratio %v must be finite and not negative", ErrConfig, p.Name,
				p.LRRatio)
		}
		seen[p.Name] = true
	}
	return nil
}

// chunkLen is the number of elements of one piece of work: a multiple of the 8-bit state's block.
const chunkLen = 1 << 14

// chunk is elements [begin, end) of one parameter.
type chunk struct{ param, begin, end int }

func chunksOf(params []Param) []chunk {
	var out []chunk
	for i := range params {
		for at := 0; at < len(params[i].Value); at += chunkLen {
			out = append(out, chunk{i, at, min(at+chunkLen, len(params[i].Value))})
		}
	}
	return out
}

// each runs f for every index below n on the machine's cores; f must not depend on the order.
func each(n int, f func(i int)) {
	workers := min(runtime.GOMAXPROCS(0), n)
	if workers <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// GradNorm returns the L2 norm of all gradients together, summed in float64. It is NaN or infinite if a gradient is.
func GradNorm(params []Param) float64 {
	chunks := chunksOf(params)
	sums := make([]float64, len(chunks))
	each(len(chunks), func(i int) {
		c, sum := chunks[i], 0.0
		for _, g := range params[c.param].Grad[c.begin:c.end] {
			sum += float64(float64(g) * float64(g))
		}
		sums[i] = sum
	})
	total := 0.0
	for _, s := range sums {
		total += s
	}
	return math.Sqrt(total)
}

// ClipScale returns what gradients of norm must be multiplied by so that their norm is at most maxNorm, as torch's
// clip_grad_norm_ computes it in float32: maxNorm/(norm + 1e-6), at most 1. maxNorm 0 means no clipping.
func ClipScale(norm, maxNorm float64) float32 {
	if maxNorm == 0 {
		return 1
	}
	s := float32(maxNorm) / (float32(norm) + 1e-6)
	if s > 1 {
		return 1
	}
	return s
}

// Scaler is dynamic loss scaling for fp16 training (Micikevicius et al. 2018, arXiv:1710.03740, as torch's GradScaler):
// the loss is multiplied by Scale before the backward pass, gradients are divided by it; a step whose gradients
// overflow is skipped and halves the scale, Window clean steps in a row double it. The zero value is not ready: use
// NewScaler. The fields are its whole state.
type Scaler struct {
	Scale  float64 // a power of two, from 1 to 2^24
	Clean  int     // steps since the last change
	Window int
}

// NewScaler starts at 2^16. window 0 means torch's 2000.
func NewScaler(window int) *Scaler {
	if window <= 0 {
		window = 2000
	}
	return &Scaler{Scale: 1 << 16, Window: window}
}

// Update records one step and reports whether it must be skipped.
func (s *Scaler) Update(overflow bool) (skip bool) {
	if overflow {
		s.Scale, s.Clean = max(1, s.Scale/2), 0
		return true
	}
	if s.Clean++; s.Clean >= s.Window {
		s.Scale, s.Clean = min(1<<24, s.Scale*2), 0
	}
	return false
}
