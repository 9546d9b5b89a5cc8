package tokenizer

import "unicode/utf8"

// cuts says between which characters of a SentencePiece-style text no merge reaches: what lies on either side is encoded alone, and remembered. Its nil value
// says nowhere.
type cuts struct {
	joined *pairTable // pairs of characters over which some merge reaches
}

// findCuts fills b.cuts from the merges. A merge joins the last character of one token to the first of another, if tokens are made of characters alone: not
// where bytes take part in merges, nor where unknown characters, for want of bytes, vanish or fuse.
func (b *bpe) findCuts(pieces []string) {
	whole := map[int32]bool{} // tokens whose spelling is not their text
	for _, id := range b.bytes {
		if id < 0 {
			return
		}
		whole[id] = true
	}
	joined := newPairTable(0)
	for i, s := range b.merges.slots {
		if b.merges.tags[i] == 0 {
			continue
		}
		left, right := int32(s.key>>32), int32(uint32(s.key))
		if whole[left] || whole[right] || !utf8.ValidString(pieces[left]) || !utf8.ValidString(pieces[right]) {
			return
		}
		l, _ := utf8.DecodeLastRuneInString(pieces[left])
		r, _ := utf8.DecodeRuneInString(pieces[right])
		joined.put(l, r, merge{})
	}
	b.cuts = &cuts{joined}
	b.cache = newWordCache()
}

// next returns the end of the first part of run, which is not empty.
func (c *cuts) next(run string) int {
	last, n := utf8.DecodeRuneInString(run)
	for n < len(run) {
		r, size := rune(run[n]), 1
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(run[n:])
		}
		if !c.joined.has(last, r) {
			return n
		}
		last, n = r, n+size
	}
	return n
}
