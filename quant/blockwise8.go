package quant

import (
	"math"
	"slices"
)

// Map8 is a set of 256 ascending values, the codes of bitsandbytes' blockwise 8-bit quantization (Dettmers et al. 2022,
// arXiv:2110.02861, §2.1).
type Map8 struct {
	Values [256]float32
	mids   [255]float32 // midpoints: a value equal to one takes the lower code
}

// DynamicSigned and DynamicUnsigned are bitsandbytes' dynamic maps, bit for bit: for signed and for non-negative
// values. The largest value of both is 1; the signed one has no -1.
var (
	DynamicSigned   = newMap8(dynamicValues(true))
	DynamicUnsigned = newMap8(dynamicValues(false))
)

// dynamicValues follows bitsandbytes' create_dynamic_map in float32: for each of seven decades, the means of adjacent
// points of an even division of [0.1, 1].
func dynamicValues(signed bool) []float32 {
	values := []float32{0, 1}
	for i := range 7 {
		points := 1<<i + 1
		if !signed {
			points = 1<<(i+1) + 1
		}
		scale := float32(math.Pow10(i - 6))
		for j := range points - 1 {
			v := float32(linspace(j, points)+linspace(j+1, points)) / 2 * scale
			values = append(values, v)
			if signed {
				values = append(values, -v)
			}
		}
	}
	slices.Sort(values)
	return values
}

// linspace is point i of n from 0.1 to 1 as torch computes it in float32: from the nearer end, rounded once (a fused
// multiply and add).
func linspace(i, n int) float32 {
	begin, end := float32(0.1), float32(1)
	step := float64((end - begin) / float32(n-1))
	if i < n/2 {
		return float32(float64(begin) + float64(step*float64(i)))
	}
	return float32(float64(end) - float64(step*float64(n-1-i)))
}

func newMap8(values []float32) *Map8 {
	m := &Map8{}
	copy(m.Values[:], values)
	for i := range m.mids {
		m.mids[i] = (m.Values[i] + m.Values[i+1]) / 2
	}
	return m
}

// Code returns the code whose value is nearest to x, which lies within [-1, 1]; of two equally near the lower. NaN
// takes code 0.
func (m *Map8) Code(x float32) byte {
	at := 0
	for step := 128; step > 0; step >>= 1 { // at is the number of midpoints below x
		if m.mids[at+step-1] < x {
			at += step
		}
	}
	return byte(at)
}

// QuantizeBlockwise8 writes a code for each value of x and the absmax of each run of block values, x ≈
// m.Values[code]*absmax. A block of zeros has the code of zero. codes has len(x) elements, absmax ceil(len(x)/block).
func QuantizeBlockwise8(m *Map8, x []float32, block int, codes []byte, absmax []float32) {
	for b := range absmax {
		begin, end := b*block, min((b+1)*block, len(x))
		top := absMax(x[begin:end])
		if end-begin < block {
			top = max(top, 1e-38) // bitsandbytes computes a short block differently
		}
		absmax[b] = top
		inv := 1 / max(top, 1e-38)
		for i := begin; i < end; i++ {
			codes[i] = m.Code(x[i] * inv)
		}
	}
}

func absMax(x []float32) float32 {
	top := float32(0)
	for _, v := range x {
		top = max(top, float32(math.Abs(float64(v))))
	}
	return top
}
