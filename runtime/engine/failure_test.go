package engine

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weft/runtime/device"
	"weft/runtime/sample"
	"weft/runtime/tensor"
)

func request(prompt []int32, maxTokens int) Request {
	return Request{Prompt: prompt, MaxTokens: maxTokens, PromptLogprobs: -1,
		Sampling: sample.Params{TopP: 1, RepetitionPenalty: 1, Logprobs: -1}}
}

func TestBrokenStepFailsTheLiveAndTurnsUnhealthy(t *testing.T) {
	for _, how := range []string{"error", "panic"} {
		t.Run(how, func(t *testing.T) {
			m := newFakeModel(t)
			m.broken = how
			e := start(t, m.config())
			streams, err := e.Submit(t.Context(), request([]int32{1, 2, 3}, 300), request([]int32{4}, 300))
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range streams {
				if o := collect(t, s); o.finish != Failed || !errors.Is(o.err, ErrUnhealthy) || o.ends != 1 {
					t.Errorf("finish %d, error %v, %d terminal events", o.finish, o.err, o.ends)
				}
			}
			if err := e.Health(); !errors.Is(err, ErrUnhealthy) {
				t.Errorf("health %v", err)
			}
			if _, err := e.Submit(t.Context(), request([]int32{1}, 1)); !errors.Is(err, ErrUnhealthy) {
				t.Errorf("submit to a broken engine: %v", err)
			}
		})
	}
}

func TestNonFiniteLogitsFailOnlyTheirRequest(t *testing.T) {
	m := newFakeModel(t)
	m.poison = 60
	e := start(t, m.config())
	good, bad := request([]int32{1, 2}, 10), request([]int32{1, 60}, 10)
	bad.Sampling.Temperature = 1
	withAdapter := adapted([]int32{1, 60}, 10, "x")
	streams, err := e.Submit(t.Context(), good, bad, withAdapter)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, good, collect(t, streams[0]), plain(good, 512, 0))
	if o := collect(t, streams[1]); o.finish != Failed || !errors.Is(o.err, sample.ErrNonFinite) {
		t.Errorf("finish %d, error %v", o.finish, o.err)
	} else if strings.Contains(o.err.Error(), "adapter") {
		t.Errorf("%v: there is no adapter", o.err)
	}
	if o := collect(t, streams[2]); o.finish != Failed || !errors.Is(o.err, sample.ErrNonFinite) ||
		!strings.Contains(o.err.Error(), "adapter") {
		t.Errorf("with an adapter: finish %d, error %v", o.finish, o.err)
	}
	if err := e.Health(); err != nil {
		t.Errorf("one bad request made the engine sick: %v", err)
	}
}

func TestDrainWaitsThenCancels(t *testing.T) {
	e := start(t, newFakeModel(t).config())
	short := request([]int32{1}, 5)
	streams, err := e.Submit(t.Context(), short)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Drain(t.Context()); err != nil {
		t.Errorf("drain with time: %v", err)
	}
	compare(t, short, collect(t, streams[0]), plain(short, 512, 0))
	if _, err := e.Submit(t.Context(), short); !errors.Is(err, ErrDraining) {
		t.Errorf("submit while draining: %v", err)
	}

	cfg := newFakeModel(t).config()
	cfg.OnStep = func(StepInfo) { time.Sleep(time.Millisecond) } // the 500 steps take longer than the drain has
	f := start(t, cfg)
	streams, err = f.Submit(t.Context(), request([]int32{1}, 500))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	err = f.Drain(ctx)
	if o := collect(t, streams[0]); o.finish != Cancelled || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after a drain without time: finish %d, drain %v", o.finish, err)
	}
}

// TestCancelFreesPagesWithinOneStep counts forward passes between the cancel and the free pages.
func TestCancelFreesPagesWithinOneStep(t *testing.T) {
	m := newFakeModel(t)
	cfg := m.config()
	cfg.PrefixCache = false
	e := start(t, cfg)
	streams, err := e.Submit(t.Context(), request([]int32{1, 2, 3}, 500))
	if err != nil {
		t.Fatal(err)
	}
	next(t, streams[0])
	streams[0].Cancel()
	steps := m.forwards.Load()
	for e.Stats().Pages.InUse > 0 {
		if m.forwards.Load() > steps+1 {
			t.Fatal("pages are still in use after a whole step")
		}
	}
	collect(t, streams[0])
}

