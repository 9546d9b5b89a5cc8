package eval

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"

	"weft/finetune/grad"
	"weft/internal/goldens"
	"weft/runtime/device"
	"weft/runtime/device/ref"
	"weft/runtime/engine"
	"weft/runtime/model"
	"weft/runtime/tensor"
)

// uniform scores every token as one of ten, and remembers the windows.
func uniform(windows *[][]int32) Scorer {
	return func(_ context.Context, ids []int32) ([]float64, error) {
		*windows = append(*windows, ids)
		out := make([]float64, len(ids)-1)
		for i := range out {
			out[i] = -math.Log(10)
		}
		return out, nil
	}
}

func TestWindows(t *testing.T) {
	for _, c := range []struct {
		ids                     []int32
		o                       Options
		windows, tokens, scored int // the last: tokens passed to the scorer
	}{
		{[]int32{1, 2}, Options{Window: 2}, 1, 1, 2},
		{[]int32{1, 2, 3, 4, 5, 6, 7}, Options{Window: 3}, 2, 4, 6}, // the last one has one token
		{[]int32{1, 2, 3, 4, 5, 6, 7, 8}, Options{Window: 3}, 3, 5, 8},
		{[]int32{1, 2, 3, 4, 5, 6, 7, 8}, Options{Window: 3, MaxWindows: 2}, 2, 4, 6},
		{[]int32{1, 2, 3}, Options{Window: 512}, 1, 2, 3},
	} {
		var windows [][]int32
		r, err := Perplexity(t.Context(), uniform(&windows), c.ids, c.o)
		if err != nil {
			t.Fatal(err)
		}
		if r.Windows != c.windows || r.Tokens != c.tokens ||
			!slices.Equal(slices.Concat(windows...), c.ids[:c.scored]) {
			t.Errorf("%v, %+v: %+v of windows %v", c.ids, c.o, r, windows)
		}
		if math.Abs(r.Perplexity-10) > 1e-9 || math.Abs(r.MeanNLL-math.Log(10)) > 1e-12 {
			t.Errorf("%v, %+v: perplexity %v, mean %v", c.ids, c.o, r.Perplexity, r.MeanNLL)
		}
	}
}

func TestPerplexityRefuses(t *testing.T) {
	var windows [][]int32
	for _, ids := range [][]int32{nil, {1}} {
		if _, err := Perplexity(t.Context(), uniform(&windows), ids, Options{Window: 8}); !errors.Is(err, ErrTooShort) {
			t.Errorf("%v: %v", ids, err)
		}
	}
	for _, o := range []Options{{Window: 1}, {Window: 2, MaxWindows: -1}} {
		if _, err := Perplexity(t.Context(), uniform(&windows), []int32{1, 2, 3}, o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
	short := func(context.Context, []int32) ([]float64, error) { return []float64{-1}, nil }
	if _, err := Perplexity(t.Context(), short, []int32{1, 2, 3}, Options{Window: 3}); err == nil {
		t.Error("one value for two tokens is accepted")
	}
}

// What a served model is scored at is the loss that training computes of it.
func TestEngineEqualsTraining(t *testing.T) {
	dev := ref.New(ref.Options{Activations: ref.Float})
	t.Cleanup(func() { dev.Close() })
	m, err := model.Open(goldens.Path(t, "train", "models", "tiny-llama"), dev, model.Options{MaxBatchTokens: 16,
		MaxLogitRows: 16})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	e, err := engine.New(engine.Config{Model: m, Device: dev, PageLen: 16, NumPages: 16, KVDType: tensor.F32,
		MaxSeqs: 4, MaxQueued: 4, MaxBatchTokens: 16, MaxContext: 64})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	ids := make([]int32, 41)
	for i := range ids {
		ids[i] = int32(3 + (i*i+7*i)%190)
	}
	adapted := 0
	with := func(reqs ...engine.Request) []engine.Request {
		adapted += len(reqs)
		return reqs
	}
	got, err := Perplexity(t.Context(), OnEngine(e, with), ids, Options{Window: 20})
	if err != nil || got.Windows != 2 || got.Tokens != 38 || adapted != 2 {
		t.Fatalf("%+v of %d requests: %v", got, adapted, err)
	}
	g, err := grad.New(dev, m.Frozen(), grad.Config{MaxTokens: 40, MaxSample: 20, Precision: device.Float32})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	if err := g.Prepare(); err != nil {
		t.Fatal(err)
	}
	sum, err := g.Loss(&grad.Batch{IDs: ids[:40], Labels: ids[:40], Indptr: []int32{0, 20, 40}})
	if err != nil {
		t.Fatal(err)
	}
	if want := sum / 38; math.Abs(got.MeanNLL-want) > 1e-5*want {
		t.Errorf("mean negative log-likelihood %v, training has %v", got.MeanNLL, want)
	}

	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := OnEngine(e, nil)(over, ids[:20]); err == nil {
		t.Error("scored after the context had ended")
	}
}
