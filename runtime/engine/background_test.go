package engine

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft/internal/deadline"
	"weft/runtime/model"
)

// A background job and requests use the device in turn: never both, and requests wait for one stretch of the background
// job's work at most.
func TestBackgroundYields(t *testing.T) {
	cfg := newFakeModel(t).config()
	var owner atomic.Int32
	cfg.OnStep = func(StepInfo) {
		if owner.Load() != 0 {
			t.Error("a step ran while the background job had the device")
		}
	}
	e := start(t, cfg)
	g, err := e.Background(t.Context(), "training")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	stop := make(chan struct{})
	var stretches atomic.Int32
	done := make(chan struct{})
	end := sync.OnceFunc(func() { close(stop) })
	defer end() // otherwise the engine could not be closed
	go func() {
		defer close(done)
		g.Enter()
		defer g.Leave()
		for {
			owner.Store(1)
			time.Sleep(time.Millisecond)
			owner.Store(0)
			stretches.Add(1)
			select {
			case <-stop:
				return
			default:
				g.Yield()
			}
		}
	}()
	for i := 0; i < 20 || stretches.Load() < 5 && i < 10_000; i++ {
		st, err := e.Submit(t.Context(), request([]int32{1, 2, 3}, 5))
		if err != nil {
			t.Fatal(err)
		}
		if o := collect(t, st[0]); o.finish != Length {
			t.Fatalf("finish %d while the background job works: it does not yield", o.finish)
		}
	}
	end()
	deadline.Receive(t, done, "the background job's end")
	if n := stretches.Load(); n < 5 {
		t.Errorf("the background job had %d stretches", n)
	}
}

