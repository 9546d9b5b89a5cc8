package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// choosy is a server with adapters of its own for each key; it notes what it was asked for.
type choosy struct {
	mu   sync.Mutex
	seen []string // key, model and, where given, the field lora
}

func (f *choosy) RoundTrip(r *http.Request) (*http.Response, error) {
	key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	resp := &http.Response{StatusCode: http.StatusOK, Request: r, Header: http.Header{}}
	if strings.HasSuffix(r.URL.Path, "/models") {
		resp.Body = io.NopCloser(strings.NewReader(fmt.Sprintf(`{"data":[{"id":"m","parent":null},{"id":"%[1]s-x","parent":"m"},{"id":"%[1]s-y","parent":"m"},{"id":"%[1]s-z","parent":"m"}]}`, key)))
		return resp, nil
	}
	var b body
	if err := json.NewDecoder(r.Body).Decode(&b); err != nil {
		return nil, err
	}
	if !b.Stream {
		resp.Body = io.NopCloser(strings.NewReader(`{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":64,"completion_tokens":1}}`))
		return resp, nil
	}
	f.mu.Lock()
	what := key + " " + b.Model
	if b.LoRA != nil {
		what += fmt.Sprint(" ", b.LoRA)
	}
	f.seen = append(f.seen, what)
	f.mu.Unlock()
	resp.Body = io.NopCloser(
		strings.NewReader(
			fmt.Sprintf(
				"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: "+
					"{\"choices\":[],\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d}}\n\ndata: [DONE]\n\n",
				len(strings.Fields(b.Messages[0].Content)), b.MaxTokens)))
	return resp, nil
}

func TestAdaptersAndKeys(t *testing.T) {
	for name, c := range map[string]struct {
		keys   []string
		choice AdapterChoice
		want   string
	}{
		"listed by the server for each key": {[]string{"k", "l"}, AdapterChoice{Adapters: 2, RoundRobin: true},
			"k k-x,l l-y,k k-x,l l-y"},
		"by a pattern": {nil, AdapterChoice{Adapters: 3, RoundRobin: true, Names: "bench-%02d"},
			" bench-00, bench-01, bench-02, bench-00"},
		"llama-server": {nil, AdapterChoice{Adapters: 2, RoundRobin: true, LlamaCpp: true},
			" m [{0 1}], m [{1 1}], m [{0 1}], m [{1 1}]"},
		"none": {[]string{"k"}, AdapterChoice{}, "k m,k m,k m,k m"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &choosy{}
			// an open loop in which one request ends before the next is due
			cfg := Config{URL: "http://127.0.0.1:1", Requests: 4,
				Trace: []Arrival{{0, 9, 1}, {ms(20), 9, 1}, {ms(40), 9, 1}, {ms(60), 9, 1}}, Keys: c.keys,
				Choice: c.choice,
				Client: &http.Client{Transport: f}}
			synctest.Test(t, func(t *testing.T) {
				out, took, err := Run(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				r := Summarize(out, took, Goal{})
				if r.Failed > 0 || r.Adapters != min(c.choice.Adapters, 4) || len(r.Keys) != len(c.keys)/2*2 {
					t.Errorf("%+v", r)
				}
				for _, k := range r.Keys {
					if k.Requests != 2 || k.OutputTokens != 2 {
						t.Errorf("a key's part is %+v", k)
					}
				}
			})
			if got := strings.Join(f.seen, ","); got != c.want {
				t.Errorf("asked for %q, want %q", got, c.want)
			}
		})
	}
}

func TestTooFewAdapters(t *testing.T) {
	_, _, err := Run(t.Context(),
		Config{URL: "http://127.0.0.1:1", Requests: 1, Concurrency: 1, Prompt: 1, Gen: 1,
			Choice: AdapterChoice{Adapters: 4},
			Client: &http.Client{Transport: &choosy{}}})
	if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "lists 3 adapters, 4 are needed") {
		t.Error(err)
	}
	for _, m := range []AdapterChoice{{Adapters: -1}, {Adapters: MaxAdapters + 1}, {Zipf: -1}, {Zipf: math.NaN()},
		{Adapters: 1, Names: "same"}, {Adapters: 1, Names: "%s"}, {Adapters: 1, Names: "%d-%d"}} {
		if err := m.check(); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", m, err)
		}
	}
}

// TestPopularityIsAPowerLaw: the shares of 1/1, 1/2, 1/3, ... for the exponent 1; equal ones for 0.
func TestPopularityIsAPowerLaw(t *testing.T) {
	const draws = 20_000
	for _, zipf := range []float64{0, 1, 2} {
		cfg := Config{Seed: 7, Choice: AdapterChoice{Adapters: 10, Zipf: zipf}}
		c := &client{cfg: &cfg, popularity: cfg.Choice.popularity()}
		var n [10]float64
		for i := range draws {
			n[c.adapter(i)]++
		}
		sum := 0.0
		for i := range n {
			sum += math.Pow(float64(i+1), -zipf)
		}
		for i := range n {
			want := math.Pow(float64(i+1), -zipf) / sum
			if got := n[i] / draws; !(math.Abs(got-want) < 0.01) {
				t.Errorf("exponent %v: adapter %d has a share of %.4f, want %.4f", zipf, i, got, want)
			}
		}
	}
}

// TestArrivalsHaveTheirSpread: mean and coefficient of variation of the gaps.
func TestArrivalsHaveTheirSpread(t *testing.T) {
	for _, cv := range []float64{0.5, 1, 2, 4} {
		rng := rand.New(rand.NewPCG(1, 2))
		const n = 200_000
		var sum, squares float64
		for range n {
			g := gap(rng, 5, cv)
			sum += g
			squares += g * g
		}
		mean := sum / n
		got := math.Sqrt(squares/n-mean*mean) / mean
		if !(math.Abs(mean*5-1) < 0.05) || !(math.Abs(got/cv-1) < 0.05) {
			t.Errorf("cv %v: mean %.4f s, want 0.2; cv %.3f", cv, mean, got)
		}
	}
}

// TestLengthsAreUniform between the shortest and the longest.
func TestLengthsAreUniform(t *testing.T) {
	f := &choosy{}
	out, _, err := Run(t.Context(),
		Config{URL: "http://127.0.0.1:1", Requests: 300, Concurrency: 4, Prompt: 10, PromptMax: 14, Gen: 3, GenMax: 5,
			Client: &http.Client{Transport: f}})
	if err != nil {
		t.Fatal(err)
	}
	in, gen := map[int]int{}, map[int]int{}
	for _, o := range out {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		in[o.PromptTokens]++
		gen[o.OutputTokens]++
	}
	if len(in) != 5 || in[10] < 30 || in[14] < 30 || len(gen) != 3 || gen[3] < 60 || gen[5] < 60 {
		t.Errorf("prompts %v, answers %v", in, gen)
	}
}
