package sample

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"weft/internal/invariant"
)

func randomLogits(n int, seed uint64) []float32 {
	rng := rand.New(rand.NewPCG(seed, 1))
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(rng.NormFloat64() * 3)
	}
	return out
}

var neutral = Params{Temperature: 1, TopP: 1, RepetitionPenalty: 1, Logprobs: -1}

func TestDrawsFollowTheDistribution(t *testing.T) {
	logits := randomLogits(50, 3)
	p := neutral
	p.TopP, p.Seed = 0.9, 42
	s := New(p, nil)
	ids, probs, err := s.Distribution(logits)
	if err != nil {
		t.Fatal(err)
	}
	const draws = 200_000
	count := map[int32]int{}
	for i := range draws {
		id, err := s.Sample(logits, i, nil)
		if err != nil {
			t.Fatal(err)
		}
		count[id]++
	}
	// Pearson's statistic: its mean is len-1 and its deviation sqrt(2(len-1)); 6 deviations fail once in some 10^8
	// seeds.
	var chi2 float64
	for i, id := range ids {
		e := probs[i] * draws
		d := float64(count[id]) - e
		chi2 += d * d / e
		delete(count, id)
	}
	if len(count) > 0 {
		t.Errorf("drew what cannot be drawn: %v", count)
	}
	free := float64(len(ids) - 1)
	if !(chi2 < free+6*math.Sqrt(2*free)) {
		t.Errorf("chi-square %.1f with %v degrees of freedom", chi2, free)
	}
}

func TestSeedAndPositionAloneDecide(t *testing.T) {
	logits := randomLogits(1000, 4)
	draw := func(seed uint64, from int) []int32 {
		p := neutral
		p.Seed = seed
		s := New(p, nil)
		var out []int32
		for i := from; i < from+20; i++ {
			id, err := s.Sample(logits, i, nil)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, id)
		}
		return out
	}
	a, b := draw(1, 0), draw(1, 10)
	if !slices.Equal(a[10:], b[:10]) {
		t.Error("a draw depends on earlier draws")
	}
	if slices.Equal(a, draw(2, 0)) {
		t.Error("two seeds draw the same")
	}
}

func TestGreedy(t *testing.T) {
	p := neutral
	p.Temperature = 0
	s := New(p, nil)
	logits := []float32{1, 5, 5, 2}
	for _, c := range []struct {
		banned []int32
		want   int32
	}{{nil, 1}, {[]int32{1}, 2}, {[]int32{1, 2, 99, -1}, 3}} {
		if id, err := s.Sample(logits, 0, c.banned); err != nil || id != c.want {
			t.Errorf("banned %v: %d, %v; want %d", c.banned, id, err, c.want)
		}
	}
}

func TestNonFinite(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, temperature := range []float64{0, 1} {
		p := neutral
		p.Temperature = temperature
		for _, logits := range [][]float32{{1, nan}, {nan, 1}, {1, inf}, {-inf, -inf}, {}} {
			if id, err := New(p, nil).Sample(logits, 0, nil); !errors.Is(err, ErrNonFinite) {
				t.Errorf("temperature %v, %v: %d, %v", temperature, logits, id, err)
			}
		}
		if _, err := New(p, nil).Sample([]float32{1}, 0, []int32{0}); !errors.Is(err, ErrNoToken) {
			t.Errorf("everything banned: %v", err)
		}
	}
}

