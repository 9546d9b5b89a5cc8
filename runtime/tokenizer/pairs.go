package tokenizer

import (
	"iter"
	"math/bits"
	"math/rand/v2"
)

// pairTable maps two adjacent symbols to their merge: open addressing, at most two thirds full, with a seeded hash that
// no file can predict.
type pairTable struct {
	slots []pairSlot
	// some bits of the hash of each entry, 0 if it is free: most pairs are absent, which this small table is enough to
	// show
	tags []uint8
	used int
	seed uint64
}

type pairSlot struct {
	key uint64
	merge
}

func pairKey(a, b int32) uint64 { return uint64(uint32(a))<<32 | uint64(uint32(b)) }

func newPairTable(pairs int) *pairTable {
	p := &pairTable{seed: rand.Uint64()}
	p.resize(1 << bits.Len(uint(pairs+pairs/2)|7))
	return p
}

func (p *pairTable) resize(n int) {
	old, tags := p.slots, p.tags
	p.slots, p.tags = make([]pairSlot, n), make([]uint8, n)
	for i, tag := range tags {
		if tag != 0 {
			at, _ := p.find(old[i].key)
			p.slots[at], p.tags[at] = old[i], tag
		}
	}
}

// find returns the index of key, or the free one for it, and its tag.
func (p *pairTable) find(key uint64) (at uint64, tag uint8) {
	mask := uint64(len(p.slots) - 1)
	hi, lo := bits.Mul64(key^p.seed, 0x9e3779b97f4a7c15)
	hash := hi ^ lo
	tag = uint8(hash>>56) | 1
	for at = hash & mask; ; at = (at + 1) & mask {
		if t := p.tags[at]; t == 0 || t == tag && p.slots[at].key == key {
			return at, tag
		}
	}
}

// put sets the merge of a and b.
func (p *pairTable) put(a, b int32, m merge) {
	key := pairKey(a, b)
	at, tag := p.find(key)
	if p.tags[at] == 0 {
		if p.used++; p.used > len(p.slots)/3*2 {
			p.resize(2 * len(p.slots))
			at, tag = p.find(key)
		}
	}
	p.slots[at], p.tags[at] = pairSlot{key, m}, tag
}

// get returns the merge of a and b; its rank is noMerge if there is none.
func (p *pairTable) get(a, b int32) merge {
	if at, _ := p.find(pairKey(a, b)); p.tags[at] != 0 {
		return p.slots[at].merge
	}
	return merge{rank: noMerge}
}

func (p *pairTable) has(a, b int32) bool {
	at, _ := p.find(pairKey(a, b))
	return p.tags[at] != 0
}

// all yields the pairs.
func (p *pairTable) all() iter.Seq2[int32, int32] {
	return func(yield func(a, b int32) bool) {
		for i := range p.slots {
			if key := p.slots[i].key; p.tags[i] != 0 && !yield(int32(key>>32), int32(uint32(key))) {
				return
			}
		}
	}
}
