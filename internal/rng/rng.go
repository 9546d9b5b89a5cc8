// Package rng is the one source of repeatable random numbers: SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable
// pseudorandom number generators"). Its bits are the same on every machine and in every version, because sampled
// tokens, the order of training data, dropout and initial weights are functions of them. It is no source of secrets.
package rng

import (
	"math"
	"math/bits"
)

// Golden is 2^64 divided by the golden ratio: SplitMix64's increment.
const Golden = 0x9e3779b97f4a7c15

// Mix is SplitMix64's finalizer, a bijection in which every bit of z changes about half of the result's bits.
func Mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// Unit maps 64 random bits to [0, 1), by their upper 53.
func Unit(x uint64) float64 { return float64(x>>11) / (1 << 53) }

// Source is a SplitMix64 generator; not safe for concurrent use. The zero value begins at state 0.
type Source struct{ state uint64 }

// New returns the generator whose state is seed, or the one of a stream within it: each number of stream selects an
// unrelated one of 2^64.
func New(seed uint64, stream ...uint64) *Source {
	s := &Source{seed}
	for _, n := range stream {
		s.state = s.Uint64() ^ n*Golden
	}
	return s
}

// Uint64 returns the next 64 bits.
func (s *Source) Uint64() uint64 {
	s.state += Golden
	return Mix(s.state)
}

// Float64 is uniform in [0, 1).
func (s *Source) Float64() float64 { return Unit(s.Uint64()) }

// Normal has mean 0 and variance 1 (Box and Muller 1958).
func (s *Source) Normal() float64 {
	return math.Sqrt(-2*math.Log(1-s.Float64())) * math.Cos(2*math.Pi*s.Float64())
}

// Below is uniform in [0, n), n above 0: Lemire's multiplication with rejection (2019, arXiv:1805.10941).
func (s *Source) Below(n uint64) uint64 {
	hi, lo := bits.Mul64(s.Uint64(), n)
	for limit := -n % n; lo < limit; {
		hi, lo = bits.Mul64(s.Uint64(), n)
	}
	return hi
}
