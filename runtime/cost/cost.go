// Package cost estimates what the parts of a step cost, from the steps that were computed: no clock, the caller
// measures the time. The scheduler divides steps by these costs.
package cost

// Costs are what the parts of a step cost, in any unit of time. The cost of a step is the sum of Step and, for each
// part of its Work, the cost times the number.
type Costs struct {
	Step    float64 // once per step
	Token   float64 // per token that is computed
	Output  float64 // per token whose logits are wanted, for its logits and its sampling
	Context float64 // per token and token of its context, for attention
	Adapter float64 // per adapter, or combination of adapters, in the step
}

// Work is what a step, or a part of one, computes.
type Work struct {
	Tokens, Outputs, Context, Adapters float64
}

// Of returns the cost of work without Step.
func (c *Costs) Of(w Work) float64 {
	return c.Token*w.Tokens + c.Output*w.Outputs + c.Context*w.Context + c.Adapter*w.Adapters
}

// Add adds other work.
func (w *Work) Add(o Work) {
	w.Tokens += o.Tokens
	w.Outputs += o.Outputs
	w.Context += o.Context
	w.Adapters += o.Adapters
}

// Chunk returns the work of n tokens of a sequence that has computed start tokens; sampled: the logits of the last one
// are wanted.
func Chunk(start, n int, sampled bool) Work {
	w := Work{Tokens: float64(n), Context: float64(n)*float64(start) + float64(n)*float64(n+1)/2}
	if sampled {
		w.Outputs = 1
	}
	return w
}
