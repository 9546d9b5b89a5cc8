package optim

import "unsafe"

// block8 is how many elements of an 8-bit state share an absmax (bitsandbytes since 0.44).
const block8 = 256

// state is Adam's two moments of one tensor: m and v in 32 bits, or codes with an absmax per block. Floats are views of
// the arena's bytes, in the machine's order, which is little-endian on every machine that weft runs on.
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

// arena is one zeroed run of bytes, on the heap or in a mapped file, from which the states are cut.
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
