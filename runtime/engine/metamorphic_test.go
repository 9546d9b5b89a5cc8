package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft/internal/deadline"
	"weft/runtime/lora"
	"weft/runtime/model"
	"weft/runtime/sample"
)

// outcome is what a client sees of one request.
type outcome struct {
	tokens   []int32
	logprobs []TokenLogprobs
	prompt   []TokenLogprobs
	finish   FinishReason
	stopID   int32
	err      error
	cached   int
	events   int
	ends     int
}

// next returns the next event of a stream; false after the last one, and where none came in time and the test has
// failed.
func next(t testing.TB, s *Stream) (Event, bool) {
	t.Helper()
	return deadline.Receive(t, s.Events(), "an event of a stream")
}

// collect reads a stream to its end.
func collect(t testing.TB, s *Stream) outcome {
	t.Helper()
	o := outcome{stopID: -1}
	for ev, ok := next(t, s); ok; ev, ok = next(t, s) {
		o.events++
		if ev.Token >= 0 {
			o.tokens = append(o.tokens, ev.Token)
			if ev.Logprobs != nil {
				o.logprobs = append(o.logprobs, *ev.Logprobs)
			}
		} else if ev.Finish == Running {
			o.prompt, o.cached = ev.PromptLogprobs, ev.CachedTokens
		}
		if ev.Finish != Running {
			o.finish, o.stopID, o.err = ev.Finish, ev.StopID, ev.Err
			o.ends++
		}
	}
	return o
}

// plain is the reference: one sequence by itself, its tokens hashed directly, no pages, no batch.
func plain(r Request, context, ropeAt int) outcome {
	history := slices.Clone(r.Prompt)
	logitsAt := func(n int) []float32 {
		variant := fakeVariant(len(history), ropeAt, r.LoRA)
		var h uint64
		for _, id := range history[:n] {
			h = step(h, id, variant)
		}
		return fakeLogits(h)
	}
	o := outcome{stopID: -1}
	if r.PromptLogprobs >= 0 {
		o.prompt = []TokenLogprobs{{Token: r.Prompt[0], Logprob: math.NaN()}}
		for i := 1; i < len(r.Prompt); i++ {
			lp, top := sample.Logprobs(logitsAt(i), r.Prompt[i], r.PromptLogprobs)
			o.prompt = append(o.prompt, TokenLogprobs{r.Prompt[i], lp, top})
		}
	}
	o.finish = Length
	s := sample.New(r.Sampling, r.Prompt)
	for n := 0; n < r.MaxTokens; n++ {
		var banned []int32
		if n < r.MinTokens {
			banned = r.StopIDs
		}
		logits := logitsAt(len(history))
		id, err := s.Sample(logits, n, banned)
		if err != nil {
			return outcome{finish: Failed, err: err}
		}
		s.Accept(id)
		if k := r.Sampling.Logprobs; k >= 0 {
			lp, top := sample.Logprobs(logits, id, k)
			o.logprobs = append(o.logprobs, TokenLogprobs{id, lp, top})
		}
		o.tokens, history = append(o.tokens, id), append(history, id)
		if slices.Contains(r.StopIDs, id) {
			o.finish, o.stopID = Stop, id
			break
		}
		if len(history) >= context {
			break
		}
	}
	return o
}

func randomRequest(rng *rand.Rand, i int) Request {
	n := 1 + rng.IntN(90)
	prompt := make([]int32, n, n+50) // with spare capacity, which no other sequence may write to
	shared := rng.IntN(n + 1)
	for j := range prompt {
		if j < shared { // common prefixes, so that the prefix cache has hits
			prompt[j] = int32(j*7+shared%2) % fakeVocab
		} else {
			prompt[j] = int32(rng.IntN(fakeVocab))
		}
	}
	r := Request{ID: fmt.Sprint(i), Prompt: prompt, MaxTokens: rng.IntN(40), PromptLogprobs: -1,
		Salt:     []string{"", "tenant"}[rng.IntN(2)],
		Sampling: sample.Params{TopP: 1, RepetitionPenalty: 1, Logprobs: -1, Seed: rng.Uint64()}}
	if key := []string{"", "", "x", "y", "x+y"}[rng.IntN(5)]; key != "" {
		r.AdapterKey, r.LoRA = key, fakeAdapters[key]
	}
	r.Tenant, r.Weight = []string{"", "a", "b"}[rng.IntN(3)], float64(rng.IntN(3))
	if rng.IntN(2) == 0 {
		r.Sampling.Temperature, r.Sampling.TopP = 0.9, 0.8
		r.Sampling.RepetitionPenalty = 1.2
	}
	if rng.IntN(3) == 0 {
		r.Sampling.Logprobs = rng.IntN(4)
	}
	if rng.IntN(4) == 0 || r.MaxTokens == 0 {
		r.PromptLogprobs = rng.IntN(3)
	}
	for range rng.IntN(4) {
		r.StopIDs = append(r.StopIDs, int32(rng.IntN(fakeVocab)))
	}
	r.MinTokens = rng.IntN(4)
	return r
}