// Temperatures and logits at the ends of their ranges still give a distribution, nearly greedy where the temperature is
// tiny.
func TestExtremes(t *testing.T) {
	for _, temperature := range []float64{5e-324, 1e-300, 1e-18, 1e-6, 1e300} {
		for _, edit := range []func(*Params){func(*Params) {}, func(p *Params) { p.TopP = 0.5 },
			func(p *Params) { p.TopK = 2 }, func(p *Params) { p.MinP = 0.1 }} {
			p := neutral
			p.Temperature = temperature
			edit(&p)
			logits := []float32{-math.MaxFloat32, 3, math.MaxFloat32, 0, float32(math.Inf(-1))}
			ids, probs, err := New(p, nil).Distribution(logits)
			if err != nil {
				t.Fatal(err)
			}
			var total, best float64
			for i, id := range ids {
				total += probs[i]
				if id == 2 {
					best = probs[i]
				}
			}
			if !(math.Abs(total-1) < 1e-12) || slices.Contains(ids, 4) || temperature < 1 && best != 1 {
				t.Errorf("%+v: %v with %v", p, ids, probs)
			}
			if id, err := New(p, nil).Sample(logits, 0, nil); err != nil || temperature < 1 && id != 2 {
				t.Errorf("%+v: drew %d, %v", p, id, err)
			}
		}
	}
	if _, top := Logprobs([]float32{1, 2}, 0, -1); len(top) != 0 {
		t.Errorf("-1 best logprobs are %v", top)
	}
	if _, top := Logprobs([]float32{1, 2}, 0, math.MaxInt); len(top) != 2 {
		t.Errorf("all logprobs are %v", top)
	}
}

func TestTopPEqualsSorting(t *testing.T) {
	for seed := range uint64(50) {
		logits := randomLogits(300, seed)
		p := neutral
		p.TopP = rand.New(rand.NewPCG(seed, 9)).Float64()
		ids, _, err := New(p, nil).Distribution(logits)
		if err != nil {
			t.Fatal(err)
		}
		if want := naiveTopP(logits, p.TopP); len(ids) != want {
			t.Errorf("seed %d, top_p %v: kept %d, want %d", seed, p.TopP, len(ids), want)
		}
	}
}

// naiveTopP sorts everything and returns how many tokens stay.
func naiveTopP(logits []float32, p float64) int {
	var mass []float64
	var total float64
	for _, l := range logits {
		mass = append(mass, math.Exp(float64(l)))
		total += mass[len(mass)-1]
	}
	slices.Sort(mass)
	var tail float64
	for i, m := range mass[:len(mass)-1] {
		if tail += m; tail > (1-p)*total {
			return len(mass) - i
		}
	}
	return 1
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	if invariant.Race {
		t.Skip("the race detector makes sync.Pool forget")
	}
	logits := randomLogits(5000, 5)
	for name, edit := range map[string]func(*Params){
		"greedy": func(p *Params) { p.Temperature = 0 }, "top_p": func(p *Params) { p.TopP = 0.9 }, "top_k": func(
			p *Params) {
			p.TopK = 40
		},
		"penalties": func(p *Params) { p.RepetitionPenalty, p.FrequencyPenalty = 1.1, 0.5 },
	} {
		p := neutral
		edit(&p)
		s := New(p, []int32{1, 2, 3})
		i := 0
		if n := testing.AllocsPerRun(100, func() {
			id, err := s.Sample(logits, i, nil)
			if err != nil {
				t.Fatal(err)
			}
			s.seenOnce(id)
			i++
		}); n >= 1 {
			t.Errorf("%s: %v allocations a token", name, n)
		}
	}
}

// seenOnce counts the token without growing the maps, which would be an allocation of the test's own.
func (s *Sampler) seenOnce(id int32) {
	if s.count != nil && s.count[id] > 0 {
		s.count[id]++
	}
}

