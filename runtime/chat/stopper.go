package chat

import "unicode/utf8"

// Stopper emits generated text until a stop string appears. It holds back text that could be the start of one, so that
// no part of a stop string leaks out however the text is cut into pieces. The match that ends first wins, of those the
// longest; the result does not depend on the pieces. Time is linear in the text for each stop string (Knuth, Morris,
// Pratt 1977). Not safe for concurrent use.
type Stopper struct {
	// IncludeStop makes the stop string the end of the emitted text instead of leaving it out (vLLM's
	// include_stop_str_in_output). Set it before the first Push.
	IncludeStop bool

	stops []pattern
	buf   []byte // buf[head:] is held back
	head  int
	found string
	done  bool
}

// pattern is one stop string: fail[i] is the length of the longest proper border of text[:i+1]; at is how much of text
// the input ends with.
type pattern struct {
	text string
	fail []int
	at   int
}

// NewStopper returns a Stopper for the stop strings; empty ones are ignored.
func NewStopper(stops []string) *Stopper {
	s := &Stopper{}
	for _, text := range stops {
		if text == "" {
			continue
		}
		fail := make([]int, len(text))
		for i, k := 1, 0; i < len(text); i++ {
			for k > 0 && text[i] != text[k] {
				k = fail[k-1]
			}
			if text[i] == text[k] {
				k++
			}
			fail[i] = k
		}
		s.stops = append(s.stops, pattern{text: text, fail: fail})
	}
	return s
}

// Push takes the next piece of text and returns the text that may be sent. stopped reports that a stop string was
// completed: then emit is the last text, stop the string, and the rest of the piece is dropped, as is everything pushed
// later.
func (s *Stopper) Push(text string) (emit string, stopped bool, stop string) {
	if s.done {
		return "", true, s.found
	}
	for i := range len(text) {
		s.buf = append(s.buf, text[i])
		if k := s.advance(text[i]); k >= 0 {
			return s.finish(s.stops[k].text), true, s.found
		}
	}
	return s.take(s.safe()), false, ""
}

// advance feeds one byte to every pattern and returns the longest that is complete, or -1.
func (s *Stopper) advance(c byte) int {
	hit := -1
	for k := range s.stops {
		p := &s.stops[k]
		for p.at > 0 && p.text[p.at] != c {
			p.at = p.fail[p.at-1]
		}
		if p.text[p.at] == c {
			p.at++
		}
		if p.at < len(p.text) {
			continue
		}
		if hit < 0 || len(p.text) > len(s.stops[hit].text) {
			hit = k
		}
	}
	return hit
}

func (s *Stopper) finish(stop string) string {
	s.done, s.found = true, stop
	end := len(s.buf)
	if !s.IncludeStop {
		end -= len(stop)
	}
	out := string(s.buf[s.head:max(end, s.head)])
	s.buf = nil
	return out
}

// safe returns the end of the complete characters that cannot belong to a stop string.
func (s *Stopper) safe() int {
	end := len(s.buf)
	for _, p := range s.stops {
		end = min(end, len(s.buf)-p.at)
	}
	for back := 1; back < utf8.UTFMax && end-back >= s.head; back++ { // an incomplete character waits for its last byte
		if c := s.buf[end-back]; utf8.RuneStart(c) {
			if !utf8.FullRune(s.buf[end-back : end]) {
				end -= back
			}
			break
		}
	}
	return max(end, s.head)
}

// take emits the bytes up to end and keeps the rest, which is moved only when it is the smaller part.
func (s *Stopper) take(end int) string {
	out := string(s.buf[s.head:end])
	s.head = end
	if s.head > len(s.buf)/2 {
		s.buf = append(s.buf[:0], s.buf[s.head:]...)
		s.head = 0
	}
	return out
}

// Flush returns the text that is still held back, at the end of a text that no stop string ended.
func (s *Stopper) Flush() string {
	if s.done {
		return ""
	}
	s.done = true
	out := string(s.buf[s.head:])
	s.buf = nil
	return out
}
