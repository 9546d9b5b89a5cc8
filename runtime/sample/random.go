package sample

// uniform returns a number in [0, 1) that depends on seed and counter alone: two rounds of the SplitMix64 finalizer
// (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", §3) over both, so that neighbouring
// counters and seeds are unrelated.
func uniform(seed, counter uint64) float64 {
	x := mix(seed + 0x9e3779b97f4a7c15)
	x = mix(x ^ mix(counter+0x9e3779b97f4a7c15))
	return float64(x>>11) / (1 << 53)
}

func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// ChoiceSeed derives the seed of the i-th choice of a request, so that n choices differ and choice 0 equals a lone
// request.
func ChoiceSeed(seed uint64, i int) uint64 {
	if i == 0 {
		return seed
	}
	return mix(seed ^ mix(uint64(i)))
}
