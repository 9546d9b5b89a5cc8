package quant

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// ErrBlocks4 is wrapped by every error about a tensor in blocks of 4-bit codes.
var ErrBlocks4 = errors.New("malformed 4-bit blocks")

// Kind4 is a set of 16 values, the codes of bitsandbytes' 4-bit quantization.
type Kind4 uint8

// NF4 has equally likely codes for normally distributed values (QLoRA, Dettmers et al. 2023, arXiv:2305.14314, §3); FP4
// has sign, 2-bit exponent and 1-bit mantissa.
const (
	NF4 Kind4 = iota
	FP4
)

// String returns bitsandbytes' name.
func (k Kind4) String() string { return [...]string{"nf4", "fp4"}[k] }

// Codes returns the values by code, bit for bit bitsandbytes'. FP4's codes 0 and 8 are both zero: 0 is the code of zero
// and small negative values, 8 of small positive ones.
func (k Kind4) Codes() *[16]float32 { return &codes4[k] }

var codes4 = [...][16]float32{
	NF4: {
		-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
		-0.09105003625154495, 0,
		0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434,
		0.5626170039176941, 0.7229568362236023, 1,
	},
	FP4: {
		0, 0.0052083334885537624, 0.6666666865348816, 1, 0.3333333432674408, 0.5, 0.1666666716337204, 0.25,
		0, -0.0052083334885537624, -0.6666666865348816, -1, -0.3333333432674408, -0.5, -0.1666666716337204, -0.25,
	},
}

// steps4 are a kind's codes by ascending value, and the midpoints between them; a value on a midpoint takes the lower
// code.
type steps4 struct {
	mids  [15]float32
	codes [16]byte
}

var sorted4 = [...]steps4{NF4: newSteps4(NF4), FP4: newSteps4(FP4)}

func newSteps4(k Kind4) steps4 {
	values := k.Codes()
	s := steps4{codes: [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}}
	slices.SortStableFunc(s.codes[:], func(a, b byte) int { return cmp.Compare(values[a], values[b]) })
	for i := range s.mids {
		s.mids[i] = (values[s.codes[i]] + values[s.codes[i+1]]) / 2
	}
	return s
}

func (s *steps4) code(x float32) byte {
	at := 0
	for step := 8; step > 0; step >>= 1 { // at is the number of midpoints below x
		if s.mids[at+step-1] < x {
			at += step
		}
	}
	return s.codes[at&15]
}

// Blocks4 is a matrix W [Rows, Cols] as bitsandbytes stores it: the values row by row as one sequence, divided into
// blocks of BlockLen (the last may be short, and blocks cross rows), each value a 4-bit code, each block with an
// absmax:
//
//	w[i] = Codes[code[i]] * Absmax[i/BlockLen]
type Blocks4 struct {
	Codes      *[16]float32
	Rows, Cols int
	BlockLen   int
	Packed     []byte // two codes a byte, the first in the high half; after an odd number of values the code of 0
	Absmax     []float32
	Nested     *Nested8 // if set, the absmaxes are quantized too, and Absmax is nil
}

// Nested8 is a list of absmaxes in 8 bits ("double quantization"): absmax[i] = Map[Codes[i]]*Absmax[i/BlockLen] +
// Offset, with two roundings.
type Nested8 struct {
	Map      *[256]float32
	Codes    []byte
	BlockLen int
	Absmax   []float32
	Offset   float32
}

// nestedLen is bitsandbytes' block of absmaxes.
const nestedLen = 256

// Quantize4 quantizes x [rows, cols] as bitsandbytes does, bit for bit, with absmaxes in 8 bits if double is set.
// blockLen is 64 in QLoRA.
func Quantize4(kind Kind4, x []float32, rows, cols, blockLen int, double bool) *Blocks4 {
	b := &Blocks4{Codes: kind.Codes(), Rows: rows, Cols: cols, BlockLen: blockLen, Packed: make([]byte, (len(x)+1)/2),
		Absmax: make([]float32, ceilDiv(len(x), blockLen))}
	steps := &sorted4[kind]
	parallel(len(b.Absmax), max(1, (1<<16)/blockLen)*2, func(begin, end int) { b.quantize(steps, x, begin, end) })
	if len(x)%2 == 1 {
		b.Packed[len(x)/2] |= steps.code(0)
	}
	if double {
		b.nest(mean(b.Absmax))
	}
	return b
}

// quantize fills the blocks [first, last). first must be even, so that two goroutines never write the same byte.
func (b *Blocks4) quantize(steps *steps4, x []float32, first, last int) {
	for k := first; k < last; k++ {
		begin, end := k*b.BlockLen, min((k+1)*b.BlockLen, len(x))
		top := absMax(x[begin:end])
		if end-begin < b.BlockLen {
			top = max(top, 1e-38)
		}
		b.Absmax[k] = top
		inv := 1 / max(top, 1e-38)
		for i := begin; i < end; i++ {
			s := x[i] * inv
			if end-begin < b.BlockLen {
				s = x[i] / top // bitsandbytes computes a short block differently
			}
			b.Packed[i/2] |= steps.code(s) << (4 * (1 - i%2))
		}
	}
}

