package tokenizer

import (
	"fmt"
	"hash/maphash"
	"math/bits"
	"slices"
	"strings"
	"sync/atomic"
	"unicode/utf8"
)

// bpe merges adjacent symbols, the pair of lowest rank first, of equal ranks the leftmost (Sennrich et al. 2016,
// arXiv:1508.07909).
type bpe struct {
	merges   *pairTable
	level    bool           // byte-level: words are bytes, which characters of the vocabulary spell
	bytes    [256]int32     // byte-level: the token of each byte, -1 where there is none
	fallback [256]int32     // the tokens of the bytes of characters that are no token, -1 where there is none
	chars    map[rune]int32 // single characters
	unk      int32          // -1: unknown characters vanish
	fuseUnk  bool
	whole    map[string]int32 // words encoded as one token if the model ignores merges; nil otherwise
	cache    *wordCache
	cuts     *cuts // nil if a run must be merged as a whole
	parts    *wordCache
}

type merge struct{ rank, id int32 }

const noMerge = 1<<31 - 1 // the rank of a pair that does not merge

// addMerges fills the table from pairs in order of rank. A pair whose parts or result are not in the vocabulary means a
// damaged file.
func (b *bpe) addMerges(ids map[string]int32, pairs [][2]string) error {
	b.merges = newPairTable(len(pairs))
	for rank, p := range pairs {
		left, okL := ids[p[0]]
		right, okR := ids[p[1]]
		id, ok := ids[p[0]+p[1]]
		if !okL || !okR || !ok {
			missing := p[0] + p[1]
			if !okL {
				missing = p[0]
			} else if !okR {
				missing = p[1]
			}
			return fmt.Errorf("%w: merge %d joins %q and %q, but %q is not in the vocabulary: the file is damaged",
				ErrFormat, rank, p[0], p[1], missing)
		}
		b.merges.put(left, right, merge{int32(rank), id}) // of equal pairs the last counts
	}
	return nil
}

// addScores fills the table as SentencePiece's BPE does: any two neighbours whose text together is a token may merge,
// the token of the highest score first. usable reports which tokens are included.
func (b *bpe) addScores(pieces []string, scores []float32, usable func(id int32) bool) {
	byText := make(map[string]int32, len(pieces))
	var order []int32
	for i, p := range pieces {
		if p != "" && usable(int32(i)) {
			if _, twice := byText[p]; !twice {
				byText[p] = int32(i)
				order = append(order, int32(i))
			}
		}
	}
	slices.SortStableFunc(order, func(x, y int32) int {
		switch {
		case scores[x] > scores[y]:
			return -1
		case scores[x] < scores[y]:
			return 1
		}
		return 0
	})
	b.merges = newPairTable(len(order))
	rank := int32(0)
	for i, id := range order {
		if i > 0 && scores[id] != scores[order[i-1]] {
			rank++
		}
		p := pieces[id]
		if len(p) > 256 {
			continue
		}
		for at := range p {
			if at == 0 {
				continue
			}
			left, okL := byText[p[:at]]
			right, okR := byText[p[at:]]
			if okL && okR {
				b.merges.put(left, right, merge{rank, id})
			}
		}
	}
}

// encodeBytes appends the tokens of a byte-level word.
func (b *bpe) encodeBytes(out []int32, word string) []int32 {
	if id, ok := b.whole[word]; ok {
		return append(out, id)
	}
	if len(word) > cacheWordLen && b.cuts != nil && b.complete(word) {
		return b.encodeParts(out, word)
	}
	if ids, ok := b.cache.get(word); ok {
		return append(out, ids...)
	}
	begin := len(out)
	out = b.encodePart(out, word)
	b.cache.put(word, out[begin:])
	return out
}

// encodeChars appends the tokens of a word of characters.
func (b *bpe) encodeChars(out []int32, run string) []int32 {
	if id, ok := b.whole[run]; ok {
		return append(out, id)
	}
	if b.cuts == nil {
		return b.encodePart(out, run)
	}
	return b.encodeParts(out, run)
}

