package engine

import (
	"errors"
	"sync/atomic"
	"testing"

	"weft/internal/deadline"
	"weft/runtime/device"
	"weft/runtime/lora"
	"weft/runtime/model"
	"weft/runtime/tensor"
)

// withRelease gives r its own copy of the adapters, which its Release overwrites, like memory that is freed and used
// again: a step that still reads them gives other results, and the race detector reports it. released counts the calls.
func withRelease(r Request, released *atomic.Int32) Request {
	uses := make([]lora.Use, len(r.LoRA))
	for i, u := range r.LoRA {
		uses[i] = lora.Use{Weights: &lora.Weights{Layers: [][lora.NumTargets]device.LoRAMatrices{u.Weights.Layers[0]}},
			Scale: u.Scale}
	}
	r.LoRA = uses
	r.Release = func() {
		released.Add(1)
		for _, u := range uses {
			u.Weights.Layers[0][0].Rank = 7
		}
	}
	return r
}

func adapted(prompt []int32, maxTokens int, key string) Request {
	r := request(prompt, maxTokens)
	r.AdapterKey, r.LoRA = key, fakeAdapters[key]
	return r
}

// TestReleaseWaitsForTheStep cancels a sequence in the middle of a step that reads its adapter.
func TestReleaseWaitsForTheStep(t *testing.T) {
	for _, how := range []string{"cancel", "error", "panic"} {
		t.Run(how, func(t *testing.T) {
			m := newFakeModel(t)
			inside, goOn := make(chan struct{}), make(chan struct{})
			m.during = func(*model.Batch) {
				if m.forwards.Load() == 3 {
					inside <- struct{}{}
					<-goOn
				}
			}
			if how != "cancel" {
				m.broken = how
			}
			e := start(t, m.config())
			var first, second atomic.Int32
			freed := make(chan struct{})
			r := withRelease(adapted([]int32{1, 2, 3}, 400, "x"), &first)
			spoil := r.Release
			r.Release = func() {
				_ = e.Stats() // Stats takes the lock: it must not be held
				spoil()
				close(freed)
			}
			streams, err := e.Submit(t.Context(), r, withRelease(adapted([]int32{4, 5}, 400, "x+y"), &second))
			if err != nil {
				t.Fatal(err)
			}
			deadline.Receive(t, inside, "the third step")
			streams[0].Cancel()
			if o := collect(t, streams[0]); o.finish != Cancelled {
				t.Errorf("finish %d", o.finish)
			}
			if first.Load() != 0 {
				t.Error("released while the step under way reads the adapter")
			}
			close(goOn)
			deadline.Receive(t, freed, "the release of the adapter")
			if how == "cancel" {
				streams[1].Cancel()
			}
			collect(t, streams[1])
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			if first.Load() != 1 || second.Load() != 1 {
				t.Errorf("released %d and %d times", first.Load(), second.Load())
			}
		})
	}
}

// TestReleaseOnce whatever ends a request: its length, the engine's end while it runs or waits; and not at all where it
// was refused.
func TestReleaseOnce(t *testing.T) {
	cfg := newFakeModel(t).config()
	cfg.MaxSeqs = 1
	e := start(t, cfg)
	var done, running, waiting, refused atomic.Int32
	ended, err := e.Submit(t.Context(), withRelease(adapted([]int32{1}, 2, "y"), &done))
	if err != nil {
		t.Fatal(err)
	}
	collect(t, ended[0])
	streams, err := e.Submit(t.Context(), withRelease(adapted([]int32{1}, 400, "x"), &running),
		withRelease(adapted([]int32{2}, 400, "y"), &waiting))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Submit(t.Context(), withRelease(adapted([]int32{1}, -1, "x"), &refused)); !errors.Is(err,
		ErrInvalid) {
		t.Errorf("refused with %v", err)
	}
	next(t, streams[0])
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for _, s := range streams {
		if o := collect(t, s); o.ends != 1 {
			t.Errorf("%d terminal events", o.ends)
		}
	}
	if _, err := e.Submit(t.Context(), withRelease(adapted([]int32{1}, 1, "x"), &refused)); !errors.Is(err,
		ErrDraining) {
		t.Errorf("after Close: %v", err)
	}
	if done.Load() != 1 || running.Load() != 1 || waiting.Load() != 1 || refused.Load() != 0 {
		t.Errorf("released %d, %d, %d and, refused, %d times", done.Load(), running.Load(), waiting.Load(),
			refused.Load())
	}
}

func TestRequestsWithAdaptersAreChecked(t *testing.T) {
	e := start(t, newFakeModel(t).config())
	for name, change := range map[string]func(*Request){
		"no key":          func(r *Request) { r.AdapterKey = "" },
		"no adapter":      func(r *Request) { r.LoRA = nil },
		"no weights":      func(r *Request) { r.LoRA = []lora.Use{{Scale: 1}} },
		"no scale":        func(r *Request) { r.LoRA = []lora.Use{{Weights: r.LoRA[0].Weights}} },
		"another model":   func(r *Request) { r.LoRA = []lora.Use{{Weights: &lora.Weights{}, Scale: 1}} },
		"negative weight": func(r *Request) { r.Weight = -1 },
	} {
		r := adapted([]int32{1}, 1, "x")
		change(&r)
		if _, err := e.Submit(t.Context(), r); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCombinationsOfOtherThanSumsAreRefused before it can spoil a step of others.
func TestCombinationsOfOtherThanSumsAreRefused(t *testing.T) {
	m := newFakeModel(t)
	e := start(t, m.config())
	a := &lora.Adapter{Layers: make([][lora.NumTargets]lora.Module, 1)}
	a.Layers[0][lora.QProj] = lora.Module{Scale: 1, Gain: []float32{1, 2},
		A: lora.Matrix{DType: tensor.F32, Rows: 1, Cols: 2, Data: make([]byte, 8)},
		B: lora.Matrix{DType: tensor.F32, Rows: 2, Cols: 1, Data: make([]byte, 8)}}
	dora, err := lora.Load(m.dev, a)
	if err != nil {
		t.Fatal(err)
	}
	defer dora.Free()
	r := adapted([]int32{1}, 1, "x")
	r.LoRA = []lora.Use{{Weights: dora, Scale: 1}, r.LoRA[0]}
	if _, err := e.Submit(t.Context(), r); !errors.Is(err, ErrInvalid) || !errors.Is(err, lora.ErrNotCombinable) {
		t.Errorf("a combination of adapters with DoRA: %v", err)
	}
	r.LoRA = []lora.Use{{Weights: dora, Scale: 0.5}}
	if _, err := e.Submit(t.Context(), r); !errors.Is(err, lora.ErrNotCombinable) {
		t.Errorf("scaled DoRA: %v", err)
	}
}
