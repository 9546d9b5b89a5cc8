package model

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/runtime/device"
	"weft/runtime/device/cpu"
	"weft/runtime/tensor"
	"weft/runtime/tokenizer"
	"weft/runtime/weights"
)

// The perplexity of the default model on windows of WikiText-2: float activations equal the reference implementation's,
// int8 activations come within maxPerplexityChange of them. WEFT_PPL_WINDOWS takes another number of windows than the
// first few.
func TestPerplexity(t *testing.T) {
	const (
		defaultWindows      = 2
		maxPerplexityChange = 0.005
		maxNLLError         = 1e-5 // against float32 of another implementation, whose own error is 3e-7
	)
	if testing.Short() {
		t.Skip("half a minute")
	}
	g := readSmolLM2(t)
	path := cachedModel(t, g.SHA256)
	isa := bestISA(t)
	ids := wikiTextIDs(t, g, path)
	w := &g.WikiText
	windows := min(defaultWindows, len(w.MeanNLL))
	if s := os.Getenv("WEFT_PPL_WINDOWS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > len(w.MeanNLL) {
			t.Fatalf("WEFT_PPL_WINDOWS is %q; want 1 to %d", s, len(w.MeanNLL))
		}
		windows = n
	}
	mean := map[cpu.Activations]float64{}
	for _, activations := range []cpu.Activations{cpu.Float, cpu.Fast} {
		dev := newCPU(t, isa, 0, activations)
		m, err := Open(path, dev, Options{MaxBatchTokens: w.Window, MaxLogitRows: 64, MaxContext: w.Window})
		if err != nil {
			t.Fatal(err)
		}
		for i := range windows {
			at := (w.Windows[0] + i) * w.Stride
			nll := meanNLL(t, m, dev, ids[at:at+w.Window])
			if want := w.MeanNLL[i]; activations == cpu.Float && !(math.Abs(nll-want) <= maxNLLError) {
				t.Errorf("window %d: mean NLL %.7f with float activations, want %.7f", i, nll, want)
			}
			mean[activations] += nll / float64(windows)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	float, fast := math.Exp(mean[cpu.Float]), math.Exp(mean[cpu.Fast])
	change := fast/float - 1
	t.Logf("perplexity over %d windows on %s: float activations %.5f, int8 activations %.5f: %+.3f %%", windows, isa,
		float, fast, 100*change)
	if !(math.Abs(change) <= maxPerplexityChange) {
		t.Errorf("int8 activations change the perplexity by %+.3f %%, allowed are %.1f %%", 100*change,
			100*maxPerplexityChange)
	}
}

// meanNLL is the mean negative log-likelihood of all tokens of a window but the first.
func meanNLL(t *testing.T, m Model, dev device.Device, ids []int32) float64 {
	t.Helper()
	sum := 0.0
	for i, logits := range newHarness(t, m, dev, 16, len(ids), tensor.F32).forward(0, len(ids), ids...) {
		if i+1 < len(ids) {
			sum += nll(logits, ids[i+1])
		}
	}
	return sum / float64(len(ids)-1)
}

// nll is -ln softmax(logits)[id].
func nll(logits []float32, id int32) float64 {
	largest := logits[argmax(logits)]
	sum := 0.0
	for _, v := range logits {
		sum += math.Exp(float64(v - largest))
	}
	return math.Log(sum) - float64(logits[id]-largest)
}

// wikiTextIDs encodes the corpus with the model's own tokenizer and checks that it is the one of the reference.
func wikiTextIDs(t *testing.T, g *smollm2, path string) []int32 {
	t.Helper()
	text, err := os.ReadFile(goldens.Shared(t, filepath.FromSlash(g.WikiText.Corpus)))
	if err != nil {
		t.Fatal(err)
	}
	file, err := weights.OpenGGUF(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	tok, err := tokenizer.FromGGUF(file.Meta())
	if err != nil {
		t.Fatal(err)
	}
	ids := tok.Encode(string(text), tokenizer.EncodeOptions{})
	w := &g.WikiText
	first := ids[min(len(ids), w.Windows[0]*w.Stride):]
	if head := first[:min(len(first), len(w.FirstIDs))]; len(ids) != w.NumTokens || !slices.Equal(head, w.FirstIDs) {
		t.Fatalf("%d ids, the first window beginning %v, want %d and %v", len(ids), head, w.NumTokens, w.FirstIDs)
	}
	return ids
}

// The negative log-likelihood of the first stories under stories260K equals the double-precision reference's: of each
// listed story, and of all of them with a fast device.
func TestStoriesNLL(t *testing.T) { goldens.Each(t, testStoriesNLL) }

func testStoriesNLL(t *testing.T) {
	root := goldens.Shared(t, "data", "weights", "stories260K")
	var reference struct {
		NLL struct {
			Lines []string `json:"lines"`
		} `json:"nll"`
	}
	text, err := os.ReadFile(filepath.Join(root, "reference.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &reference); err != nil {
		t.Fatal(err)
	}
	corpus, err := os.ReadFile(goldens.Shared(t, "data", "corpora", "tinystories_sample.txt"))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Load(filepath.Join(root, "hf"))
	if err != nil {
		t.Fatal(err)
	}
	const context = 512
	stories := strings.Split(string(corpus), "<|endoftext|>")
	for name, open := range floatDevices(t) {
		t.Run(name, func(t *testing.T) {
			dev := open(t)
			m, err := Open(filepath.Join(root, "hf"), dev, Options{MaxBatchTokens: context, MaxLogitRows: 64})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			score := func(story string) (tokens int, sum float64) {
				ids := tok.Encode(strings.TrimSpace(story), tokenizer.EncodeOptions{})
				ids = ids[:min(len(ids), context)]
				inputs := slices.Concat([]int32{1}, ids[:len(ids)-1])
				for i, logits := range newHarness(t, m, dev, 16, context, tensor.F32).forward(0, len(inputs),
					inputs...) {
					sum += nll(logits, ids[i])
				}
				return len(ids), sum
			}
			for _, line := range reference.NLL.Lines {
				var doc, n, tokens int
				var want float64
				if _, err := fmt.Sscanf(line, "doc %d n %d nll_sum %f", &doc, &n, &want); err == nil {
					if doc > 0 && (name == "ref" || testing.Short()) {
						continue // slow
					}
					if got, sum := score(stories[doc]); got != n || !(math.Abs(sum-want) <= 1e-6*want) {
						t.Errorf("story %d: %d tokens, NLL %.6f; want %d and %.6f", doc, got, sum, n, want)
					}
				} else if _,
					err := fmt.Sscanf(line, "docs %d tokens %d mean_nll %f", &doc, &tokens, &want); err != nil {
					t.Errorf("line %q is not understood", line)
				} else if isas := cpu.ISAs(); len(isas) > 0 && name == "cpu-"+isas[len(isas)-1] && !testing.Short() {
					got, sum := 0, 0.0
					for _, story := range stories[:doc] {
						n, s := score(story)
						got, sum = got+n, sum+s
					}
					if mean := sum / float64(got); got != tokens || !(math.Abs(mean-want) <= 2e-6) {
						t.Errorf("%d stories: %d tokens, mean NLL %.6f; want %d and %.6f", doc, got, mean, tokens, want)
					}
				}
			}
		})
	}
}