func BenchmarkSample(b *testing.B) {
	logits := randomLogits(49152, 6)
	for name, edit := range map[string]func(*Params){
		"greedy": func(p *Params) { p.Temperature = 0 }, "temperature": func(*Params) {},
		"top_p=0.9": func(p *Params) { p.TopP = 0.9 }, "top_k=40": func(p *Params) { p.TopK = 40 },
	} {
		b.Run(name, func(b *testing.B) {
			p := neutral
			edit(&p)
			s := New(p, nil)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := s.Sample(logits, i, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestExpNeg(t *testing.T) {
	worst := 0.0
	for z := 0.0; z > -700; z -= 0.00137 {
		worst = max(worst, math.Abs(expNeg(z)/math.Exp(z)-1))
	}
	if worst > 3e-12 {
		t.Errorf("relative error %g", worst)
	}
	if expNeg(0) != 1 || expNeg(math.Inf(-1)) != 0 || expNeg(-1e300) != 0 || expNeg(-707.9) <= 0 {
		t.Errorf("%g %g %g %g", expNeg(0), expNeg(math.Inf(-1)), expNeg(-1e300), expNeg(-707.9))
	}
}

// TestDrawingFromAllEqualsWalkingAll: the draw that stores only sums, against the one that stores every candidate.
func TestDrawingFromAllEqualsWalkingAll(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		logits := make([]float32, 1+rng.IntN(1000))
		for i := range logits {
			logits[i] = float32(rng.NormFloat64() * 5)
			if rng.IntN(3) == 0 {
				logits[i] = float32(math.Inf(-1))
			}
		}
		logits[rng.IntN(len(logits))] = 3
		s := New(Params{Temperature: 0.1 + 2*rng.Float64(), TopP: 1, RepetitionPenalty: 1}, nil)
		var w workspace
		if err := s.adjust(&w, logits, nil); err != nil {
			t.Fatal(err)
		}
		s.filter(&w)
		for _, u := range []float64{0, rng.Float64(), rng.Float64()} {
			if got, want := w.drawAny(u, s.p.Temperature), w.draw(u); got != want {
				t.Fatalf("u %v: token %d, from all candidates %d", u, got, want)
			}
		}
		if id := w.drawAny(math.Nextafter(1, 0), s.p.Temperature); math.IsInf(float64(logits[id]), -1) {
			t.Fatalf("the last draw is token %d, which cannot be drawn", id)
		}
	}
}

func TestLogprobsOfNaN(t *testing.T) {
	nan := float32(math.NaN())
	for _, logits := range [][]float32{{1, nan, 2}, {nan, 1, 2}, {1, 2, nan}} {
		if lp, _ := Logprobs(logits, 0, 1); !math.IsNaN(lp) {
			t.Errorf("%v: %v", logits, lp)
		}
	}
}

// TestTinyPenalty: a penalty of any size above 0 makes a seen token as likely as can be, never an infinity.
func TestTinyPenalty(t *testing.T) {
	for _, penalty := range []float64{5e-324, 1e-300, 1e-10} {
		for _, temperature := range []float64{0, 1e-5, 1, 2} {
			s := New(Params{Temperature: temperature, TopP: 0.9, TypicalP: 0.9, MinP: 0.1, RepetitionPenalty: penalty},
				[]int32{1})
			if id, err := s.Sample([]float32{9, 1, -1}, 0, nil); err != nil || id != 1 {
				t.Errorf("penalty %g, temperature %g: token %d, %v", penalty, temperature, id, err)
			}
		}
	}
}

// TestWindow: the repetition penalty counts the last tokens of prompt and output, as llama.cpp's repeat_last_n.
func TestWindow(t *testing.T) {
	logits := make([]float32, 10)
	for i := range logits {
		logits[i] = 1
	}
	prompt, output := []int32{1, 2, 3, 2}, []int32{4, 2, 5, 6}
	all := slices.Concat(prompt, output)
	for _, last := range []int{0, 1, 2, 3, 5, 7, 8, 9, math.MaxInt32} {
		s := New(Params{Temperature: 1, TopP: 1, RepetitionPenalty: 2, RepetitionLast: last}, prompt)
		for n := len(prompt); ; n++ {
			begin := 0
			if last > 0 {
				begin = max(0, n-last)
			}
			_, probs, err := s.Distribution(logits)
			if err != nil {
				t.Fatal(err)
			}
			for id, p := range probs {
				if penalized := p < slices.Max(probs); penalized != slices.Contains(all[begin:n], int32(id)) {
					t.Errorf("last %d after %d tokens: token %d penalized: %v", last, n, id, penalized)
				}
			}
			if n == len(all) {
				break
			}
			s.Accept(all[n])
		}
	}
}

// TestBans: allowed ids and bad words leave the other tokens as they are, and only an impossible request is an error.
func TestBans(t *testing.T) {
	logits := []float32{5, 4, 3, 2, 1}
	pick := func(p Params, output ...int32) (int32, error) {
		p.TopP, p.RepetitionPenalty = 1, 1
		s := New(p, []int32{0, 1})
		for _, id := range output {
			s.Accept(id)
		}
		return s.Sample(logits, len(output), nil)
	}
	for _, c := range []struct {
		name   string
		p      Params
		output []int32
		want   int32
	}{
		{"allowed", Params{AllowedIDs: []int32{2, 3}}, nil, 2},
		{"allowed beyond the vocabulary", Params{AllowedIDs: []int32{4, 99}}, nil, 4},
		{"one bad token", Params{BadWords: [][]int32{{0}}}, nil, 1},
		{"the beginning is not in the output", Params{BadWords: [][]int32{{1, 0}}}, nil, 0},
		{"the beginning is not at its end", Params{BadWords: [][]int32{{1, 0}}}, []int32{1, 2}, 0},
		{"the beginning is the output's end", Params{BadWords: [][]int32{{1, 0}}}, []int32{2, 1}, 1},
		{"a long word after many tokens", Params{BadWords: [][]int32{{3, 4, 0}, {1}}}, []int32{2, 2, 2, 3, 4}, 2},
		{"both", Params{BadWords: [][]int32{{3}}, AllowedIDs: []int32{3, 4}}, nil, 4},
	} {
		if got, err := pick(c.p, c.output...); err != nil || got != c.want {
			t.Errorf("%s: %d, %v; want %d", c.name, got, err, c.want)
		}
	}
	if _, err := pick(Params{BadWords: [][]int32{{3}}, AllowedIDs: []int32{3}}); !errors.Is(err, ErrNoToken) {
		t.Errorf("nothing is left: %v", err)
	}
	if _, err := pick(Params{AllowedIDs: []int32{}}); !errors.Is(err, ErrNoToken) {
		t.Errorf("nothing is allowed: %v", err)
	}
}

func TestTopLogprobs(t *testing.T) {
	logits := []float32{1, 4, 2, 3}
	want, best := Logprobs(logits, 2, 4)
	p := Params{Logprobs: 2, LogprobIDs: []int32{3, 2, 0, 3}}
	lp, top := p.TopLogprobs(logits, 2)
	if lp != want || !slices.Equal(top, []Logprob{best[2], best[1], best[3]}) {
		t.Errorf("%v %v of %v", lp, top, best)
	}
	p.LogprobIDs = nil
	if _, top := p.TopLogprobs(logits, 2); !slices.Equal(top, best[:2]) {
		t.Errorf("%v of %v", top, best)
	}
}

// A tiny temperature makes all masses but one 0 and some distances infinite: the most likely token stays typical.
func TestTypicalOfOneToken(t *testing.T) {
	for _, temperature := range []float64{1e-300, 1e-5} {
		s := New(Params{Temperature: temperature, TopP: 1, RepetitionPenalty: 1, TypicalP: 0.5}, nil)
		if id, err := s.Sample([]float32{1, 3, 2, -1e30}, 0, nil); err != nil || id != 1 {
			t.Errorf("temperature %g: token %d, %v", temperature, id, err)
		}
	}
}

// Where the likeliest token is not typical, min-p is relative to the likeliest of those that are.
func TestTypicalWithoutTheLikeliest(t *testing.T) {
	logits := make([]float32, 101)
	logits[0] = float32(math.Log(0.4 / (0.6 / 100)))
	for _, minP := range []float64{0, 0.1, 1} {
		s := New(Params{Temperature: 1, TopP: 0.999, RepetitionPenalty: 1, TypicalP: 0.5, MinP: minP}, nil)
		ids, _, err := s.Distribution(logits)
		if err != nil || len(ids) != 100 || slices.Contains(ids, 0) {
			t.Errorf("min_p %v: %v, %v", minP, ids, err)
		}
	}
}

func BenchmarkTypical(b *testing.B) {
	logits := make([]float32, 49152)
	for i := range logits {
		logits[i] = float32(6 * uniform(7, uint64(i)))
	}
	s := New(Params{Temperature: 0.8, TopP: 1, RepetitionPenalty: 1, TypicalP: 0.9}, nil)
	for i := range b.N {
		if _, err := s.Sample(logits, i, nil); err != nil {
			b.Fatal(err)
		}
	}
}
