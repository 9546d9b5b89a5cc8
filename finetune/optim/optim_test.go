package optim

import (
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"weft/internal/numtest"
	"weft/runtime/weights"
)

// newParams are tensors on both sides of a chunk, of a block and of min_8bit_size.
func newParams(seed uint64) []Param {
	r := rand.New(rand.NewPCG(seed, 1))
	var out []Param
	for i, n := range []int{1, 255, 4096, 5000, chunkLen + 257} {
		p := Param{Name: string(rune('a' + i)), Value: make([]float32, n), Grad: make([]float32, n),
			WeightDecay: 0.01 * float64(i%2)}
		for j := range p.Value {
			p.Value[j] = float32(r.NormFloat64())
		}
		out = append(out, p)
	}
	return out
}

// train makes steps from..to with gradients that depend on the step only.
func train(o *AdamW, params []Param, from, to int) {
	for s := from; s < to; s++ {
		r := rand.New(rand.NewPCG(uint64(s), 2))
		for _, p := range params {
			for j := range p.Grad {
				p.Grad[j] = float32(r.NormFloat64() * 0.1)
			}
		}
		o.Step(1e-2, ClipScale(GradNorm(params), 1))
	}
}

func mustAdamW(t *testing.T, cfg AdamWConfig, params []Param) *AdamW {
	t.Helper()
	o, err := NewAdamW(cfg, params)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

// defaults are those of torch and bitsandbytes.
var defaults = AdamWConfig{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}

func TestResultDoesNotDependOnThreadsPagingOrResume(t *testing.T) {
	for _, eight := range []bool{false, true} {
		cfg := defaults
		cfg.EightBit = eight
		want := newParams(1)
		train(mustAdamW(t, cfg, want), want, 0, 7)
		same := func(what string, got []Param) {
			t.Helper()
			for i := range got {
				numtest.Equal(t, what+" "+got[i].Name, got[i].Value, want[i].Value)
			}
		}

		procs := runtime.GOMAXPROCS(1)
		one := newParams(1)
		train(mustAdamW(t, cfg, one), one, 0, 7)
		runtime.GOMAXPROCS(procs)
		same("one thread", one)

		paged := cfg
		paged.PageDir = t.TempDir()
		p := newParams(1)
		train(mustAdamW(t, paged, p), p, 0, 7)
		same("paged", p)
		if left, _ := os.ReadDir(paged.PageDir); len(left) > 0 {
			t.Errorf("the page file has a name: %v", left)
		}

		resumed := newParams(1)
		first := mustAdamW(t, cfg, resumed)
		train(first, resumed, 0, 3)
		second := mustAdamW(t, paged, resumed)
		if err := second.Restore(reader(first.State())); err != nil || second.steps != 3 {
			t.Fatalf("%d steps: %v", second.steps, err)
		}
		train(second, resumed, 3, 7)
		same("resumed", resumed)
	}
}

// reader returns copies of a state's tensors.
func reader(state map[string]weights.Tensor) func(string) (weights.Tensor, error) {
	return func(name string) (weights.Tensor, error) {
		s, ok := state[name]
		if !ok {
			return s, weights.ErrNoTensor
		}
		s.Data = slices.Clone(s.Data)
		return s, nil
	}
}

func TestRestoreRefuses(t *testing.T) {
	cfg, params := defaults, newParams(1)
	o := mustAdamW(t, cfg, params)
	train(o, params, 0, 2)
	for _, c := range []struct {
		name, say string
		spoil     func(map[string]weights.Tensor)
	}{
		{"missing", "no such tensor", func(s map[string]weights.Tensor) { delete(s, "e.exp_avg_sq") }},
		{"no step", "no such tensor", func(s map[string]weights.Tensor) { delete(s, "step") }},
		{"short step", "step has 3 bytes",
			func(s map[string]weights.Tensor) { s["step"] = weights.Tensor{Data: make([]byte, 3)} }},
		{"large step", "step 72057594037927936",
			func(s map[string]weights.Tensor) { s["step"] = weights.Tensor{Data: []byte{0, 0, 0, 0, 0, 0, 0, 1}} }},
		{"short", "d.exp_avg is F32 of 4 bytes, want F32 of 20000", func(s map[string]weights.Tensor) {
			s["d.exp_avg"] = weights.Tensor{DType: "F32", Data: make([]byte, 4)}
		}},
		{"dtype", "want F32", func(s map[string]weights.Tensor) {
			s["a.exp_avg"] = weights.Tensor{DType: "I32", Data: make([]byte, 4)}
		}},
	} {
		other := newParams(1)
		fresh := mustAdamW(t, cfg, other)
		state := o.State()
		c.spoil(state)
		err := fresh.Restore(reader(state))
		if !errors.Is(err, ErrState) || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v, want %q", c.name, err, c.say)
		}
		if fresh.steps != 0 || fresh.states[0].m[0] != 0 {
			t.Errorf("%s: the refused state was taken in part", c.name)
		}
	}
}

func TestLRRatioAndDecay(t *testing.T) {
	cfg := AdamWConfig{Beta1: 0.9, Beta2: 0.999}
	p := []Param{
		{Name: "A", Value: []float32{1}, Grad: []float32{0.5}},
		{Name: "B", Value: []float32{1}, Grad: []float32{0.5}, LRRatio: 16},
		{Name: "W", Value: []float32{1}, Grad: []float32{0}, WeightDecay: 0.5},
	}
	mustAdamW(t, cfg, p).Step(0.01, 1)
	// The first update of Adam without eps is the learning rate itself.
	numtest.MaxAbs(t, "values", []float32{p[0].Value[0], p[1].Value[0]}, []float32{0.99, 0.84}, 1e-6)
	if got := p[2].Value[0]; !math.IsNaN(float64(got)) {
		t.Errorf("0/0 is %v", got) // eps 0 is the caller's choice
	}
	cfg.Eps = 1e-8
	p[2].Value[0] = 1
	mustAdamW(t, cfg, p).Step(0.01, 1)
	numtest.MaxAbs(t, "decay", p[2].Value, []float32{0.995}, 1e-7)
}