func equalLogprobs(a, b []TokenLogprobs) bool {
	return slices.EqualFunc(a, b, func(x, y TokenLogprobs) bool {
		return x.Token == y.Token && math.Float64bits(x.Logprob) == math.Float64bits(y.Logprob) &&
			slices.Equal(x.Top, y.Top)
	})
}

// randomLimits returns the limits of a schedule; the pages are few enough that some requests are preempted, or refused.
func randomLimits(rng *rand.Rand, m *fakeModel) Config {
	cfg := m.config()
	cfg.PageLen = []int{16, 32, 64}[rng.IntN(3)]
	cfg.NumPages = 96/cfg.PageLen + 1 + rng.IntN(20)
	cfg.MaxSeqs, cfg.MaxBatchTokens = 1+rng.IntN(8), 1+rng.IntN(48)
	cfg.MaxPrefillChunk = rng.IntN(3) * rng.IntN(20)
	cfg.PrefixCache = rng.IntN(3) > 0
	cfg.MaxContext = 70 + rng.IntN(80)
	m.maxRows = 1 + rng.IntN(12)
	if rng.IntN(3) == 0 {
		m.ropeAt = 20 + rng.IntN(60)
	}
	return cfg
}

// TestMetamorphic runs random requests of several tenants, and background sequences, under random limits, with cancels,
// while idle KV memory is reserved and released, and compares each with its run alone, bit for bit.
func TestMetamorphic(t *testing.T) {
	seeds := 80
	if testing.Short() {
		seeds = 20
	}
	preempted, hits, refused, reserved, reclaimed, evicted := uint64(0), uint64(0), 0, 0, 0, uint64(0)
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 77))
			m := newFakeModel(t)
			cfg := randomLimits(rng, m)
			limit := min(cfg.MaxContext, cfg.NumPages*cfg.PageLen)
			b := &reserver{idle: rng.IntN(3) > 0}
			if rng.IntN(3) > 0 {
				cfg.UseIdle = b.useIdle
			}
			cfg.BackgroundStep = time.Duration(seed % 2)
			e := start(t, cfg)
			place, err := e.Background(t.Context(), "evaluation")
			if err != nil {
				t.Fatal(err)
			}
			stop := b.run(t, e, rand.New(rand.NewPCG(seed, 5)))
			defer stop()
			var wg sync.WaitGroup
			var released atomic.Int32
			admitted := 0
			for i := range 24 {
				r := randomRequest(rng, i)
				reqs := []Request{r}
				for len(reqs) < 4 && rng.IntN(4) == 0 { // choices of one prompt, which use the same memory
					r.Sampling.Seed = rng.Uint64()
					reqs = append(reqs, r)
				}
				cancelAfter := -1
				if rng.IntN(5) == 0 {
					cancelAfter = rng.IntN(10)
				}
				reserved := make([]Request, len(reqs))
				for j := range reqs {
					reserved[j] = withRelease(reqs[j], &released)
				}
				submit := e.Submit
				if i%3 == 0 {
					submit = place.Submit
				}
				streams, err := submit(t.Context(), reserved...)
				if least := len(r.Prompt) + min(r.MaxTokens, 1); least > limit {
					if want := map[bool]error{true: ErrPromptTooLong,
						false: ErrNoMemory}[least > cfg.MaxContext]; !errors.Is(err, want) {
						t.Errorf("a prompt of %d tokens, context %d, %d pages of %d: %v, want %v", len(r.Prompt),
							cfg.MaxContext, cfg.NumPages, cfg.PageLen, err, want)
					}
					refused++
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				admitted += len(streams)
				for j, s := range streams {
					wg.Go(func() {
						if want := plain(reqs[j], limit, m.ropeAt); cancelAfter >= 0 {
							checkCancelled(t, s, cancelAfter, want)
						} else {
							compare(t, reqs[j], collect(t, s), want)
						}
					})
				}
			}
			wg.Wait()
			stop()
			reserved, reclaimed = reserved+b.reserved, reclaimed+b.reclaimed
			becomesIdle(t, e)
			s := e.Stats()
			evicted += s.Background.Preemptions
			if s.Reserved != b.held || s.Pages.Reserved != e.reservedPages(b.held) {
				t.Errorf("%d bytes are reserved, %d pages reserved; the reserver holds %d bytes", s.Reserved,
					s.Pages.Reserved,
					b.held)
			}
			if err := e.Close(); err != nil || int(released.Load()) != admitted {
				t.Errorf("%d of %d admitted sequences were released; close: %v", released.Load(), admitted, err)
			}
			preempted, hits = preempted+s.Preemptions, hits+s.PrefixHits
		})
	}
	t.Logf("%d preemptions, %d of background sequences, %d prefix hits, %d refusals, %d loans, %d reclaimed", preempted,
		evicted, hits, refused, reserved, reclaimed)
	if preempted == 0 || evicted == 0 || hits == 0 || refused == 0 || reserved == 0 || reclaimed == 0 {
		t.Error("the schedules prove too little")
	}
}

