package server

import "strings"

// stopper looks for stop strings in a growing text and holds back what may become one.
type stopper struct {
	stops []string
	held  string
}

func newStopper(stops []string) *stopper { return &stopper{stops: stops} }

// Push returns the text that can belong to no stop string. After a match stopped is true, emit ends before it and stop is the string;
// of several the one that ends first wins.
func (s *stopper) Push(text string) (emit string, stopped bool, stop string) {
	s.held += text
	end, at := len(s.held)+1, 0
	for _, st := range s.stops {
		if i := strings.Index(s.held, st); i >= 0 && (i+len(st) < end || i+len(st) == end && i < at) {
			end, at, stop = i+len(st), i, st
		}
	}
	if stop != "" {
		emit, s.held = s.held[:at], ""
		return emit, true, stop
	}
	keep := 0
	for _, st := range s.stops {
		for n := min(len(st)-1, len(s.held)); n > keep; n-- {
			if strings.HasSuffix(s.held, st[:n]) {
				keep = n
			}
		}
	}
	emit, s.held = s.held[:len(s.held)-keep], s.held[len(s.held)-keep:]
	return emit, false, ""
}

// Flush returns what is held back, when the text has ended.
func (s *stopper) Flush() string {
	held := s.held
	s.held = ""
	return held
}
