package engine

import "sync"

// Stream is one admitted request. Its events must be read until the terminal one.
type Stream struct {
	cancel func()
	once   sync.Once
	out    chan Event

	mu     sync.Mutex
	queue  []Event // at most one event a token, so bounded by MaxTokens
	filled chan struct{}
}

func newStream(cancel func()) *Stream {
	s := &Stream{cancel: cancel, out: make(chan Event, 16), filled: make(chan struct{}, 1)}
	go s.pump()
	return s
}

// Events returns the channel of events; it is closed after the terminal one.
func (s *Stream) Events() <-chan Event { return s.out }

// Cancel ends the request before its time; its pages are free within one step. It may be called at any time, also twice.
func (s *Stream) Cancel() { s.once.Do(s.cancel) }

// push never blocks: a slow reader must not hold up the step loop.
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
			s.out <- batch[i]
			if batch[i].Finish != Running {
				return
			}
		}
	}
}