func compare(t *testing.T, r Request, got, want outcome) {
	t.Helper()
	if !slices.Equal(got.tokens, want.tokens) || got.finish != want.finish || got.stopID != want.stopID {
		t.Errorf("request %s: %v (%d, %v), alone %v (%d)", r.ID, got.tokens, got.finish, got.err, want.tokens,
			want.finish)
	}
	if !equalLogprobs(got.logprobs, want.logprobs) || !equalLogprobs(got.prompt, want.prompt) {
		t.Errorf(
			"request %s (%d prompt tokens, max %d): log-probabilities differ from the run alone: %d and %d, alone "+
				"%d and %d", r.ID, len(r.Prompt), r.MaxTokens,
			len(got.logprobs), len(got.prompt), len(want.logprobs), len(want.prompt))
	}
	if got.ends != 1 {
		t.Errorf("request %s: %d terminal events", r.ID, got.ends)
	}
}

// checkCancelled cancels after some tokens: what came before must still be the lone run's.
func checkCancelled(t *testing.T, s *Stream, after int, want outcome) {
	t.Helper()
	var tokens []int32
	ends := 0
	for ev, ok := next(t, s); ok; ev, ok = next(t, s) {
		if ev.Token >= 0 {
			tokens = append(tokens, ev.Token)
		}
		if len(tokens) >= after {
			s.Cancel()
		}
		if ev.Finish != Running {
			ends++
		}
	}
	if ends != 1 || len(tokens) > len(want.tokens) || !slices.Equal(tokens, want.tokens[:len(tokens)]) {
		t.Errorf("cancelled: %d terminal events, tokens %v, alone %v", ends, tokens, want.tokens)
	}
}

func TestQueueFullIsAllOrNothing(t *testing.T) {
	m := newFakeModel(t)
	cfg := m.config()
	cfg.MaxQueued = 3
	e := start(t, cfg)
	r := Request{Prompt: []int32{1}, MaxTokens: 1, PromptLogprobs: -1,
		Sampling: sample.Params{TopP: 1, RepetitionPenalty: 1, Logprobs: -1}}
	if _, err := e.Submit(t.Context(), r, r, r, r); !errors.Is(err, ErrQueueFull) {
		t.Errorf("four into a queue of three: %v", err)
	}
	if n := e.Stats().Waiting; n != 0 {
		t.Errorf("%d wait after a refusal", n)
	}
}

// TestContextCancels a sequence that runs and one that waits, both far from their ends: the model computes nothing
// between the end of their context and their terminal events.
func TestContextCancels(t *testing.T) {
	m := newFakeModel(t)
	inside, goOn := make(chan struct{}), make(chan struct{})
	m.during = func(*model.Batch) {
		if m.forwards.Load() == 3 {
			close(inside)
			<-goOn
		}
	}
	cfg := m.config()
	cfg.MaxSeqs = 1
	e := start(t, cfg)
	defer close(goOn)
	ctx, cancel := context.WithCancel(t.Context())
	streams, err := e.Submit(ctx, request([]int32{1, 2}, 400), request([]int32{3}, 400))
	if err != nil {
		t.Fatal(err)
	}
	deadline.Receive(t, inside, "the third step")
	cancel()
	for i, s := range streams {
		if o := collect(t, s); o.finish != Cancelled || o.ends != 1 {
			t.Fatalf("sequence %d: finish %d, %d terminal events; want Cancelled", i, o.finish, o.ends)
		}
	}
}

// TestScalesSideBySide: requests with one adapter at different scales in one batch give the same results as each alone,
// in any order, also as part of a LoRA combination.
func TestScalesSideBySide(t *testing.T) {
	w, other := fakeAdapter(1), fakeAdapter(2)
	var reqs []Request
	for i, uses := range [][]lora.Use{
		{{Weights: w, Scale: 1}}, {{Weights: w, Scale: 0.5}}, {{Weights: w, Scale: 1}},
		{{Weights: other, Scale: 1}, {Weights: w, Scale: 1}}, {{Weights: other, Scale: 1}, {Weights: w, Scale: 0.5}},
		{{Weights: other, Scale: 0.5}, {Weights: w, Scale: 0.5}},
	} {
		r := request([]int32{1, 2, 3, 4}, 20)
		r.ID, r.LoRA, r.AdapterKey = fmt.Sprint(uses), uses, string(rune('a'+i))
		reqs = append(reqs, r)
	}
	m := newFakeModel(t)
	most := 0
	m.during = func(b *model.Batch) { most = max(most, len(b.LoRA)) }
	e, err := prepare(m.config())
	if err != nil {
		t.Fatal(err)
	}
	streams, err := e.Submit(t.Context(), reqs...) // before the loop: all are in its first step
	if err != nil {
		t.Fatal(err)
	}
	go e.loop()
	for i, s := range streams {
		compare(t, reqs[i], collect(t, s), plain(reqs[i], 512, 0))
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if most != 9 {
		t.Errorf("at most %d segments in a batch, want 9: the requests were not side by side", most)
	}
}