func TestClip(t *testing.T) {
	p := []Param{{Name: "a", Value: make([]float32, 1), Grad: []float32{3}},
		{Name: "b", Value: make([]float32, 2), Grad: []float32{0, 4}}}
	if got := GradNorm(p); got != 5 {
		t.Errorf("norm %v, want 5", got)
	}
	p[1].Grad[0] = float32(math.NaN())
	if got := GradNorm(p); !math.IsNaN(got) {
		t.Errorf("norm of NaN %v", got)
	}
	big := []Param{{Name: "a", Grad: []float32{3e38, 3e38}, Value: make([]float32, 2)}}
	if got := GradNorm(big); !(got > 4e38 && got < 5e38) {
		t.Errorf("norm of large gradients %v: float32 overflowed", got)
	}
	for _, c := range []struct {
		norm, limit float64
		want        float32
	}{{5, 0, 1}, {0.5, 1, 1}, {1, 1, 1 / float32(1.000001)}, {4, 1, 1 / (float32(4) + 1e-6)}} {
		if got := ClipScale(c.norm, c.limit); got != c.want {
			t.Errorf("ClipScale(%v, %v) = %v, want %v", c.norm, c.limit, got, c.want)
		}
	}
}

func TestScaler(t *testing.T) {
	s := NewScaler(2)
	var got []float64
	for _, overflow := range []bool{true, false, false, false, true, false, false} {
		if s.Update(overflow) != overflow {
			t.Error("a step is skipped when it overflows, and only then")
		}
		got = append(got, s.Scale)
	}
	if want := []float64{32768, 32768, 65536, 65536, 32768, 32768, 65536}; !slices.Equal(got, want) {
		t.Errorf("scales %v, want %v", got, want)
	}
	for range 40 {
		s.Update(true)
	}
	if s.Scale != 1 {
		t.Errorf("scale fell to %v", s.Scale)
	}
	for range 100 {
		s.Update(false)
	}
	if s.Scale != 1<<24 {
		t.Errorf("scale rose to %v", s.Scale)
	}
}

func TestRefusals(t *testing.T) {
	one := []Param{{Name: "a", Value: make([]float32, 2), Grad: make([]float32, 2)}}
	for _, c := range []struct {
		name, say string
		cfg       AdamWConfig
		params    []Param
	}{
		{"beta", "betas 1 and", AdamWConfig{Beta1: 1}, one},
		{"eps", "eps NaN", AdamWConfig{Eps: math.NaN()}, one},
		{"twice", `"a" is empty or taken`, AdamWConfig{}, append(one, one...)},
		{"lengths", "a: 2 values, 1 gradients", AdamWConfig{},
			[]Param{{Name: "a", Value: make([]float32, 2), Grad: make([]float32, 1)}}},
		{"decay", "weight decay -1", AdamWConfig{}, []Param{{Name: "a", WeightDecay: -1}}},
		{"ratio", "ratio +Inf", AdamWConfig{}, []Param{{Name: "a", LRRatio: math.Inf(1)}}},
	} {
		if _, err := NewAdamW(c.cfg, c.params); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v, want %q", c.name, err, c.say)
		}
	}
	cfg := defaults
	cfg.PageDir = t.TempDir() + "/absent"
	if _, err := NewAdamW(cfg, one); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent folder: %v", err)
	}
	for _, c := range []struct {
		say  string
		s    Schedule
		base float64
	}{
		{`schedule "cosin" is none of linear, cosine`, Schedule{Kind: "cosin", Total: 1}, 1},
		{"3 warm-up steps of 2", Schedule{Kind: "linear", Warmup: 3, Total: 2}, 1},
		{"0 warm-up steps of 0", Schedule{Kind: "linear"}, 1},
		{"learning rate NaN", Schedule{Kind: "linear", Total: 1}, math.NaN()},
		{"minimum learning rate 2", Schedule{Kind: "cosine_with_min_lr", Total: 1, MinLR: 2}, 1},
		{"ends at 1e-07", Schedule{Kind: "polynomial", Total: 1}, 1e-8},
		{"cycles -1", Schedule{Kind: "linear", Total: 1, Cycles: -1}, 1},
	} {
		if err := c.s.Check(c.base); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%+v: %v, want %q", c.s, err, c.say)
		}
	}
}

func TestStateBytes(t *testing.T) {
	params := newParams(1)
	cfg := defaults
	wide := mustAdamW(t, cfg, params)
	cfg.EightBit = true
	narrow := mustAdamW(t, cfg, params)
	for _, o := range []*AdamW{wide, narrow} {
		got := int64(0)
		for i := range params {
			got += o.cfg.StateBytes(len(params[i].Value), params[i].Wide)
		}
		if want := o.Bytes(); got != want {
			t.Errorf("StateBytes of all parameters = %d, the optimizer has %d", got, want)
		}
	}
	if 3*narrow.Bytes() > wide.Bytes() {
		t.Errorf("8 bits take %d bytes, 32 bits %d", narrow.Bytes(), wide.Bytes())
	}
}
