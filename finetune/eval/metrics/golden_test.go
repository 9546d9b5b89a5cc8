package metrics

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"weft/internal/goldens"
	"weft/runtime/weights"
)

// goldenCase is a sentence with what the reference tools make of it.
type goldenCase struct {
	Hyp       string
	Refs      []string
	Tokenized map[string][]string
	BLEU      map[string]struct {
		Score          float64
		Counts, Totals []float64
		SysLen         float64 `json:"sys_len"`
		RefLen         float64 `json:"ref_len"`
	} `json:"sentence_bleu"`
	NoEffectiveOrder float64 `json:"sentence_bleu_no_effective_order_13a_exp"`
	ChrF             float64
	ChrFPP           float64                   `json:"chrf++"`
	Evaluate         struct{ BLEU float64 }    `json:"hf_evaluate_bleu"`
	Rouge            map[string][3]float64     `json:"rouge"`
	RougeStem        map[string][3]float64     `json:"rouge_stem"`
	RougeZh          map[string][3]float64     `json:"rouge_zh"`
	RougeMulti       map[string][3]float64     `json:"rouge_multi"`
	Squad            *struct{ EM, F1 float64 } `json:"squad"`
	RougeChinese     map[string][3]float64     `json:"rouge_chinese"`
}

type goldenFile struct {
	Cases  []goldenCase
	Corpus map[string]json.RawMessage
}

