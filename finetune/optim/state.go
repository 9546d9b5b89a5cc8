package optim

import (
	"math"
	"unsafe"

	"weft/quant"
)

// block8 is how many elements of an 8-bit state share an absmax (bitsandbytes since 0.44).
const block8 = 256

// state is Adam's two moments of one tensor: m and v in 32 bits, or codes with an absmax per block. Floats are views of
// the arena's bytes, in native order, which is little-endian on every machine that weft supports.
type state struct {
	eightBit         bool
	m, v             []float32
	code1, code2     []byte
	absmax1, absmax2 []float32
}

func stateSize(eightBit bool, n int) int {
	if !eightBit {
		return 2 * align(4*n)
	}
	return 2*align(n) + 2*align(4*blocks(n))
}

func blocks(n int) int { return (n + block8 - 1) / block8 }

func newState(a *arena, eightBit bool, n int) state {
	if !eightBit {
		return state{m: floatsOf(a.take(4 * n)), v: floatsOf(a.take(4 * n))}
	}
	return state{
		eightBit: true, code1: a.take(n), code2: a.take(n), absmax1: floatsOf(a.take(4 * blocks(n))),
		absmax2: floatsOf(a.take(4 * blocks(n))),
	}
}

type field struct {
	name, dtype string
	n           int
	data        []byte
}

func (s *state) fields() []field {
	if !s.eightBit {
		return []field{{"exp_avg", "F32", len(s.m), bytesOf(s.m)}, {"exp_avg_sq", "F32", len(s.v), bytesOf(s.v)}}
	}
	return []field{
		{"state1", "U8", len(s.code1), s.code1}, {"state2", "U8", len(s.code2), s.code2},
		{"absmax1", "F32", len(s.absmax1), bytesOf(s.absmax1)}, {"absmax2", "F32", len(s.absmax2), bytesOf(s.absmax2)},
	}
}

func floatsOf(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

func bytesOf(v []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 4*len(v))
}

// arena is one zeroed block of bytes, on the heap or in a mapped file, from which the states are allocated.
type arena struct {
	data []byte
	used int
	free func() error
}

// alignment keeps each state on its own cache lines.
const alignment = 64

func align(n int) int { return (n + alignment - 1) / alignment * alignment }

func newArena(dir string, bytes int) (*arena, error) {
	if dir == "" || bytes == 0 {
		words := make([]uint64, (bytes+7)/8) // aligned for float32
		return &arena{data: unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), bytes),
			free: func() error { return nil }}, nil
	}
	data, free, err := mapScratch(dir, bytes)
	if err != nil {
		return nil, err
	}
	return &arena{data: data, free: free}, nil
}

func (a *arena) take(n int) []byte {
	b := a.data[a.used : a.used+n : a.used+n]
	a.used += align(n)
	return b
}

func (a *arena) size() int { return len(a.data) }

func (a *arena) close() error {
	free := a.free
	a.data, a.free = nil, func() error { return nil }
	return free()
}

// step8 is bitsandbytes' blockwise 8-bit AdamW by its device-independent rule (0.50; its CUDA kernel decays after the
// update instead of before) for elements at begin and on, where begin is a multiple of block8. A negative m keeps its
// sign: it never becomes the code of 0.
func (s *state) step8(k *coefficients, value, grad []float32, begin int) {
	var m, v [block8]float32
	for at := 0; at < len(value); at += block8 {
		n := min(block8, len(value)-at)
		b := (begin + at) / block8
		s.moments8(k, m[:n], v[:n], grad[at:at+n], begin+at, b)
		p := value[at : at+n]
		for i := range p {
			update := float32(k.stepSize8 * (m[i] / (float32(math.Sqrt(float64(v[i]))) + k.eps8)))
			p[i] = float32((p[i]-k.origin)*k.decay) + k.origin - update
		}
		s.store8(m[:n], v[:n], begin+at, b)
	}
}

// moments8 reads block b of the state and updates it with the gradient.
func (s *state) moments8(k *coefficients, m, v, grad []float32, at, b int) {
	code1, code2 := s.code1[at:at+len(m)], s.code2[at:at+len(m)]
	for i := range m {
		g := grad[i] * k.scale
		v[i] = float32(quant.DynamicUnsigned.Values[code2[i]]*s.absmax2[b]*k.beta2) + float32(float32(g*g)*k.oneMinus2)
		m[i] = float32(quant.DynamicSigned.Values[code1[i]]*s.absmax1[b]*k.beta1) + float32(g*k.oneMinus1)
	}
}

func (s *state) store8(m, v []float32, at, b int) {
	code1, code2 := s.code1[at:at+len(m)], s.code2[at:at+len(m)]
	quant.QuantizeBlockwise8(quant.DynamicUnsigned, v, block8, code2, s.absmax2[b:b+1])
	quant.QuantizeBlockwise8(quant.DynamicSigned, m, block8, code1, s.absmax1[b:b+1])
	for i, c := range code1 {
		if math.Signbit(float64(m[i])) && quant.DynamicSigned.Values[c] >= 0 {
			code1[i]--
		}
	}
}
