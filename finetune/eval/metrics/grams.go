package metrics

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"unicode/utf8"
)

// worker holds the memory that one goroutine uses again for each sample.
type worker struct {
	vocabulary
	matcher
	lcs
	buf, alt []byte
	runes    []rune
	classes  []uint8
	prepared []byte
	stems    map[string]string
	hyp      []int32
	refs     [][]int32
	lines    [2][][]int32
	flat     [2][]int32
	counts   [2][]int32
	seen     []bool
	pairs    [2]pairSet
}

func newWorker() *worker {
	seed := maphash.MakeSeed()
	keys := [2]uint64{maphash.String(seed, "0"), maphash.String(seed, "1")}
	return &worker{vocabulary: vocabulary{seed: seed, keys: keys, slots: make([]wordSlot, 256)},
		matcher: matcher{table: gramTable{slots: make([]gramSlot, 256)}}, stems: map[string]string{}}
}

// reference returns an empty slice for the tokens of reference i.
func (w *worker) reference(i int) []int32 {
	for len(w.refs) <= i {
		w.refs = append(w.refs, nil)
	}
	return w.refs[i][:0]
}

// keep makes ids the tokens of reference i.
func (w *worker) keep(i int, ids []int32) {
	w.reference(i)
	w.refs[i] = ids
}

// room returns w.buf with n bytes, and room for a short word behind them.
func (w *worker) room(n int) []byte {
	if cap(w.buf) < n+maxShort {
		w.buf = make([]byte, 2*n+maxShort)
	}
	return w.buf[:n]
}

// vocabulary numbers the different words of one sample, from 0.
type vocabulary struct {
	seed  maphash.Seed
	keys  [2]uint64  // random, as seed: no text can be made whose words all have one slot
	slots []wordSlot // open addressing; a power of two, at most half full
	round uint32     // slots of other rounds are empty
	kinds int        // words that are numbered
	text  []byte     // the long words, one after another
	one   []byte
	known [1024]struct { // numbers of words of one character; see character
		r     rune
		round uint32
		id    int32
	}
}

// wordSlot holds a word and its number.
type wordSlot struct {
	word  shortWord
	round uint32
	id    int32
}

// shortWord is a word of at most maxShort bytes, with zeros behind it. Of a longer one it is its hash, and where it
// begins in the text of long words.
type shortWord struct {
	a, b uint64
	size uint32
}

const maxShort = 16

// masks keep the first bytes of eight.
var masks = [9]uint64{0, 1<<8 - 1, 1<<16 - 1, 1<<24 - 1, 1<<32 - 1, 1<<40 - 1, 1<<48 - 1, 1<<56 - 1, 1<<64 - 1}

// short reads a word without a branch on its length where its memory goes on behind it, as words within a text do.
func short(word []byte) shortWord {
	n := len(word)
	if cap(word) < maxShort {
		word = append(make([]byte, 0, maxShort), word...)
	}
	all := word[:maxShort]
	return shortWord{binary.LittleEndian.Uint64(all) & masks[min(n, 8)],
		binary.LittleEndian.Uint64(all[8:]) & masks[max(n, 8)-8], uint32(n)}
}

// first is the slot where the search for a word begins.
func (v *vocabulary) first(s shortWord) uint32 {
	hi, lo := bits.Mul64(s.a^v.keys[0], uint64(s.size)^v.keys[1])
	if s.size <= maxShort {
		hi, lo = bits.Mul64(s.a^v.keys[0], s.b^v.keys[1]^uint64(s.size))
	}
	return uint32(hi^lo) & uint32(len(v.slots)-1)
}

// forget empties the vocabulary.
func (v *vocabulary) forget() {
	v.text, v.kinds = v.text[:0], 0
	if v.round++; v.round == 0 {
		clear(v.slots)
		clear(v.known[:])
		v.round = 1
	}
}

// character is the number of a word of one character.
func (v *vocabulary) character(r rune) int32 {
	k := &v.known[r%rune(len(v.known))]
	if k.r != r || k.round != v.round {
		v.one = utf8.AppendRune(v.one[:0], r)
		k.r, k.round, k.id = r, v.round, v.id(v.one)
	}
	return k.id
}

// id is the number of a word.
func (v *vocabulary) id(word []byte) int32 {
	if len(word) > maxShort {
		return v.long(word)
	}
	s := short(word)
	at := v.first(s)
	for ; v.slots[at].round == v.round; at = (at + 1) & uint32(len(v.slots)-1) {
		if v.slots[at].word == s {
			return v.slots[at].id
		}
	}
	return v.add(at, s)
}

// long is the number of a word of more than maxShort bytes.
func (v *vocabulary) long(word []byte) int32 {
	s := shortWord{maphash.Bytes(v.seed, word), uint64(len(v.text)), uint32(len(word))}
	at := v.first(s)
	for ; v.slots[at].round == v.round; at = (at + 1) & uint32(len(v.slots)-1) {
		other := v.slots[at].word
		if other.a == s.a && other.size == s.size && bytes.Equal(v.text[other.b:other.b+uint64(s.size)], word) {
			return v.slots[at].id
		}
	}
	v.text = append(v.text, word...)
	return v.add(at, s)
}