// TestPrefixCacheIsolation: equal prompts share pages only where adapter and salt are equal, and their results are the
// same either way.
func TestPrefixCacheIsolation(t *testing.T) {
	e := start(t, newFakeModel(t).config())
	prompt := make([]int32, 70)
	for i := range prompt {
		prompt[i] = int32(i % fakeVocab)
	}
	for _, c := range []struct {
		salt, key string
		cached    int
	}{{"", "", 0}, {"", "", 64}, {"tenant-a", "", 0}, {"tenant-b", "", 0}, {"tenant-a", "", 64}, {"", "x", 0},
		{"", "x", 64}} {
		r := request(append([]int32{}, prompt...), 4)
		r.Salt, r.AdapterKey, r.LoRA = c.salt, c.key, fakeAdapters[c.key]
		streams, err := e.Submit(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		o := collect(t, streams[0])
		compare(t, r, o, plain(r, 512, 0))
		if o.cached != c.cached {
			t.Errorf("salt %q, adapter %q: %d tokens cached, want %d", c.salt, c.key, o.cached, c.cached)
		}
	}
}

func TestRefusals(t *testing.T) {
	m := newFakeModel(t)
	cfg := m.config()
	cfg.NumPages = 8 // 128 tokens
	e := start(t, cfg)
	for name, c := range map[string]struct {
		r    Request
		want error
		says string
	}{
		"empty prompt":   {request(nil, 1), ErrInvalid, "empty"},
		"foreign token":  {request([]int32{fakeVocab}, 1), ErrInvalid, "embeddings for the ids below 61"},
		"negative token": {request([]int32{-1}, 1), ErrInvalid, "-1"},
		"negative max":   {request([]int32{1}, -1), ErrInvalid, "negative"},
		"beyond context": {request(make([]int32, 513), 1), ErrPromptTooLong, "513 tokens in a context of 512"},
		"beyond the memory": {request(make([]int32, 128), 100), ErrNoMemory,
			"need 9 KV pages of 16 tokens, there are 8"},
	} {
		_, err := e.Submit(t.Context(), c.r)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: error %v, want %v that says %q", name, err, c.want, c.says)
		}
	}
}

func TestPlanPages(t *testing.T) {
	c := device.KVConfig{Layers: 2, KVHeads: 2, HeadDim: 8, PageLen: 16, DType: tensor.F16} // 2048 bytes a page
	if n, err := PlanPages(1<<20, c); err != nil || n != 512 {
		t.Errorf("%d pages, %v", n, err)
	}
	if _, err := PlanPages(4096, c); !errors.Is(err, ErrNoMemory) || !strings.Contains(err.Error(), "4096 bytes") ||
		!strings.Contains(err.Error(), "2048") {
		t.Errorf("error %v does not state the sizes", err)
	}
}

// TestSlowReaderHoldsUpNobody never reads one stream while another finishes.
func TestSlowReaderHoldsUpNobody(t *testing.T) {
	e := start(t, newFakeModel(t).config())
	streams, err := e.Submit(t.Context(), request([]int32{1}, 400), request([]int32{2}, 400))
	if err != nil {
		t.Fatal(err)
	}
	if o := collect(t, streams[1]); o.finish != Length || len(o.tokens) != 400 {
		t.Errorf("finish %d after %d tokens", o.finish, len(o.tokens))
	}
	if o := collect(t, streams[0]); len(o.tokens) != 400 {
		t.Errorf("the slow reader got %d tokens", len(o.tokens))
	}
}

