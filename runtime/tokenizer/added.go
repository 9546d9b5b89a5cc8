package tokenizer

import (
	"bytes"
	"unicode"
	"unicode/utf8"
)

// trie finds the longest added token at a position of a text, byte by byte. Its zero value is empty.
type trie struct {
	nodes []trieNode
	first [256]bool // first bytes of tokens
}

type trieNode struct {
	bytes []byte  // bytes that may follow
	next  []int32 // the node that each leads to
	added int32   // index into Tokenizer.added, plus 1; 0: none ends here
}

// follow returns the node that b leads to.
func (n *trieNode) follow(b byte) (int32, bool) {
	if i := bytes.IndexByte(n.bytes, b); i >= 0 {
		return n.next[i], true
	}
	return 0, false
}

func (t *trie) insert(content string, added int32) {
	if len(t.nodes) == 0 {
		t.nodes = append(t.nodes, trieNode{})
	}
	t.first[content[0]] = true
	at := int32(0)
	for i := range len(content) {
		next, ok := t.nodes[at].follow(content[i])
		if !ok {
			next = int32(len(t.nodes))
			t.nodes = append(t.nodes, trieNode{})
			n := &t.nodes[at]
			n.bytes, n.next = append(n.bytes, content[i]), append(n.next, next)
		}
		at = next
	}
	if t.nodes[at].added == 0 { // of two tokens with the same text the first counts
		t.nodes[at].added = added + 1
	}
}

// longest returns the length of the longest token at the start of text and its index, or 0.
func (t *trie) longest(text string) (length int, added int32) {
	at := int32(0)
	for i := range len(text) {
		next, ok := t.nodes[at].follow(text[i])
		if !ok {
			break
		}
		at = next
		if a := t.nodes[at].added; a > 0 {
			length, added = i+1, a-1
		}
	}
	return length, added
}

// cut calls emit with each run of text before an added token and the token's id, and with the rest and -1.
func (t *trie) cut(text string, added []addedToken, emit func(run string, id int32)) {
	begin, i := 0, 0
	if len(t.nodes) > 0 {
		for i < len(text) {
			if !t.first[text[i]] {
				i++
				continue
			}
			n, index := t.longest(text[i:])
			if n == 0 || added[index].single && !alone(text, i, i+n) {
				i++
				continue
			}
			from, to := i, i+n
			if added[index].lstrip {
				from = trimRight(text, begin, from)
			}
			if added[index].rstrip {
				to = trimLeft(text, to)
			}
			emit(text[begin:from], added[index].id)
			begin, i = to, to
		}
	}
	if begin < len(text) {
		emit(text[begin:], -1)
	}
}

// trimRight moves end left over white space, not past begin.
func trimRight(s string, begin, end int) int {
	for end > begin {
		r, n := utf8.DecodeLastRuneInString(s[begin:end])
		if !unicode.IsSpace(r) {
			break
		}
		end -= n
	}
	return end
}

func trimLeft(s string, begin int) int {
	for begin < len(s) {
		r, n := utf8.DecodeRuneInString(s[begin:])
		if !unicode.IsSpace(r) {
			break
		}
		begin += n
	}
	return begin
}

// alone reports whether no letter, digit or underscore is next to text[i:j].
func alone(text string, i, j int) bool {
	word := func(r rune) bool {
		return r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.Is(unicode.M, r)
	}
	l, n := utf8.DecodeLastRuneInString(text[:i])
	r, m := utf8.DecodeRuneInString(text[j:])
	return !(n > 0 && word(l)) && !(m > 0 && word(r))
}