// encodeParts appends the tokens of the text between cuts.
func (b *bpe) encodeParts(out []int32, run string) []int32 {
	for len(run) > 0 {
		n := b.cuts.next(run)
		if ids, ok := b.parts.get(run[:n]); ok {
			out = append(out, ids...)
		} else {
			begin := len(out)
			out = b.encodePart(out, run[:n])
			b.parts.put(run[:n], out[begin:])
		}
		run = run[n:]
	}
	return out
}

// encodePart appends the tokens of a part that is merged as a whole.
func (b *bpe) encodePart(out []int32, part string) []int32 {
	var buf [maxScan]int32
	if len(part) > maxScan {
		return b.encodeLong(out, part)
	}
	switch {
	case !b.level:
		return b.mergeAll(out, b.charSymbols(buf[:0], part))
	case b.complete(part):
		return b.mergeAll(out, b.byteSymbols(buf[:0], part))
	}
	return b.mergeAll(out, b.charSymbols(buf[:0], spell(part)))
}

// encodeLong does the same where a part may be a large piece of the text: its symbols become tokens where they are.
func (b *bpe) encodeLong(out []int32, part string) []int32 {
	begin := len(out)
	switch {
	case !b.level:
		out = b.charSymbols(slices.Grow(out, utf8.RuneCountInString(part)), part)
	case b.complete(part):
		out = b.byteSymbols(slices.Grow(out, len(part)), part)
	default:
		out = b.charSymbols(out, spell(part))
	}
	if symbols := out[begin:]; len(symbols) > maxScan {
		return out[:begin+b.mergeLong(symbols)]
	}
	return b.mergeAll(out[:begin], out[begin:])
}

// complete reports whether each byte of a byte-level word is a token.
func (b *bpe) complete(word string) bool {
	for i := range len(word) {
		if b.bytes[word[i]] < 0 {
			return false
		}
	}
	return true
}

func (b *bpe) byteSymbols(symbols []int32, word string) []int32 {
	for i := range len(word) {
		symbols = append(symbols, b.bytes[word[i]])
	}
	return symbols
}

// charSymbols appends the characters of run, and bytes for characters that are no token. As in the tokenizers library,
// the token for unknown characters comes behind the bytes of characters that follow.
func (b *bpe) charSymbols(symbols []int32, run string) []int32 {
	unknown := false
	for i, r := range run {
		if id, ok := b.chars[r]; ok {
			if unknown {
				symbols = append(symbols, b.unk)
			}
			symbols, unknown = append(symbols, id), false
			continue
		}
		begin := len(symbols)
		for _, c := range []byte(run[i : i+utf8.RuneLen(r)]) {
			symbols = append(symbols, b.fallback[c])
		}
		if slices.Contains(symbols[begin:], -1) {
			symbols = symbols[:begin]
			if unknown && !b.fuseUnk {
				symbols = append(symbols, b.unk)
			}
			unknown = b.unk >= 0
		}
	}
	if unknown {
		symbols = append(symbols, b.unk)
	}
	return symbols
}

// maxScan is the length from which finding the best merge by a tree is faster than by looking at all of them.
const maxScan = 128

// mergeAll appends the symbols, at most maxScan, after all merges; it overwrites symbols, which may lie behind out.
func (b *bpe) mergeAll(out, symbols []int32) []int32 {
	if len(symbols) > maxScan { // characters spelled with several symbols
		return append(out, symbols[:b.mergeLong(symbols)]...)
	}
	var ranks, ids [maxScan]int32 // of the merge of symbols i and i+1
	last := max(len(symbols)-1, 0)
	look := func(i int) {
		m := b.merges.get(symbols[i], symbols[i+1])
		ranks[i], ids[i] = m.rank, m.id
	}
	for i := range last {
		look(i)
	}
	for {
		best := int32(noMerge)
		for _, r := range ranks[:last] {
			best = min(best, r)
		}
		if best == noMerge {
			return append(out, symbols...)
		}
		at := slices.Index(ranks[:last], best)
		symbols[at] = ids[at]
		symbols = append(symbols[:at+1], symbols[at+2:]...)
		copy(ranks[at:last], ranks[at+1:last])
		copy(ids[at:last], ids[at+1:last])
		last--
		if at > 0 {
			look(at - 1)
		}
		if at < last {
			look(at)
		}
	}
}