// TestAbandonedStreamsLeaveNothing: streams without a reader end with their context, and so do their goroutines.
func TestAbandonedStreamsLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t, newFakeModel(t).config())
		ctx, cancel := context.WithCancel(t.Context())
		streams, err := e.Submit(ctx, request([]int32{1}, 100), request([]int32{2}, 400))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // both have ended, each with far more events than the channel's buffer
		cancel()
		time.Sleep(abandonAfter + time.Second)
		for _, s := range streams {
			if o := collect(t, s); o.events > 16 || o.ends != 0 {
				t.Errorf("%d events and %d terminal ones were kept without a reader", o.events, o.ends)
			}
		}
	})
}

// TestReaderAfterItsContextGetsTheEnd: a reader that continues after its context has ended gets every event, the
// terminal one included.
func TestReaderAfterItsContextGetsTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t, newFakeModel(t).config())
		ctx, cancel := context.WithCancel(t.Context())
		r := request([]int32{1}, 100)
		streams, err := e.Submit(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		cancel()
		time.Sleep(abandonAfter / 2)
		compare(t, r, collect(t, streams[0]), plain(r, 512, 0))
	})
}

// TestOutputEndsWhereThePagesDo: a sequence that fills all pages ends as one that fills its context.
func TestOutputEndsWhereThePagesDo(t *testing.T) {
	cfg := newFakeModel(t).config()
	cfg.NumPages = 4
	e := start(t, cfg)
	r := request([]int32{1, 2, 3}, 400)
	streams, err := e.Submit(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	o := collect(t, streams[0])
	compare(t, r, o, plain(r, 64, 0))
	if len(o.tokens) != 61 || o.finish != Length {
		t.Errorf("%d tokens, finish %d", len(o.tokens), o.finish)
	}
}

func TestConfigIsRefused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no sequences":        func(c *Config) { c.MaxSeqs = 0 },
		"no queue":            func(c *Config) { c.MaxQueued = -1 },
		"no pages":            func(c *Config) { c.NumPages = 0 },
		"no page length":      func(c *Config) { c.PageLen = 0 },
		"negative chunk":      func(c *Config) { c.MaxPrefillChunk = -1 },
		"more than the model": func(c *Config) { c.MaxBatchTokens = 65 },
		"too long a context":  func(c *Config) { c.MaxContext = 4097 },
	} {
		cfg := newFakeModel(t).config()
		change(&cfg)
		if _, err := New(cfg); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestScoringNonFiniteLogitsFailsOnlyItsRequest in the middle of a prompt that takes several steps.
func TestScoringNonFiniteLogitsFailsOnlyItsRequest(t *testing.T) {
	m := newFakeModel(t)
	m.poison = 60
	e := start(t, m.config())
	good, bad := request([]int32{1, 2}, 10), request(append([]int32{1, 60}, make([]int32, 100)...), 0)
	good.PromptLogprobs, bad.PromptLogprobs = 1, 1
	streams, err := e.Submit(t.Context(), good, bad)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, good, collect(t, streams[0]), plain(good, 512, 0))
	if o := collect(t, streams[1]); o.finish != Failed || !errors.Is(o.err, sample.ErrNonFinite) || o.ends != 1 {
		t.Errorf("finish %d, error %v, %d ends", o.finish, o.err, o.ends)
	}
	if s := e.Stats(); s.Pages.InUse != 0 {
		t.Errorf("%d pages are still in use", s.Pages.InUse)
	}
}

// TestPanicInSamplingFailsOnlyItsRequest: a sampler that panics fails no other request.
func TestPanicInSamplingFailsOnlyItsRequest(t *testing.T) {
	e, err := prepare(newFakeModel(t).config())
	if err != nil {
		t.Fatal(err)
	}
	good := request([]int32{1, 2}, 10)
	streams, err := e.Submit(t.Context(), good, request([]int32{3}, 10))
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range e.live {
		if q.stream == streams[1] {
			q.sampler = nil
		}
	}
	go e.loop()
	defer e.Close()
	compare(t, good, collect(t, streams[0]), plain(good, 512, 0))
	if o := collect(t, streams[1]); o.finish != Failed || o.err == nil ||
		!strings.Contains(o.err.Error(), "panic in sampling") {
		t.Errorf("finish %d, error %v", o.finish, o.err)
	}
	if err := e.Health(); err != nil {
		t.Error(err)
	}
}