func place(t *testing.T, e *Engine, name string) *Background {
	t.Helper()
	b, err := e.Background(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBackgroundPlaceGoesInTurn(t *testing.T) {
	e := start(t, newFakeModel(t).config())
	first := place(t, e, "training")
	line := func(n int) []string {
		for len(e.Stats().Background.Jobs) < n { // until the other goroutine is in line
			time.Sleep(time.Millisecond)
		}
		return e.Stats().Background.Jobs
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone, second, third := make(chan error), make(chan *Background), make(chan *Background)
	go func() { _, err := e.Background(ctx, "an evaluation that is cancelled"); gone <- err }()
	line(2)
	go func() { b, _ := e.Background(t.Context(), "evaluation"); second <- b }()
	line(3)
	go func() { b, _ := e.Background(t.Context(), "more training"); third <- b }()
	if got := line(4); !slices.Equal(got, []string{"training", "an evaluation that is cancelled", "evaluation",
		"more training"}) {
		t.Errorf("in line are %q", got)
	}
	cancel()
	if err, _ := deadline.Receive(t, gone, "the error of the cancelled one"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the context's error", err)
	}
	select {
	case <-second:
		t.Fatal("two have the place")
	default:
	}
	if _, err := first.Submit(t.Context(), request([]int32{1, 2, 3}, 1)); err != nil {
		t.Fatal(err)
	}
	st, err := first.Submit(t.Context(), request([]int32{1, 2, 3}, 500))
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	first.Close()
	if o := collect(t, st[0]); o.finish != Cancelled {
		t.Errorf("finish %d of a sequence whose place is closed", o.finish)
	}
	if _, err := first.Submit(t.Context(), request([]int32{1}, 1)); !errors.Is(err, ErrInvalid) {
		t.Errorf("%v without the place", err)
	}
	b, _ := deadline.Receive(t, second, "the place")
	b.Close()
	b, _ = deadline.Receive(t, third, "the place")
	b.Close()
	if got := e.Stats().Background.Jobs; len(got) != 0 {
		t.Errorf("in line are %q", got)
	}
}

// TestBackgroundSequencesWait while a request is live, go on as if nothing had been, and count in their own figures.
func TestBackgroundSequencesWait(t *testing.T) {
	m := newFakeModel(t)
	var order []byte // by step: of which class it was
	began, submitted := make(chan struct{}), make(chan struct{})
	m.during = func(b *model.Batch) {
		class := byte('b') // the background sequences have an adapter
		if len(b.LoRA) == 0 {
			class = 'r'
		} else if b.LoRA[0].Begin > 0 || b.LoRA[len(b.LoRA)-1].End < len(b.IDs) {
			t.Error("a step with sequences of both classes")
		}
		if order = append(order, class); len(order) == 5 {
			close(began)
			<-submitted
		}
	}
	cfg := m.config()
	cfg.NumPages, cfg.MaxContext = 16, 256
	e := start(t, cfg)
	evaluation := place(t, e, "evaluation")
	defer evaluation.Close()
	var reqs []Request
	for i := range 6 {
		r := request([]int32{1, 2, int32(i), 4, 5, 6, 7, 8}, 60)
		r.LoRA, r.AdapterKey = fakeAdapters["x"], "x"
		reqs = append(reqs, r)
	}
	evaluated, err := evaluation.Submit(t.Context(), reqs...)
	if err != nil {
		t.Fatal(err)
	}
	deadline.Receive(t, began, "the fifth step")
	long := request(make([]int32, 180), 30) // takes most of the pages
	for i := range 3 {
		st, err := e.Submit(t.Context(), long)
		if i == 0 {
			close(submitted)
		}
		if err != nil {
			t.Fatal(err)
		}
		compare(t, long, collect(t, st[0]), plain(long, 256, 0))
	}
	for i, st := range evaluated {
		compare(t, reqs[i], collect(t, st), plain(reqs[i], 256, 0))
	}
	if err := e.Close(); err != nil { // the last step is counted
		t.Fatal(err)
	}
	runs, last := 0, byte('b')
	for _, class := range order {
		if class == 'r' && last == 'b' {
			runs++
		}
		last = class
	}
	if runs > 3 {
		t.Errorf("%s: background sequences join steps while a request is live", order)
	}
	s := e.Stats()
	if s.TokensIn != 3*180 || s.TokensOut != 3*30 || s.Preemptions != 0 || s.Background.Preemptions == 0 ||
		int(s.Steps+s.Background.Steps) != len(order) || s.Background.Tokens < 6*(8+59) || s.PrefixQueries != 3*180 {
		t.Errorf("%+v after %d steps", s, len(order))
	}
}

// TestBackgroundCache: background sequences find each other's prefixes and not those of requests, nor the other way.
func TestBackgroundCache(t *testing.T) {
	e := start(t, newFakeModel(t).config())
	evaluation := place(t, e, "evaluation")
	defer evaluation.Close()
	for i, c := range []struct {
		submit func(context.Context, ...Request) ([]*Stream, error)
		cached int
	}{{evaluation.Submit, 0}, {e.Submit, 0}, {evaluation.Submit, 32}, {e.Submit, 32}} {
		st, err := c.submit(t.Context(), request(make([]int32, 40), 2))
		if err != nil {
			t.Fatal(err)
		}
		if o := collect(t, st[0]); o.cached != c.cached {
			t.Errorf("sequence %d: %d tokens are cached, want %d", i, o.cached, c.cached)
		}
	}
}

// TestDrainEndsBackground at once, with an error that says why.
func TestDrainEndsBackground(t *testing.T) {
	e := start(t, newFakeModel(t).config())
	evaluation := place(t, e, "evaluation")
	st, err := evaluation.Submit(t.Context(), request([]int32{1, 2, 3}, 500))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if o := collect(t, st[0]); o.finish != Failed || !errors.Is(o.err, ErrDraining) {
		t.Errorf("finish %d, %v", o.finish, o.err)
	}
	if _, err := evaluation.Submit(t.Context(), request([]int32{1}, 1)); !errors.Is(err, ErrDraining) {
		t.Errorf("%v from an engine that drains", err)
	}
}

// TestReserveTakesBackgroundPages, also those of the step that is under way, when it is over.
func TestReserveTakesBackgroundPages(t *testing.T) {
	m := newFakeModel(t)
	inside, goOn := make(chan struct{}), make(chan struct{})
	m.during = func(*model.Batch) {
		if m.forwards.Load() == 20 {
			close(inside)
			<-goOn
		}
	}
	cfg := m.config()
	cfg.NumPages, cfg.MaxContext = 12, 64
	e := start(t, cfg)
	evaluation := place(t, e, "evaluation")
	defer evaluation.Close()
	var reqs []Request
	for i := range 4 {
		reqs = append(reqs, request([]int32{int32(i), 2, 3}, 50))
	}
	st, err := evaluation.Submit(t.Context(), reqs...)
	if err != nil {
		t.Fatal(err)
	}
	deadline.Receive(t, inside, "the step")
	if n := e.Stats().Pages.InUse; n <= 4 {
		t.Fatalf("%d pages in use: those to reserve are free all the same", n)
	}
	reserved := make(chan bool)
	go func() { reserved <- e.ReserveIdle(8 * e.pageBytes) }()
	waits := func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.held == 1
	}
	for !waits() {
		select {
		case ok := <-reserved:
			t.Fatalf("reserved at once: %v, while a step uses the pages", ok)
		case <-time.After(time.Millisecond):
		}
	}
	close(goOn)
	if ok, _ := deadline.Receive(t, reserved, "the reservation"); !ok {
		t.Error("the pages of background sequences were not reserved")
	}
	for i := range st {
		compare(t, reqs[i], collect(t, st[i]), plain(reqs[i], 64, 0))
	}
}
