package sample

import "math"

// expNeg(z) = e^z for z <= 0 within 3e-12 of its value, 0 below the smallest normal number. A token drawn at a
// temperature takes one for every token of the vocabulary, which is why it is not math.Exp: e^z = 2^(k/128) * e^r with
// |r| <= ln2/256, the first factor from a table, the second by its Taylor polynomial of degree 3 (remainder r^4/24).
func expNeg(z float64) float64 {
	if !(z > expNegLeast) {
		return 0
	}
	k := int64(z*(expNegSteps/math.Ln2) - 0.5)
	r := z - float64(k)*(math.Ln2/expNegSteps)
	p := 1 + r*(1+r*(0.5+r*(1.0/6)))
	return p * math.Float64frombits(expNegTable[k&(expNegSteps-1)]+uint64(k>>7)<<52)
}

const (
	expNegSteps = 128  // 1 << 7
	expNegLeast = -708 // e^-708 is about 3e-308
)

// expNegTable holds the bits of 2^(i/128).
var expNegTable = func() (t [expNegSteps]uint64) {
	for i := range t {
		t[i] = math.Float64bits(math.Exp2(float64(i) / expNegSteps))
	}
	return t
}()
