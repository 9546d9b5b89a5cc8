package tokenizer

import "unicode/utf8"

// cuts are the positions in a text that no merge crosses: the parts on either side are encoded separately, and cached.
type cuts struct {
	bytes  bool       // byte-level: positions before characters that are not ASCII
	joined *pairTable // the two sides of positions that some merge may cross
}

// cutSide is the number of bytes on each side of a position that byte-level cuts depend on: a character of most
// scripts.
const cutSide = 3

// findCuts fills b.cuts, once symbols and merges are known.
func (b *bpe) findCuts(pieces []string) {
	if b.level {
		b.findByteCuts(pieces)
	} else {
		b.findCharCuts(pieces)
	}
}

// findCharCuts finds the positions that a merge crosses: it joins the last character of one token to the first of
// another, if tokens consist of characters only. There are no cuts where bytes take part in merges, nor where unknown
// characters vanish or fuse because there are no byte tokens.
func (b *bpe) findCharCuts(pieces []string) {
	whole := map[int32]bool{} // tokens whose spelling is not their text
	for _, id := range b.fallback {
		if id < 0 {
			return
		}
		whole[id] = true
	}
	joined := newPairTable(0)
	for left, right := range b.merges.all() {
		if whole[left] || whole[right] || !utf8.ValidString(pieces[left]) || !utf8.ValidString(pieces[right]) {
			return
		}
		l, _ := utf8.DecodeLastRuneInString(pieces[left])
		r, _ := utf8.DecodeRuneInString(pieces[right])
		joined.put(l, r, merge{})
	}
	b.cuts, b.parts = &cuts{joined: joined}, newWordCache()
}

// findByteCuts does the same for byte-level words: a merge crosses a position only if one token ends there and the
// other begins there.
func (b *bpe) findByteCuts(pieces []string) {
	joined := newPairTable(0)
	for left, right := range b.merges.all() {
		// or not spelled in bytes: not part of any word
		if first, _ := utf8.DecodeRuneInString(pieces[right]); charBytes[first] < utf8.RuneSelf {
			continue
		}
		l, r := unspell(pieces[left]), unspell(pieces[right])
		joined.put(packed(l[max(len(l)-cutSide, 0):]), packed(r[:min(len(r), cutSide)]), merge{})
	}
	b.cuts, b.parts = &cuts{bytes: true, joined: joined}, newWordCache()
}

// packed is at most cutSide bytes and their number.
func packed[T string | []byte](side T) int32 {
	n := int32(len(side))
	for i := range len(side) {
		n = n<<8 | int32(side[i])
	}
	return n
}

// next returns the end of the first part of run, which is not empty.
func (c *cuts) next(run string) int {
	if c.bytes {
		return c.nextByte(run)
	}
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

func (c *cuts) nextByte(word string) int {
	for at := 1; at < len(word); at++ {
		if word[at] >= utf8.RuneSelf && utf8.RuneStart(word[at]) && !c.reached(word, at) {
			return at
		}
	}
	return len(word)
}

// reached reports whether some merge may cross a position of word.
func (c *cuts) reached(word string, at int) bool {
	for i := 1; i <= min(cutSide, at); i++ {
		left := packed(word[at-i : at])
		for j := 1; j <= min(cutSide, len(word)-at); j++ {
			if c.joined.has(left, packed(word[at:at+j])) {
				return true
			}
		}
	}
	return false
}
