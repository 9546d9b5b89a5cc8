package tokenizer

import (
	"bytes"
	"strings"
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
	id    int32   // of the token that ends here; -1: none
}

// follow returns the node that b leads to.
func (n *trieNode) follow(b byte) (int32, bool) {
	if i := bytes.IndexByte(n.bytes, b); i >= 0 {
		return n.next[i], true
	}
	return 0, false
}

func (t *trie) insert(content string, id int32) {
	if len(t.nodes) == 0 {
		t.nodes = append(t.nodes, trieNode{id: -1})
	}
	if content == "" {
		return
	}
	t.first[content[0]] = true
	at := int32(0)
	for i := range len(content) {
		next, ok := t.nodes[at].follow(content[i])
		if !ok {
			next = int32(len(t.nodes))
			t.nodes = append(t.nodes, trieNode{id: -1})
			n := &t.nodes[at]
			n.bytes, n.next = append(n.bytes, content[i]), append(n.next, next)
		}
		at = next
	}
	if t.nodes[at].id < 0 { // of two tokens with the same text the first counts
		t.nodes[at].id = id
	}
}

// longest returns the length of the longest token at the start of text and its id, or 0.
func (t *trie) longest(text string) (length int, id int32) {
	at := int32(0)
	for i := range len(text) {
		next, ok := t.nodes[at].follow(text[i])
		if !ok {
			break
		}
		at = next
		if found := t.nodes[at].id; found >= 0 {
			length, id = i+1, found
		}
	}
	return length, id
}

// cut calls emit with each run of text before an added token, where it begins, and the token's id; and with the rest
// and -1. plain tells which tokens are plain text; what they match, no other token matches either.
func (t *trie) cut(text string, added map[int32]addedToken, plain func(*addedToken) bool,
	emit func(begin int, run string, id int32)) {
	begin, strippedTo := 0, 0 // the end of the last white space that was stripped
	for i := 0; i < len(text) && len(t.nodes) > 0; {
		if !t.first[text[i]] {
			i++
			continue
		}
		n, id := t.longest(text[i:])
		if n == 0 {
			i++
			continue
		}
		a, from, to := added[id], i, i+n
		i = to
		if plain(&a) || a.single && !alone(text, from, to) {
			continue
		}
		if a.lstrip {
			from = max(begin, from)
			from = begin + len(strings.TrimRightFunc(text[begin:from], classRustSpace.has))
		}
		if a.rstrip {
			if to >= strippedTo {
				strippedTo = len(text) - len(strings.TrimLeftFunc(text[to:], classRustSpace.has))
			}
			to = strippedTo
		}
		if from < to { // else a token before has stripped this one
			emit(begin, text[begin:max(begin, from)], a.id)
		}
		begin = to
	}
	if begin < len(text) {
		emit(begin, text[begin:], -1)
	}
}

// alone reports whether no letter, digit or underscore is next to text[i:j].
func alone(text string, i, j int) bool {
	l, n := utf8.DecodeLastRuneInString(text[:i])
	r, m := utf8.DecodeRuneInString(text[j:])
	return !(n > 0 && classRustWord.has(l)) && !(m > 0 && classRustWord.has(r))
}