// mergeLong merges symbols in place and returns how many are left. The first symbol of a token of several has its id,
// the second and the last one its negative length, and those between are negative: so the neighbours of a token are
// found without further memory. Blocks of symbols have the lowest rank of the pairs that begin in them, and a tree over
// the blocks finds the first one with the lowest of all.
func (b *bpe) mergeLong(symbols []int32) int {
	const block = 32
	n := len(symbols)
	size := 1 << bits.Len(uint((n-1)/block))
	tree := slices.Repeat([]int32{noMerge}, 2*size)
	next := func(i int) int {
		if i+1 < n && symbols[i+1] < 0 {
			return i - int(symbols[i+1])
		}
		return i + 1
	}
	look := func(i int) merge {
		if j := next(i); symbols[i] >= 0 && j < n {
			return b.merges.get(symbols[i], symbols[j])
		}
		return merge{rank: noMerge}
	}
	update := func(at int) {
		best, first := int32(noMerge), at*block
		for i := first; i < min(first+block, n); i++ {
			best = min(best, look(i).rank)
		}
		p := size + at
		tree[p] = best
		for p /= 2; p > 0; p /= 2 {
			tree[p] = min(tree[2*p], tree[2*p+1])
		}
	}
	for at := range (n-1)/block + 1 {
		update(at)
	}
	for tree[1] != noMerge {
		p := 1
		for p < size {
			if p *= 2; tree[p] != tree[1] {
				p++
			}
		}
		i := (p - size) * block
		m := look(i)
		for ; m.rank != tree[1]; m = look(i) {
			i++
		}
		j, before := next(i), i-1
		if before >= 0 && symbols[before] < 0 {
			before = i + int(symbols[before])
		}
		end := next(j)
		symbols[i], symbols[j] = m.id, -1
		symbols[i+1], symbols[end-1] = int32(i-end), int32(i-end)
		update(i / block)
		if j/block != i/block {
			update(j / block)
		}
		if before >= 0 && before/block != i/block {
			update(before / block)
		}
	}
	left := 0
	for i := 0; i < n; {
		end := next(i)
		symbols[left] = symbols[i]
		left, i = left+1, end
	}
	return left
}

// wordCache caches the tokens of short words. It is a fixed table: a word replaces another one with the same index.
type wordCache struct {
	seed  maphash.Seed
	slots []atomic.Pointer[cachedWord]
}

type cachedWord struct {
	word string
	ids  []int32
}

const (
	cacheSlots   = 1 << 14
	cacheWordLen = 32
)

func newWordCache() *wordCache {
	return &wordCache{seed: maphash.MakeSeed(), slots: make([]atomic.Pointer[cachedWord], cacheSlots)}
}

func (c *wordCache) slot(word string) *atomic.Pointer[cachedWord] {
	return &c.slots[maphash.String(c.seed, word)%cacheSlots]
}

func (c *wordCache) get(word string) ([]int32, bool) {
	if c == nil || len(word) > cacheWordLen {
		return nil, false
	}
	if e := c.slot(word).Load(); e != nil && e.word == word {
		return e.ids, true
	}
	return nil, false
}

func (c *wordCache) put(word string, ids []int32) {
	if c != nil && len(word) <= cacheWordLen {
		c.slot(word).Store(&cachedWord{strings.Clone(word), slices.Clone(ids)})
	}
}
