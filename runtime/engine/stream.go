package engine

import (
	"sync"
	"time"
)

// abandonAfter is how long undelivered events are kept for a reader whose context has ended.
const abandonAfter = 10 * time.Second

// Stream is one admitted request. Its events must be read until the terminal one, or the context of Submit must end.
type Stream struct {
	cancel func()
	once   sync.Once
	out    chan Event
	gone   <-chan struct{} // closed when the context of Submit ends

	mu     sync.Mutex
	queue  []Event // at most one event per token and two more, so bounded by MaxTokens
	filled chan struct{}
}

func newStream(gone <-chan struct{}, cancel func()) *Stream {
	s := &Stream{cancel: cancel, gone: gone, out: make(chan Event, 16), filled: make(chan struct{}, 1)}
	go s.pump()
	return s
}

// Events returns the channel of events; it is closed after the terminal one. If it is not read for some seconds after
// the context of Submit ended, it is closed without the events that did not fit its buffer.
func (s *Stream) Events() <-chan Event { return s.out }

// Cancel ends the request early; its pages are free within one step. It may be called at any time, also twice.
func (s *Stream) Cancel() { s.once.Do(s.cancel) }

// push never blocks: a slow reader must not delay the step loop.
func (s *Stream) push(ev Event) {
	s.mu.Lock()
	s.queue = append(s.queue, ev)
	s.mu.Unlock()
	select {
	case s.filled <- struct{}{}:
	default:
	}
}

// pump moves events from the queue to the channel and ends with the terminal one.
func (s *Stream) pump() {
	defer close(s.out)
	var batch []Event
	for range s.filled {
		s.mu.Lock()
		batch, s.queue = s.queue, batch[:0]
		s.mu.Unlock()
		for i := range batch {
			if !s.send(batch[i]) || batch[i].Finish != Running {
				return
			}
		}
		clear(batch) // so that log-probabilities are not kept
	}
}

// send sends an event; false if the channel is full and the reader is gone.
func (s *Stream) send(ev Event) bool {
	select {
	case s.out <- ev:
		return true
	default:
	}
	select {
	case s.out <- ev:
		return true
	case <-s.gone:
	}
	late := time.NewTimer(abandonAfter)
	defer late.Stop()
	select {
	case s.out <- ev:
		return true
	case <-late.C:
		return false
	}
}
