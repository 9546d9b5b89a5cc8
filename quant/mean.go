package quant

import "math/bits"

// Constants of torch's sum.
const (
	sumLanes  = 8 // of a vector: torch has this kernel for AVX2, and uses it on processors with AVX-512 too
	sumChains = 4 // sums that are kept side by side
	sumLevels = 4 // of partial sums
)

// mean returns the mean of x, bit for bit as torch computes it for float32 on an x86 processor with one thread
// (ATen/native/cpu/SumKernel.cpp): the sums of vectors, and of what is left behind the last vector, in its order.
func mean(x []float32) float32 {
	if len(x) == 0 {
		return 0
	}
	if len(x) < sumLanes {
		return chains(x, 1)[0] / float32(len(x))
	}
	vectors := len(x) / sumLanes * sumLanes
	var sum float32
	for _, v := range x[vectors:] {
		sum += v
	}
	for _, v := range chains(x[:vectors], sumLanes) {
		sum += v
	}
	return sum / float32(len(x))
}

// chains sums vectors of the given number of lanes, lane by lane: vector i belongs to chain i mod sumChains, and the
// sums of the chains are added at the end. Vectors behind the last complete set belong to the first chain.
func chains(x []float32, lanes int) []float32 {
	width := sumChains * lanes
	rows := len(x) / width
	sums := cascade(x[:rows*width], width)
	for i, v := range x[rows*width:] {
		sums[i%lanes] += v
	}
	for k := lanes; k < width; k++ {
		sums[k%lanes] += sums[k]
	}
	return sums[:lanes]
}

// cascade sums the rows of x [rows, width]: runs of 2^power rows in the lowest level, which is then added to the next
// level, and so on wherever a level has had 2^power additions.
func cascade(x []float32, width int) []float32 {
	rows := len(x) / width
	power := 4
	if rows > 1 {
		power = max(power, bits.Len(uint(rows-1))/sumLevels) // a quarter of the logarithm, rounded up
	}
	step := 1 << power
	var acc [sumLevels][]float32
	for j := range acc {
		acc[j] = make([]float32, width)
	}
	add := func(to, from []float32) {
		for k := range to {
			to[k] += from[k]
		}
	}
	i := 0
	for i+step <= rows {
		for range step {
			add(acc[0], x[i*width:(i+1)*width])
			i++
		}
		for j := 1; j < sumLevels; j++ {
			add(acc[j], acc[j-1])
			clear(acc[j-1])
			if i&((step-1)<<(j*power)) != 0 {
				break
			}
		}
	}
	for ; i < rows; i++ {
		add(acc[0], x[i*width:(i+1)*width])
	}
	for _, level := range acc[1:] {
		add(acc[0], level)
	}
	return acc[0]
}
