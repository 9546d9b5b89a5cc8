package cost

import (
	"math"
	"math/rand/v2"
	"testing"
)

// steps are those of a server: prompts beside sequences that decode, with adapters at times.
func randomStep(rng *rand.Rand) Work {
	var w Work
	for range rng.IntN(32) {
		w.Add(Chunk(rng.IntN(1000), 1, true))
	}
	for range rng.IntN(3) {
		w.Add(Chunk(0, 1+rng.IntN(300), rng.IntN(2) == 0))
	}
	if w.Tokens == 0 {
		w.Add(Chunk(5, 1, true))
	}
	w.Adapters = float64(rng.IntN(6))
	return w
}

// machine is what a test's steps cost.
type machine struct {
	Costs
	noise float64
	rng   *rand.Rand
}

func newMachine(fixed, noise, unit float64) *machine {
	return &machine{Costs{Step: fixed * unit, Token: unit, Output: 1.4 * unit, Context: 5e-4 * unit, Adapter: 3 * unit},
		noise, rand.New(rand.NewPCG(1, 2))}
}

func (m *machine) time(w Work) float64 {
	return (m.Step + m.Of(w)) * (1 + m.noise*(2*m.rng.Float64()-1))
}

// worst returns by how much the estimate is wrong for random steps, as a fraction.
func (m *machine) worst(got Costs) float64 {
	worst := 0.0
	for range 500 {
		w := randomStep(m.rng)
		worst = max(worst, math.Abs((got.Step+got.Of(w))/(m.Step+m.Of(w))-1))
	}
	return worst
}

// TestEstimates: what steps cost is found for machines from a CPU to one whose steps cost as much as 500 tokens, in any
// unit, from noisy times with stalls among them.
func TestEstimates(t *testing.T) {
	for _, unit := range []float64{1, 6e-4, 1e6} {
		for _, fixed := range []float64{4, 50, 500} {
			for _, noise := range []float64{0, 0.3} {
				m := newMachine(fixed, noise, unit)
				var e Estimator
				for i := range 2000 {
					w := randomStep(m.rng)
					took := m.time(w)
					if i%50 == 49 {
						took *= 100
					}
					e.Observe(w, took)
				}
				if worst := m.worst(e.Costs()); !(worst < 0.15) {
					t.Errorf("unit %v, noise %v: %+v instead of %+v, a step is %.2f off", unit, noise, e.Costs(),
						m.Costs, worst)
				}
			}
		}
	}
}

// TestStart: there is no estimate before some steps, and a first step that is slow does not matter.
func TestStart(t *testing.T) {
	m := newMachine(20, 0.1, 1)
	var e Estimator
	for i := range 200 {
		if got := e.Costs(); (got != Costs{}) != (i >= least) {
			t.Fatalf("%+v after %d steps", got, i)
		}
		w := randomStep(m.rng)
		took := m.time(w)
		if i == 0 {
			took *= 100
		}
		for _, bad := range []float64{0, -1, math.NaN(), math.Inf(1)} {
			e.Observe(w, bad)
		}
		e.Observe(w, took)
	}
	if worst := m.worst(e.Costs()); !(worst < 0.25) {
		t.Errorf("%+v instead of %+v, a step is %.2f off", e.Costs(), m.Costs, worst)
	}
}

// TestStepsThatAreAlike say nothing of their parts: the estimate of these stays, however long.
func TestStepsThatAreAlike(t *testing.T) {
	m := newMachine(100, 0.2, 1)
	var e Estimator
	for range 500 {
		w := randomStep(m.rng)
		e.Observe(w, m.time(w))
	}
	before := m.worst(e.Costs())
	var w Work
	for range 8 {
		w.Add(Chunk(300, 1, true))
	}
	for range 20000 {
		e.Observe(w, m.time(w))
	}
	if worst := m.worst(e.Costs()); !(worst < before+0.1) {
		t.Errorf("%+v instead of %+v, a step is %.2f off, before the equal steps %.2f", e.Costs(), m.Costs, worst,
			before)
	}
}

// TestSlowerMachine is followed, though each of its steps is an outlier at first.
func TestSlowerMachine(t *testing.T) {
	m := newMachine(20, 0.1, 1)
	var e Estimator
	for range 600 {
		w := randomStep(m.rng)
		e.Observe(w, m.time(w))
	}
	m.Costs = newMachine(100, 0, 5).Costs
	for range 3000 {
		w := randomStep(m.rng)
		e.Observe(w, m.time(w))
	}
	if worst := m.worst(e.Costs()); !(worst < 0.15) {
		t.Errorf("%+v instead of %+v, a step is %.2f off", e.Costs(), m.Costs, worst)
	}
}

func BenchmarkObserve(b *testing.B) {
	m := newMachine(20, 0.1, 1)
	var e Estimator
	w := randomStep(m.rng)
	for b.Loop() {
		e.Observe(w, 100)
	}
}
