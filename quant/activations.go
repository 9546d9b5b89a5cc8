package quant

import "math"

// ActGroup is the number of consecutive columns of an activation row that share one scale when activations are
// quantized to int8.
const ActGroup = 32

// smallestAct is the bits of 2^-121, the least power of two under which 127 divided by it is finite.
const smallestAct = (127 - 121) << 23

// QuantizeActs quantizes one row of activations to int8, the last group of ActGroup columns possibly short. len(q) is
// at least len(x), len(scales) at least ceil(len(x)/ActGroup). For each group, in float32 arithmetic throughout:
//
//	absmax = max |x|
//	scale  = absmax / 127
//	q      = clamp(round-half-to-even(x * (127 / absmax)), -127, 127)
//
// where 127/absmax is one rounded division. A group whose absmax is below 2^-121 (zero, subnormals, and values so small
// that 127/absmax would overflow) gets scale 0 and codes 0. A group with a NaN or an infinity gets scale NaN and codes
// 0: its products become NaN rather than silently finite. The value of a code is scale * float32(q).
func QuantizeActs(x []float32, q []int8, scales []float32) {
	for g := 0; g*ActGroup < len(x); g++ {
		begin := g * ActGroup
		group := x[begin:min(begin+ActGroup, len(x))]
		scales[g] = quantizeGroup(group, q[begin:][:len(group)])
	}
}

func quantizeGroup(x []float32, q []int8) float32 {
	var largest uint32 // of the magnitudes' bits: their order is the order of the magnitudes, then infinity, then NaN
	for _, v := range x {
		largest = max(largest, math.Float32bits(v)&0x7fffffff)
	}
	if largest < smallestAct || largest >= 0x7f800000 {
		clear(q)
		if largest < smallestAct {
			return 0
		}
		return float32(math.NaN())
	}
	absmax := math.Float32frombits(largest)
	inverse := 127 / absmax
	for i, v := range x {
		q[i] = int8(min(max(math.RoundToEven(float64(v*inverse)), -127), 127))
	}
	return absmax / 127
}
