package capture

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// model is what a store must hold: it is simple, and in memory.
type model struct {
	records map[string]*modelRecord
}

// unsure is the value of feedback of which it is not known whether it was kept.
const unsure = 0.5

type modelRecord struct {
	user, conversation, metadata string
	feedback                     []float64
}

// TestAgainstModel does random operations on a store and on a model of it; crashes lose nothing that was acknowledged.
func TestAgainstModel(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runAgainstModel(t, rand.New(rand.NewPCG(seed, 1)), 250) })
	}
}

func runAgainstModel(t *testing.T, rng *rand.Rand, steps int) {
	p := setup{t.TempDir()}
	var failAt atomic.Value
	failAt.Store("")
	setFault(t, func(point string) error {
		if point == failAt.Load() {
			return errors.New("failed at: " + point)
		}
		return nil
	})
	points := []string{atWriting, atWritten, atSynced, atIndexing, atIndexed}
	var seconds atomic.Int64 // the writer reads it, too
	seconds.Store(1_700_000_000)
	now := func() time.Time { return time.Unix(seconds.Load(), 0) }
	small := func(o *Options) { o.SegmentBytes, o.now = 2<<10, now }
	s := p.open(t, small)
	m := model{records: map[string]*modelRecord{}}
	ctx := t.Context()
	users := []string{"anna", "berta", "carla"}
	id := func() string { return fmt.Sprint("c", rng.IntN(60)) }
	deleteIf := func(f func(*modelRecord) bool) (n int64) {
		for id, r := range m.records {
			if f(r) {
				delete(m.records, id)
				n++
			}
		}
		return n
	}
	for step := range steps {
		seconds.Add(1)
		switch rng.IntN(12) {
		default: // the most frequent: put
			r := record(id(), users[rng.IntN(3)], "a", fmt.Sprint("q", step))
			r.Created = now()
			r.Metadata = map[string]string{"conversation_id": fmt.Sprint(rng.IntN(9)), "k": fmt.Sprint(step)}
			if m.records[r.ID] == nil {
				m.records[r.ID] = &modelRecord{user: r.User, conversation: r.Metadata["conversation_id"],
					metadata: r.Metadata["k"]}
			}
			put(t, s, r)
		case 0, 1, 2:
			on, v := id(), float64(rng.IntN(2))
			err := s.AddFeedback(ctx, Feedback{Tenant: "t", ID: on, Value: &v})
			if r := m.records[on]; r == nil != errors.Is(err, ErrNotFound) || r != nil && err != nil {
				t.Fatalf("step %d: feedback on %s: %v", step, on, err)
			} else if r != nil {
				r.feedback = append(r.feedback, v)
			}
		case 3:
			on := id()
			err := s.Delete(ctx, "t", on)
			if m.records[on] == nil != errors.Is(err, ErrNotFound) || m.records[on] != nil && err != nil {
				t.Fatalf("step %d: delete %s: %v", step, on, err)
			}
			delete(m.records, on)
		case 4:
			sel := Selection{Tenant: "t", User: users[rng.IntN(3)]}
			match := func(r *modelRecord) bool { return r.user == sel.User }
			if rng.IntN(2) == 0 {
				sel = Selection{Tenant: "t", Conversation: fmt.Sprint(rng.IntN(9))}
				match = func(r *modelRecord) bool { return r.conversation == sel.Conversation }
			}
			d, err := s.Forget(ctx, sel)
			must(t, err)
			if n := deleteIf(match); n != d.Records {
				t.Fatalf("step %d: %+v forgot %d, want %d", step, sel, d.Records, n)
			}
		case 5:
			on := id()
			_, err := s.Update(ctx, "t", on, map[string]string{"k": fmt.Sprint("new", step)})
			if m.records[on] == nil != errors.Is(err, ErrNotFound) {
				t.Fatalf("step %d: update %s: %v", step, on, err)
			} else if r := m.records[on]; r != nil {
				r.metadata = fmt.Sprint("new", step)
			}
		case 6:
			must(t, s.Sweep(ctx))
		case 7: // a write that fails: it is whole afterwards, or not there; then the store is opened again
			must(t, s.flush(ctx))
			failAt.Store(points[rng.IntN(len(points))])
			if err := s.AddFeedback(ctx, Feedback{Tenant: "t", ID: id(), Value: value(unsure)}); err == nil {
				t.Fatalf("step %d: feedback that was not written is acknowledged", step)
			}
			failAt.Store("")
			if rng.IntN(2) == 0 {
				must(t, s.Close())
				s = p.open(t, small)
			}
		}
		if step%20 == 19 {
			compare(t, step, s, &m)
		}
	}
	compare(t, steps, s, &m)
	must(t, s.Sweep(ctx))
	want := 0
	for id := range m.records {
		list, err := s.FeedbackOn(ctx, "t", id)
		must(t, err)
		want += 1 + len(list)
	}
	if got := frames(t, s); got != want {
		t.Errorf("%d frames after a sweep, want %d", got, want)
	}
}

// compare fails where the store holds something else than the model.
func compare(t *testing.T, step int, s *Store, m *model) {
	t.Helper()
	there := checkStore(t, s)
	for id := range there {
		if m.records[id] == nil {
			t.Fatalf("step %d: %s was deleted or never put", step, id)
		}
	}
	for id, want := range m.records {
		if !there[id] {
			t.Fatalf("step %d: %s is lost", step, id)
		}
		if r := get(t, s, id); r.Metadata["k"] != want.metadata {
			t.Fatalf("step %d: %s has metadata %v, want %q", step, id, r.Metadata, want.metadata)
		}
		list, err := s.FeedbackOn(t.Context(), "t", id)
		must(t, err)
		var values []float64
		for _, f := range list {
			if *f.Value != unsure {
				values = append(values, *f.Value)
			}
		}
		if !slices.Equal(values, want.feedback) {
			t.Fatalf("step %d: %s has feedback %v, want %v", step, id, values, want.feedback)
		}
	}
}