// add gives a new word its number, and the slot that is free for it.
func (v *vocabulary) add(at uint32, s shortWord) int32 {
	id := int32(v.kinds)
	v.slots[at] = wordSlot{s, v.round, id}
	if v.kinds++; 2*v.kinds >= len(v.slots) {
		v.grow()
	}
	return id
}

func (v *vocabulary) grow() {
	old := v.slots
	v.slots = make([]wordSlot, 2*len(old))
	for _, s := range old {
		if s.round != v.round {
			continue
		}
		at := v.first(s.word)
		for v.slots[at].round == v.round {
			at = (at + 1) & uint32(len(v.slots)-1)
		}
		v.slots[at] = s
	}
}

// gramTable numbers the different n-grams of one order, from 0. An n-gram's key is the number of the (n-1)-gram that
// it begins with, and its last token.
type gramTable struct {
	slots []gramSlot // open addressing; a power of two, at most half full
	round uint32
	n     int32
}

type gramSlot struct {
	key   uint64
	round uint32
	id    int32
}

func (t *gramTable) forget() {
	t.n = 0
	if t.round++; t.round == 0 {
		clear(t.slots)
		t.round = 1
	}
}

// spread takes the bits that choose a slot from a key.
func (t *gramTable) spread(key uint64) uint32 {
	key *= 0x9e3779b97f4a7c15
	return uint32(key>>32^key>>17) & uint32(len(t.slots)-1)
}

// find is the number of an n-gram, or -1.
func (t *gramTable) find(key uint64) int32 {
	for at := t.spread(key); t.slots[at].round == t.round; at = (at + 1) & uint32(len(t.slots)-1) {
		if t.slots[at].key == key {
			return t.slots[at].id
		}
	}
	return -1
}

// put is the number of an n-gram, which is new if it is the highest.
func (t *gramTable) put(key uint64) int32 {
	at := t.spread(key)
	for ; t.slots[at].round == t.round; at = (at + 1) & uint32(len(t.slots)-1) {
		if t.slots[at].key == key {
			return t.slots[at].id
		}
	}
	id := t.n
	t.slots[at] = gramSlot{key, t.round, id}
	if t.n++; 2*int(t.n) >= len(t.slots) {
		t.grow()
	}
	return id
}

func (t *gramTable) grow() {
	old := t.slots
	t.slots = make([]gramSlot, 2*len(old))
	for _, s := range old {
		if s.round != t.round {
			continue
		}
		at := t.spread(s.key)
		for t.slots[at].round == t.round {
			at = (at + 1) & uint32(len(t.slots)-1)
		}
		t.slots[at] = gramSlot{s.key, t.round, s.id}
	}
}

// matcher counts n-grams that texts have in common.
type matcher struct {
	table      gramTable
	count, now []int32   // of an n-gram: its most occurrences in one reference; those in this reference
	prev       [][]int32 // per reference and, last, of the prediction: the number of the (n-1)-gram at each position
}

// match counts, for n from 1 to len(out), the n-grams of hyp that are in refs, each at most as often as in the
// reference that has most of it. Tokens are numbers below vocabulary.
func (m *matcher) match(refs [][]int32, hyp []int32, vocabulary int, out []float64) {
	if len(refs) == 1 && len(out) == 1 { // words alone
		m.count = zeros(m.count, vocabulary)
		for _, id := range refs[0] {
			m.count[id]++
		}
		found := 0
		for _, id := range hyp {
			if m.count[id] > 0 {
				m.count[id]--
				found++
			}
		}
		out[0] = float64(found)
		return
	}
	for len(m.prev) <= len(refs) {
		m.prev = append(m.prev, nil)
	}
	for n := range out {
		kinds := vocabulary
		if n > 0 {
			m.table.forget()
		}
		for r, ref := range refs {
			if n == 0 {
				m.prev[r] = append(m.prev[r][:0], ref...)
				continue
			}
			prev := m.prev[r]
			for i := n; i < len(ref); i++ {
				prev[i-n] = m.table.put(uint64(prev[i-n])<<32 | uint64(ref[i]))
			}
			kinds = int(m.table.n)
		}
		m.most(refs, n, kinds)
		found := 0
		if n == 0 {
			m.prev[len(refs)] = append(m.prev[len(refs)][:0], hyp...)
		}
		prev := m.prev[len(refs)]
		for i := n; i < len(hyp); i++ {
			id := prev[i-n]
			if n > 0 && id >= 0 {
				id = m.table.find(uint64(id)<<32 | uint64(hyp[i]))
				prev[i-n] = id
			}
			if id >= 0 && m.count[id] > 0 {
				m.count[id]--
				found++
			}
		}
		out[n] = float64(found)
	}
}

// most sets count to the most occurrences of each (n+1)-gram in one reference.
func (m *matcher) most(refs [][]int32, n, kinds int) {
	m.count = zeros(m.count, kinds)
	for r, ref := range refs {
		grams := m.prev[r][:max(0, len(ref)-n)]
		if len(refs) == 1 {
			for _, id := range grams {
				m.count[id]++
			}
			continue
		}
		m.now = zeros(m.now, kinds)
		for _, id := range grams {
			m.now[id]++
			m.count[id] = max(m.count[id], m.now[id])
		}
	}
}

// zeros returns n zeros, in a's memory if they fit.
func zeros(a []int32, n int) []int32 {
	if cap(a) < n {
		return make([]int32, n, 2*n)
	}
	a = a[:n]
	clear(a)
	return a
}