// parallel runs f over [0, n) in runs of the given length, on all cores.
func parallel(n, run int, f func(begin, end int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), ceilDiv(n, run)) {
		wg.Go(func() {
			for begin := (int(next.Add(1)) - 1) * run; begin < n; begin = (int(next.Add(1)) - 1) * run {
				f(begin, min(begin+run, n))
			}
		})
	}
	wg.Wait()
}

// nest quantizes the absmaxes less their mean.
func (b *Blocks4) nest(offset float32) {
	n := &Nested8{Map: &DynamicSigned.Values, BlockLen: nestedLen, Codes: make([]byte, len(b.Absmax)),
		Absmax: make([]float32, ceilDiv(len(b.Absmax), nestedLen)), Offset: offset}
	rest := make([]float32, len(b.Absmax))
	for i, a := range b.Absmax {
		rest[i] = a - n.Offset
	}
	QuantizeBlockwise8(DynamicSigned, rest, nestedLen, n.Codes, n.Absmax)
	b.Absmax, b.Nested = nil, n
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }

// Validate checks the dimensions and the lengths of all parts.
func (b *Blocks4) Validate() error {
	if b.Rows < 1 || b.Cols < 1 || b.Rows > math.MaxInt/8/b.Cols {
		return fmt.Errorf("%w: shape [%d, %d]", ErrBlocks4, b.Rows, b.Cols)
	}
	if b.BlockLen < 1 || b.Codes == nil {
		return fmt.Errorf("%w: blocks of %d", ErrBlocks4, b.BlockLen)
	}
	n := b.Rows * b.Cols
	if len(b.Packed) != (n+1)/2 {
		return fmt.Errorf("%w: %d bytes of codes, want %d for [%d, %d]", ErrBlocks4, len(b.Packed), (n+1)/2, b.Rows,
			b.Cols)
	}
	blocks := ceilDiv(n, b.BlockLen)
	if b.Nested == nil {
		if len(b.Absmax) != blocks {
			return fmt.Errorf("%w: %d absmaxes, want %d for blocks of %d", ErrBlocks4, len(b.Absmax), blocks,
				b.BlockLen)
		}
		return nil
	}
	switch e := b.Nested; {
	case b.Absmax != nil || e.Map == nil || e.BlockLen < 1:
		return fmt.Errorf("%w: nested absmaxes in blocks of %d", ErrBlocks4, e.BlockLen)
	case len(e.Codes) != blocks || len(e.Absmax) != ceilDiv(blocks, e.BlockLen):
		return fmt.Errorf("%w: %d nested absmaxes in %d blocks of %d, want %d", ErrBlocks4, len(e.Codes), len(e.Absmax),
			e.BlockLen, blocks)
	case math.IsNaN(float64(e.Offset)) || math.IsInf(float64(e.Offset), 0):
		return fmt.Errorf("%w: nested offset %v", ErrBlocks4, e.Offset)
	}
	return nil
}

// Absmaxes returns the absmax of every block, dequantized where they are nested.
func (b *Blocks4) Absmaxes() []float32 {
	e := b.Nested
	if e == nil {
		return b.Absmax
	}
	out := make([]float32, len(e.Codes))
	for i, c := range e.Codes {
		out[i] = float32(e.Map[c]*e.Absmax[i/e.BlockLen]) + e.Offset
	}
	return out
}

// minGroup is the shortest group that Matrix makes: with shorter ones the scales would take more memory than float32
// values.
const minGroup = 4

// Matrix returns the values in a layout that is served, without loss. Blocks become groups of a row: unchanged if they
// divide a row, else in pieces of the greatest common divisor of row and block, each with its block's absmax. Where
// pieces would be shorter than minGroup the matrix is F32.
func (b *Blocks4) Matrix() (*Matrix, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	absmax := b.Absmaxes()
	m := &Matrix{Layout: Lookup4, Rows: b.Rows, Cols: b.Cols, GroupLen: gcd(b.Cols, b.BlockLen),
		Data: make([]byte, b.Rows*b.Cols), Codes: b.Codes}
	for i := range m.Data {
		m.Data[i] = b.Packed[i/2] >> (4 * (1 - i%2)) & 15
	}
	if m.GroupLen < minGroup && m.GroupLen < b.Cols {
		return b.floats(m.Data, absmax), nil
	}
	m.Scales = make([]float32, b.Rows*m.Groups())
	for g := range m.Scales {
		m.Scales[g] = absmax[g*m.GroupLen/b.BlockLen]
	}
	return m, nil
}

func (b *Blocks4) floats(codes []byte, absmax []float32) *Matrix {
	m := &Matrix{Layout: F32, Rows: b.Rows, Cols: b.Cols, Data: make([]byte, 0, 4*len(codes))}
	for i, c := range codes {
		m.Data = appendF32(m.Data, b.Codes[c]*absmax[i/b.BlockLen])
	}
	return m
}

func appendF32(b []byte, x float32) []byte {
	u := math.Float32bits(x)
	return append(b, byte(u), byte(u>>8), byte(u>>16), byte(u>>24))
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