func readGolden[T any](t *testing.T, name string) (v T) {
	t.Helper()
	text, err := os.ReadFile(goldens.Path(t, "train", "F_metrics", name))
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// near holds values to the reference tools' to 1e-6 of 100.
func near(t *testing.T, got, want float64, what ...any) {
	t.Helper()
	if !(math.Abs(got-want) <= 1e-6) {
		t.Errorf("%v: %.9f, want %.9f", what, got, want)
	}
}

func compute(t *testing.T, name string, o Options, samples ...Sample) *Scores {
	t.Helper()
	s, err := Compute(name, samples, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tokensOf(tokenizer, text string) string {
	w := newWorker()
	w.forget()
	var words []string
	for _, id := range tokenizers[tokenizer](w, text, nil) {
		words = append(words, wordOf(w, id))
	}
	return strings.Join(words, " ")
}

// wordOf is the word with a number.
func wordOf(w *worker, id int32) string {
	for _, slot := range w.slots {
		if slot.round != w.round || slot.id != id {
			continue
		}
		s := slot.word
		if s.size > maxShort {
			return string(w.text[s.b : s.b+uint64(s.size)])
		}
		both := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, s.a), s.b)
		return string(both[:s.size])
	}
	return ""
}

func smoothOf(name string) smoothing {
	for method, value := range map[string]float64{"floor": 0.1, "floor0.01": 0.01, "add-k": 1, "exp": 0, "none": 0} {
		if name == method {
			return smoothing{strings.TrimRight(method, ".01"), value}
		}
	}
	panic(name)
}

func TestGoldenSentences(t *testing.T) {
	goldens.Each(t, func(t *testing.T) {
		g := readGolden[goldenFile](t, "metrics.json")
		if len(g.Cases) < 12 {
			t.Fatalf("%d cases", len(g.Cases))
		}
		squads := 0
		for _, c := range g.Cases {
			all, first := Sample{c.Hyp, c.Refs}, Sample{c.Hyp, c.Refs[:1]}
			for tok, want := range c.Tokenized {
				for i, text := range append([]string{c.Hyp}, c.Refs...) {
					// sacrebleu leaves spaces here that it splits at later
					if got := tokensOf(tok, text); got != strings.Join(strings.Fields(want[i]), " ") {
						t.Errorf("%s of %q: %q, want %q", tok, text, got, want[i])
					}
				}
			}
			for setting, want := range c.BLEU {
				tok, smooth, _ := strings.Cut(setting, "/")
				row := compute(t, "bleu", Options{Tokenize: tok}, all).row(0)
				near(t, bleuScore(row, smoothOf(smooth), true), want.Score, "BLEU", setting, c.Hyp, c.Refs)
				for n := range bleuOrder {
					near(t, row[2+n], want.Counts[n], "count", n, setting, c.Hyp)
					near(t, row[2+bleuOrder+n], want.Totals[n], "total", n, setting, c.Hyp)
				}
				near(t, row[0], want.SysLen, "length", setting, c.Hyp)
				near(t, row[1], want.RefLen, "reference length", setting, c.Hyp)
			}
			near(t, compute(t, "bleu", Options{}, all).Value(), c.NoEffectiveOrder, "BLEU", c.Hyp)
			near(t, compute(t, "bleu", Options{}, all).Sample(0), c.BLEU["13a/exp"].Score, "sentence BLEU", c.Hyp)
			near(t, compute(t, "chrf", Options{}, all).Value(), c.ChrF, "chrF", c.Hyp)
			near(t, compute(t, "chrf++", Options{}, all).Value(), c.ChrFPP, "chrF++", c.Hyp)
			near(t, compute(t, "hf_evaluate_bleu", Options{}, all).Value(), 100*c.Evaluate.BLEU, "evaluate", c.Hyp)
			for name, want := range c.Rouge {
				triple(t, compute(t, name, Options{}, first), want, name, c.Hyp)
			}
			for name, want := range c.RougeStem {
				triple(t, compute(t, name, Options{Stemmer: true}, first), want, name, "stems", c.Hyp)
			}
			for name, want := range c.RougeZh {
				triple(t, compute(t, name, Options{Tokenize: "zh"}, first), want, name, "zh", c.Hyp)
			}
			for name, want := range c.RougeChinese {
				triple(t, compute(t, name, Options{}, first), want, name, c.Hyp)
			}
			if c.Squad != nil {
				squads++
				near(t, compute(t, "exact_match", Options{}, all).Value(), 100*c.Squad.EM, "exact match", c.Hyp)
				near(t, compute(t, "f1", Options{}, all).Value(), 100*c.Squad.F1, "F1", c.Hyp)
			}
			for name, want := range c.RougeMulti {
				triple(t, compute(t, name, Options{}, all), want, name, "references", c.Hyp)
			}
		}
		if squads == 0 && strings.HasSuffix(t.Name(), "committed") {
			t.Error("no case has SQuAD's metrics")
		}
	})
}

func triple(t *testing.T, s *Scores, want [3]float64, what ...any) {
	t.Helper()
	for k, v := range s.row(0) {
		near(t, v, want[k], append(what, k)...)
	}
}

func TestGoldenCorpus(t *testing.T) {
	goldens.Each(t, func(t *testing.T) {
		g := readGolden[goldenFile](t, "metrics.json")
		var all, first, small []Sample
		for _, c := range g.Cases {
			all, first = append(all, Sample{c.Hyp, c.Refs}), append(first, Sample{c.Hyp, c.Refs[:1]})
			refs := make([]string, len(c.Refs))
			for i, ref := range c.Refs {
				refs[i] = string(lower(nil, ref))
			}
			small = append(small, Sample{string(lower(nil, c.Hyp)), refs})
		}
		for setting, text := range g.Corpus {
			var want struct{ Score, BLEU float64 }
			var rouges map[string]float64
			parts := strings.Split(setting, "/")
			samples := all
			if strings.HasSuffix(setting, "first_ref") {
				samples = first
			}
			switch {
			case len(parts) >= 3:
				if parts[len(parts)-1] == "lowercase" {
					samples = small
				}
				read(t, text, &want)
				s := compute(t, "bleu", Options{Tokenize: parts[0]}, samples...)
				near(t, bleuScore(s.total(), smoothOf(parts[1]), false), want.Score, setting)
				if parts[1] == "exp" {
					near(t, s.Value(), want.Score, setting)
				}
			case setting == "chrf", setting == "chrf++":
				read(t, text, &want.Score)
				near(t, compute(t, setting, Options{}, all...).Value(), want.Score, setting)
			case strings.HasPrefix(setting, "hf_evaluate_bleu"):
				read(t, text, &want)
				near(t, compute(t, "hf_evaluate_bleu", Options{}, samples...).Value(), 100*want.BLEU, setting)
			case setting == "rouge_mean_f":
				read(t, text, &rouges)
				for name, want := range rouges {
					near(t, compute(t, name, Options{}, first...).Value(), 100*want, setting, name)
				}
			default:
				t.Errorf("%q is no setting that this test knows", setting)
			}
		}
		if len(g.Corpus) < 10 {
			t.Errorf("%d settings", len(g.Corpus))
		}
	})
}

func read(t *testing.T, text json.RawMessage, to any) {
	t.Helper()
	if err := json.Unmarshal(text, to); err != nil {
		t.Fatal(err)
	}
}

func TestGoldenStems(t *testing.T) {
	goldens.Each(t, func(t *testing.T) {
		g := readGolden[struct{ Stems map[string]string }](t, "porter.json")
		if len(g.Stems) < 100 {
			t.Errorf("%d stems", len(g.Stems))
		}
		for word, want := range g.Stems {
			if got := porter(word); got != want {
				t.Errorf("%s: %s, want %s", word, got, want)
			}
		}
	})
}

func TestGoldenBootstrap(t *testing.T) {
	goldens.Each(t, func(t *testing.T) {
		g := readGolden[struct {
			Systems map[string][]string
			Refs    []string
			Results []struct {
				System      string
				Score, Mean float64
				P           *float64 `json:"p_value"`
			}
			Head []float64 `json:"base_sample_scores_head"`
		}](t, "paired_bootstrap.json")
		resamples := indices(t, len(g.Refs))
		scores := map[string]*Scores{}
		for name, texts := range g.Systems {
			samples, err := Pairs(texts, g.Refs)
			if err != nil {
				t.Fatal(err)
			}
			scores[name] = compute(t, "bleu", Options{}, samples...)
		}
		base := scores["base"]
		for i, v := range base.Resampled(resamples[:len(g.Head)]) {
			near(t, v, g.Head[i], "resample", i)
		}
		tested := 0
		for _, want := range g.Results {
			s := scores[want.System]
			near(t, s.Value(), want.Score, want.System)
			mean := 0.0
			for _, v := range s.Resampled(resamples) {
				mean += v / float64(len(resamples))
			}
			near(t, mean, want.Mean, want.System, "mean")
			if want.P == nil {
				continue
			}
			tested++
			c, err := Compare(s, base, resamples, 1)
			if err != nil {
				t.Fatal(err)
			}
			near(t, c.BootstrapP, *want.P, want.System, "p")
			near(t, c.Value, want.Score-base.Value(), want.System, "difference")
		}
		if tested == 0 {
			t.Error("no test")
		}
	})
}

func indices(t *testing.T, n int) [][]int32 {
	t.Helper()
	f, err := weights.OpenSafetensors(goldens.Path(t, "train", "F_metrics", "bootstrap_indices.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, _, err := f.Ints("indices")
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(slices.Chunk(all, n))
}
