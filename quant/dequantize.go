package quant

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ErrMatrix is wrapped by every error of Matrix.Validate.
var ErrMatrix = errors.New("malformed matrix")

// String returns the layout's name as it appears in logs and metrics.
func (l Layout) String() string {
	names := [...]string{"f32", "f16", "bf16", "int8", "int4", "lookup4"}
	if int(l) >= len(names) {
		return fmt.Sprintf("Layout(%d)", uint8(l))
	}
	return names[l]
}

// Validate checks that the dimensions, the lengths of all slices and every code of a 4-bit layout agree with the doc of
// Matrix. A matrix may have no rows or no columns. Scales and values are not checked, except that with ScalesF16 they
// must be binary16 values.
func (m *Matrix) Validate() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%w: %v [%d, %d]: %s", ErrMatrix, m.Layout, m.Rows, m.Cols, fmt.Sprintf(format, args...))
	}
	if m.Rows < 0 || m.Cols < 0 || m.Cols > 0 && m.Rows > math.MaxInt/8/m.Cols {
		return fail("negative or too large")
	}
	values := m.Rows * m.Cols
	size := map[Layout]int{F32: 4, F16: 2, BF16: 2, Int8: 1, Int4: 1, Lookup4: 1}[m.Layout]
	if size == 0 {
		return fail("unknown layout")
	}
	if len(m.Data) != size*values {
		return fail("%d bytes of data, want %d", len(m.Data), size*values)
	}
	if m.Layout < Int8 {
		if m.GroupLen != 0 || m.Scales != nil || m.Mins != nil || m.Zero != 0 || m.Codes != nil || m.ScalesF16 {
			return fail("a float layout has no groups, scales, mins, zero or codes")
		}
		return nil
	}
	if m.GroupLen <= 0 {
		return fail("group length %d", m.GroupLen)
	}
	groups := m.Rows * ((m.Cols-1)/m.GroupLen + 1)
	if m.Cols == 0 {
		groups = 0
	}
	if len(m.Scales) != groups {
		return fail("%d scales, want %d for groups of %d", len(m.Scales), groups, m.GroupLen)
	}
	if m.Mins != nil && len(m.Mins) != groups {
		return fail("%d mins, want %d or none", len(m.Mins), groups)
	}
	if m.Zero != 0 && (m.Layout != Int4 || m.Mins != nil || m.Zero < 0 || m.Zero > 15) {
		return fail("zero-point %d: only Int4 without mins has one, in 0..15", m.Zero)
	}
	if (m.Codes != nil) != (m.Layout == Lookup4) || m.Layout == Lookup4 && m.Mins != nil {
		return fail("Lookup4, and only it, has codes, and it has no mins")
	}
	if m.Layout != Int8 {
		for i, q := range m.Data {
			if q > 15 {
				return fail("code %d of row %d, column %d is not in 0..15", q, i/m.Cols, i%m.Cols)
			}
		}
	}
	if m.ScalesF16 {
		for _, list := range [][]float32{m.Scales, m.Mins} {
			for i, s := range list {
				if s == s && F16ToF32(F32ToF16(s)) != s {
					return fail("ScalesF16 is set, but the scale or min %v of row %d is no binary16 value", s,
						i/(groups/m.Rows))
				}
			}
		}
	}
	return nil
}

// Row writes the values of row r to dst[:Cols] in float32 arithmetic exactly as the doc of Matrix says: the product is
// rounded to float32, then the sum with the min is rounded (never fused). The matrix must be valid and r in [0, Rows).
func (m *Matrix) Row(r int, dst []float32) {
	dst = dst[:m.Cols]
	switch m.Layout {
	case F32:
		for c := range dst {
			dst[c] = math.Float32frombits(binary.LittleEndian.Uint32(m.Data[4*(r*m.Cols+c):]))
		}
		return
	case F16:
		for c := range dst {
			dst[c] = F16ToF32(binary.LittleEndian.Uint16(m.Data[2*(r*m.Cols+c):]))
		}
		return
	case BF16:
		for c := range dst {
			dst[c] = BF16ToF32(binary.LittleEndian.Uint16(m.Data[2*(r*m.Cols+c):]))
		}
		return
	}
	groups := m.Groups()
	codes := m.Data[r*m.Cols:][:m.Cols]
	for g := range groups {
		begin, end := g*m.GroupLen, min((g+1)*m.GroupLen, m.Cols)
		scale := m.Scales[r*groups+g]
		for c := begin; c < end; c++ {
			dst[c] = m.level(codes[c]) * scale
		}
		if m.Mins != nil {
			addMin(dst[begin:end], m.Mins[r*groups+g])
		}
	}
}

// level returns the value of a code before the scale.
func (m *Matrix) level(q byte) float32 {
	switch m.Layout {
	case Int8:
		return float32(int8(q))
	case Int4:
		return float32(int(q) - m.Zero)
	default:
		return m.Codes[q]
	}
}

// addMin is a separate pass over stored products, so that no compiler may fuse the multiplication with the addition.
func addMin(x []float32, v float32) {
	for i := range x {
		x[i] += v
	}
}

// BF16ToF32 widens a bfloat16 (the upper half of a binary32); exact.
func BF16ToF32(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// F32ToBF16 rounds to the nearest bfloat16, ties to even; overflow gives an infinity, a NaN stays a (quiet) NaN.
func F32ToBF16(x float32) uint16 {
	b := math.Float32bits(x)
	if x != x {
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// F16ToF32 widens an IEEE 754 binary16; exact, subnormals, infinities and NaN payloads included.
func F16ToF32(h uint16) float32 {
	sign, exp, frac := uint32(h)>>15<<31, uint32(h)>>10&31, uint32(h)&0x3ff
	switch exp {
	case 0: // zero or subnormal: frac * 2^-24 is exact
		return math.Float32frombits(math.Float32bits(float32(frac)*0x1p-24) | sign)
	case 31:
		return math.Float32frombits(sign | 0xff<<23 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}

// F32ToF16 rounds to the nearest binary16, ties to even; magnitudes from 65520 give an infinity, those up to 2^-25
// zero, a NaN stays a (quiet) NaN.
func F32ToF16(x float32) uint16 {
	b := math.Float32bits(x)
	sign, b := uint16(b>>16&0x8000), b&0x7fffffff
	switch {
	case b > 0x7f800000:
		return sign | 0x7e00 | uint16(b>>13&0x3ff)
	case b >= 0x477ff000: // 65520 and more
		return sign | 0x7c00
	case b < 0x38800000: // below 2^-14: multiples of 2^-24; adding 0.5 rounds there, for its ulp is 2^-24
		f := math.Float32frombits(b) + 0.5
		return sign | uint16(math.Float32bits(f)-0x3f000000)
	}
	b += 0xfff + b>>13&1
	return sign | uint16((b-112<<23)>>13)
}
