package kv

import (
	"crypto/sha256"
	"encoding/binary"
)

// Key names the content of a full page: everything that its keys and values depend on.
type Key [16]byte

// Root returns the key from which a sequence's first page is derived: adapter digest, tenant salt and the RoPE table in
// use.
func Root(adapter, salt string, rope int) Key {
	h := sha256.New()
	var n [8]byte
	for _, part := range []string{adapter, salt} {
		binary.LittleEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	binary.LittleEndian.PutUint64(n[:], uint64(rope))
	h.Write(n[:])
	return Key(h.Sum(nil)[:16])
}

// Next returns the key of a full page of tokens that follows the page (or root) of key k.
func (k Key) Next(tokens []int32) Key {
	var room [16 + 4*64]byte // pages of up to 64 tokens stay on the stack
	buf := append(room[:0], k[:]...)
	for _, t := range tokens {
		buf = binary.LittleEndian.AppendUint32(buf, uint32(t))
	}
	sum := sha256.Sum256(buf)
	return Key(sum[:16])
}

// Extend appends to keys, the keys of the first full pages of tokens, those of the full pages that follow.
func Extend(keys []Key, root Key, tokens []int32, pageLen int) []Key {
	parent := root
	if n := len(keys); n > 0 {
		parent = keys[n-1]
	}
	for at := len(keys) * pageLen; at+pageLen <= len(tokens); at += pageLen {
		parent = parent.Next(tokens[at : at+pageLen])
		keys = append(keys, parent)
	}
	return keys
}
