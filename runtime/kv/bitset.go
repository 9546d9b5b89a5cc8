package kv

import "math/bits"

// bitset is a set of page ids that finds its smallest member quickly: levels[0] has a bit per page, each level above a
// bit per word that is not empty. All in O(log n).
type bitset struct {
	levels [][]uint64
	n      int // members
}

func newBitset(size int) bitset {
	var b bitset
	for words := size; ; {
		words = (words + 63) / 64
		b.levels = append(b.levels, make([]uint64, words))
		if words <= 1 {
			return b
		}
	}
}

func (b *bitset) has(id PageID) bool { return b.levels[0][id/64]>>(id%64)&1 == 1 }

// add puts in an id that is not in.
func (b *bitset) add(id PageID) {
	b.n++
	for _, level := range b.levels {
		level[id/64] |= 1 << (id % 64)
		id /= 64
	}
}

// remove takes out an id that is in.
func (b *bitset) remove(id PageID) {
	b.n--
	for _, level := range b.levels {
		if level[id/64] &^= 1 << (id % 64); level[id/64] != 0 {
			return
		}
		id /= 64
	}
}

// lowest returns the smallest id of a set that is not empty.
func (b *bitset) lowest() PageID {
	id := PageID(0)
	for i := len(b.levels) - 1; i >= 0; i-- {
		id = id*64 + PageID(bits.TrailingZeros64(b.levels[i][id]))
	}
	return id
}
