package jinja

import (
	"math/rand/v2"
	"testing"
)

func slowPlain(s []byte) int {
	for i, c := range s {
		if c < 0x20 || c == 0x22 || c == 0x5c {
			return i
		}
	}
	return len(s)
}

// TestPlainJSON puts every byte at every place of texts of all lengths up to 20, and random bytes behind it.
func TestPlainJSON(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 21 {
		for at := range n {
			for c := range 256 {
				s := make([]byte, n)
				for i := range s {
					s[i] = 'x'
					if i > at {
						s[i] = byte(r.IntN(256))
					}
				}
				s[at] = byte(c)
				if got, want := PlainJSON(s), slowPlain(s); got != want {
					t.Fatalf("%q: %d, want %d", s, got, want)
				}
			}
		}
	}
	for range 100_000 {
		s := make([]byte, r.IntN(40))
		for i := range s {
			s[i] = byte(0x1e + r.IntN(0xe2))
		}
		if got, want := PlainJSON(s), slowPlain(s); got != want {
			t.Fatalf("%q: %d, want %d", s, got, want)
		}
	}
}

func BenchmarkPlainJSON(b *testing.B) {
	s := make([]byte, 2000)
	for i := range s {
		s[i] = 'x'
	}
	b.SetBytes(int64(len(s)))
	for b.Loop() {
		PlainJSON(s)
	}
}
