package sample

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strconv"
	"testing"

	"weft/internal/goldens"
)

// number is a JSON number or one of the strings inf and -inf.
type number float64

func (n *number) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) != nil {
		s = string(b)
	}
	v, err := strconv.ParseFloat(s, 64)
	*n = number(v)
	return err
}

type golden struct {
	Logits   map[string][]number
	Contexts map[string]struct{ Prompt, Output []int32 }
	Cases    []struct {
		Logits, Context string
		Params          struct {
			Temperature       *float64
			TopK              int                `json:"top_k"`
			TypicalP          float64            `json:"typical_p"`
			TopP              *float64           `json:"top_p"`
			MinP              float64            `json:"min_p"`
			RepetitionPenalty *float64           `json:"repetition_penalty"`
			RepeatLastN       int                `json:"repeat_last_n"`
			PresencePenalty   float64            `json:"presence_penalty"`
			FrequencyPenalty  float64            `json:"frequency_penalty"`
			LogitBias         map[string]float64 `json:"logit_bias"`
		}
		Kept                   int
		Probs                  []float64
		ProbsSparse            map[string]float64 `json:"probs_sparse"`
		ProbsStableOrderSparse map[string]float64 `json:"probs_stable_order_sparse"`
	}
	Logprobs map[string][]struct {
		ID      int32
		Logprob number
	} `json:"logprobs_top20_of_raw_logits"`
}

func load(t *testing.T) *golden {
	t.Helper()
	text, err := os.ReadFile(goldens.Path(t, "serve", "sampling.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	if len(g.Cases) == 0 {
		t.Fatal("no case in sampling.json")
	}
	return &g
}

func (g *golden) logits(name string) []float32 {
	out := make([]float32, len(g.Logits[name]))
	for i, l := range g.Logits[name] {
		out[i] = float32(l)
	}
	return out
}

func or(p *float64, def float64) float64 {
	if p == nil {
		return def
	}
	return *p
}

func TestGoldenDistributions(t *testing.T) { goldens.Each(t, testGoldenDistributions) }

func testGoldenDistributions(t *testing.T) {
	g := load(t)
	for i, c := range g.Cases {
		t.Run(fmt.Sprintf("%d-%s", i, c.Logits), func(t *testing.T) {
			p := Params{
				Temperature: or(c.Params.Temperature, 1), TopK: c.Params.TopK, TopP: or(c.Params.TopP, 1),
				MinP: c.Params.MinP, TypicalP: c.Params.TypicalP, RepetitionLast: c.Params.RepeatLastN,
				RepetitionPenalty: or(c.Params.RepetitionPenalty, 1), PresencePenalty: c.Params.PresencePenalty,
				FrequencyPenalty: c.Params.FrequencyPenalty,
				LogitBias:        map[int32]float64{},
			}
			for k, v := range c.Params.LogitBias {
				id, err := strconv.Atoi(k)
				if err != nil {
					t.Fatal(err)
				}
				p.LogitBias[int32(id)] = v
			}
			s := New(p, g.Contexts[c.Context].Prompt)
			for _, id := range g.Contexts[c.Context].Output {
				s.Accept(id)
			}
			logits := g.logits(c.Logits)
			ids, probs, err := s.Distribution(logits)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]float64, len(logits))
			for j, id := range ids {
				got[id] = probs[j]
			}
			want := c.Probs
			if want == nil {
				want = dense(t, c.ProbsSparse, len(logits))
			}
			err = near(got, want)
			if err != nil && c.ProbsStableOrderSparse != nil {
				err = near(got, dense(t, c.ProbsStableOrderSparse, len(logits)))
			}
			if err != nil {
				t.Errorf("%+v: %v", p, err)
			}
		})
	}
}

func dense(t *testing.T, sparse map[string]float64, n int) []float64 {
	t.Helper()
	out := make([]float64, n)
	for k, v := range sparse {
		i, err := strconv.Atoi(k)
		if err != nil {
			t.Fatal(err)
		}
		out[i] = v
	}
	return out
}

// near allows the rounding of the file's 12 digits.
func near(got, want []float64) error {
	for i := range want {
		if d := math.Abs(got[i] - want[i]); !(d <= 1e-11) || (got[i] == 0) != (want[i] == 0) && want[i] > 1e-300 {
			return fmt.Errorf("token %d has probability %v, want %v", i, got[i], want[i])
		}
	}
	return nil
}

func TestGoldenLogprobs(t *testing.T) { goldens.Each(t, testGoldenLogprobs) }

func testGoldenLogprobs(t *testing.T) {
	g := load(t)
	for name, want := range g.Logprobs {
		t.Run(name, func(t *testing.T) {
			logits := g.logits(name)
			_, top := Logprobs(logits, 0, len(want))
			for i, w := range want {
				if math.IsInf(float64(w.Logprob), -1) {
					continue // impossible tokens have no order among themselves
				}
				if top[i].Token != w.ID || !(math.Abs(top[i].Logprob-float64(w.Logprob)) <= 1e-10) {
					t.Errorf("[%d] = %+v, want %+v", i, top[i], w)
				}
				if lp, _ := Logprobs(logits, w.ID, 0); !(math.Abs(lp-float64(w.Logprob)) <= 1e-10) {
					t.Errorf("logprob of %d = %v, want %v", w.ID, lp, w.Logprob)
				}
			}
		})
	}
}
