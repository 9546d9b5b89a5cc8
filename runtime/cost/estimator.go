package cost

import "math"

// Estimator estimates Costs from steps: the least squares of the relative errors of the last steps, of which older ones
// count less. A step that takes much longer than expected, as when the machine was busy with something else, counts as
// if it had taken outlier times as long as expected, unless many do. What the steps do not say, because all are alike,
// stays as it was. The zero value is ready.
type Estimator struct {
	sums  [parts][parts]float64 // of products of the parts of Work
	took  [parts]float64        // of products with the time taken
	steps int
	costs [parts]float64

	outliers int // steps in a row whose time was far from what was expected
}

const (
	parts   = 5
	memory  = 1024 // steps that count, about
	least   = 16   // steps before the first estimate
	outlier = 2
	inARow  = 3 // after so many outliers in a row the machine is another: they count as they are, and older steps less
	sweeps  = 32

	// How much the last estimate counts and, for outputs and context, their usual costs beside that of a token: as
	// fractions of what the steps say of a part. Steps of equal width say nothing of what an output costs.
	inertia = 1e-4
	habit   = 1e-2
)

// The parts of Work, after the step itself.
const (
	token   = 1
	output  = 2
	context = 3
)

// initial are usual ratios of costs, those of a small model on a CPU: a token with a context of a thousand costs twice
// as much as one without.
var initial = [parts]float64{6, 1, 1.4, 1e-3, 2}

// Observe records that a step with work w has taken a time. Times that are not positive numbers are not counted.
func (e *Estimator) Observe(w Work, took float64) {
	if !(took > 0) || math.IsInf(took, 0) {
		return
	}
	x := [parts]float64{1, w.Tokens, w.Outputs, w.Context, w.Adapters}
	if e.steps == 0 {
		e.costs = initial
		unit := took / e.of(&x)
		for i := range e.costs {
			e.costs[i] *= unit
		}
	}
	expected := e.of(&x)
	if expected <= 0 {
		expected = took
	}
	took /= expected
	if took > 1.0/outlier && took < outlier || e.steps < least {
		e.outliers = 0
	} else if e.outliers++; e.outliers <= inARow {
		took = min(took, outlier)
	} else {
		e.forget()
	}
	for i := range x {
		x[i] /= expected
	}
	for i := range x {
		for j := range x {
			e.sums[i][j] += x[i]*x[j] - e.sums[i][j]/memory
		}
		e.took[i] += x[i]*took - e.took[i]/memory
	}
	e.steps++
	e.solve()
}

// forget halves what the steps so far count.
func (e *Estimator) forget() {
	for i := range e.took {
		e.took[i] /= 2
		for j := range e.took {
			e.sums[i][j] /= 2
		}
	}
}

// Costs returns the estimate, zero before there is one.
func (e *Estimator) Costs() Costs {
	if e.steps < least {
		return Costs{}
	}
	c := &e.costs
	return Costs{Step: c[0], Token: c[1], Output: c[2], Context: c[3], Adapter: c[4]}
}

// of returns the cost of a step.
func (e *Estimator) of(x *[parts]float64) float64 {
	sum := 0.0
	for i := range x {
		sum += e.costs[i] * x[i]
	}
	return sum
}

// solve finds costs that are not negative, by coordinate descent from the last estimate.
func (e *Estimator) solve() {
	last := e.costs
	for range sweeps {
		for i := range e.costs {
			diagonal := e.sums[i][i]
			if diagonal <= 0 {
				continue // no step had this part
			}
			rest := e.took[i]
			for j := range e.costs {
				if j != i {
					rest -= e.sums[i][j] * e.costs[j]
				}
			}
			pull, to := inertia, last[i]
			if i == output || i == context {
				pull, to = habit, initial[i]*e.costs[token]
			}
			e.costs[i] = max((rest+pull*diagonal*to)/(diagonal*(1+pull)), 0)
		}
	}
}
