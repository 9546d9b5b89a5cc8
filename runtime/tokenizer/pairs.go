package tokenizer

import (
	"math/bits"
	"math/rand/v2"
)

// pairTable finds what two neighbours become: open addressing, at most two thirds full, of a hash that no file can foresee.
type pairTable struct {
	slots []pairSlot
	used  int
	seed  uint64
}

type pairSlot struct {
	key uint64 // freeSlot: none
	merge
}

const freeSlot = 1<<64 - 1 // no pair: ids are not negative

func pairKey(a, b int32) uint64 { return uint64(uint32(a))<<32 | uint64(uint32(b)) }

func newPairTable(pairs int) *pairTable {
	p := &pairTable{seed: rand.Uint64()}
	p.resize(1 << bits.Len(uint(pairs+pairs/2)|7))
	return p
}

func (p *pairTable) resize(n int) {
	old := p.slots
	p.slots = make([]pairSlot, n)
	for i := range p.slots {
		p.slots[i].key = freeSlot
	}
	for i := range old {
		if s := &old[i]; s.key != freeSlot {
			*p.slot(s.key) = *s
		}
	}
}

// slot returns the place of key, or the free one where it belongs.
func (p *pairTable) slot(key uint64) *pairSlot {
	mask := uint64(len(p.slots) - 1)
	hi, lo := bits.Mul64(key^p.seed, 0x9e3779b97f4a7c15)
	for i := hi ^ lo; ; i++ {
		if s := &p.slots[i&mask]; s.key == key || s.key == freeSlot {
			return s
		}
	}
}

// put sets what a and b become.
func (p *pairTable) put(a, b int32, m merge) {
	key := pairKey(a, b)
	s := p.slot(key)
	if s.key != key {
		if p.used++; p.used > len(p.slots)/3*2 {
			p.resize(2 * len(p.slots))
			s = p.slot(key)
		}
	}
	*s = pairSlot{key, m}
}

// get returns what a and b become; its rank is noMerge where they stay apart.
func (p *pairTable) get(a, b int32) merge {
	if s := p.slot(pairKey(a, b)); s.key != freeSlot {
		return s.merge
	}
	return merge{rank: noMerge}
}

func (p *pairTable) has(a, b int32) bool { return p.slot(pairKey(a, b)).key != freeSlot }
