// Package kv decides which KV page belongs to which sequence: page allocator, page tables and the prefix index. Indices
// only: no storage, no clock, no goroutine.
//
// Invariants, which Verify checks:
//
//   - every page is in exactly one of four states: free, cached (no reference, indexed, on the LRU list), in use
//     (referenced), reserved (its memory is used for another purpose)
//   - free + cached + in use + reserved == total
//   - the reserved pages are those with the highest ids
//   - an indexed page is full, and its tokens are those of its key; the index contains nothing else
package kv

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"weft/internal/invariant"
)

// ErrNoPages is returned where no page is free and none can be reclaimed.
var ErrNoPages = errors.New("no KV page is free")

// PageID names a page of the cache.
type PageID = int32

const none = PageID(-1)

type page struct {
	ref        int32
	indexed    bool
	key        Key
	parent     Key
	tokens     []int32 // of an indexed page; the memory stays with the page
	prev, next PageID  // LRU list of cached pages
	early      bool    // cached by ReleaseEarly
}

// Pool owns the pages. Its memory is bounded by their number. It is not safe for concurrent use.
type Pool struct {
	pageLen  int
	pages    []page
	free     bitset // the lowest is allocated first, so that the highest stay free to be reserved
	index    map[Key]PageID
	oldest   PageID
	newest   PageID
	cached   int
	early    int // of cached, those of ReleaseEarly
	reserved int
}

// NewPool returns a pool of total free pages of pageLen tokens; both must be positive.
func NewPool(total, pageLen int) *Pool {
	if total < 1 || pageLen < 1 {
		panic(fmt.Sprintf("kv: a pool of %d pages of %d tokens; both must be positive", total, pageLen))
	}
	p := &Pool{pageLen: pageLen, pages: make([]page, total), free: newBitset(total), index: map[Key]PageID{},
		oldest: none, newest: none}
	for i := range total {
		p.free.add(PageID(i))
	}
	return p
}

// Match appends to dst the pages of the longest indexed run at the start of tokens, at most max tokens, and takes a
// reference to each. keys are those of the full pages of tokens (Extend) under root. A hit compares parent and tokens,
// not only the key.
func (p *Pool) Match(dst []PageID, root Key, keys []Key, tokens []int32, max int) []PageID {
	parent := root
	for i, key := range keys {
		end := (i + 1) * p.pageLen
		if end > min(max, len(tokens)) {
			break
		}
		id, ok := p.index[key]
		if !ok || p.pages[id].parent != parent || !slices.Equal(p.pages[id].tokens, tokens[end-p.pageLen:end]) {
			break
		}
		p.take(id)
		dst = append(dst, id)
		parent = key
	}
	return dst
}

// take adds a reference to an indexed page.
func (p *Pool) take(id PageID) {
	if p.pages[id].ref == 0 {
		p.unlink(id)
	}
	p.pages[id].ref++
}

// Alloc returns a page with one reference: the free one with the lowest id, else the cached page that was released
// longest ago.
func (p *Pool) Alloc() (PageID, error) {
	var id PageID
	switch {
	case p.free.n > 0:
		id = p.free.lowest()
		p.free.remove(id)
	case p.oldest != none:
		id = p.oldest
		p.unlink(id)
		p.forget(id)
	default:
		return none, ErrNoPages
	}
	invariant.Check(p.pages[id].ref == 0 && !p.pages[id].indexed, "page %d is allocated with %d references", id,
		p.pages[id].ref)
	p.pages[id].ref = 1
	return id, nil
}

// Index makes a full page in use findable under key, which must be parent.Next(tokens); tokens are its pageLen tokens,
// which the pool copies. If another page already has the same content the page stays unindexed.
func (p *Pool) Index(id PageID, parent, key Key, tokens []int32) {
	pg := &p.pages[id]
	invariant.Check(pg.ref > 0 && len(tokens) == p.pageLen, "index page %d with %d references and %d tokens", id,
		pg.ref, len(tokens))
	if _, taken := p.index[key]; taken || pg.indexed {
		return
	}
	pg.indexed, pg.key, pg.parent = true, key, parent
	pg.tokens = append(pg.tokens[:0], tokens...)
	p.index[key] = id
}

// Release drops one reference to each page, the last page first, so that the tail of a prompt is reclaimed before its
// prefix.
func (p *Pool) Release(ids []PageID) {
	for _, id := range slices.Backward(ids) {
		pg := &p.pages[id]
		if pg.ref <= 0 {
			panic(fmt.Sprintf("kv: page %d released once too often", id))
		}
		if pg.ref--; pg.ref > 0 {
			continue
		}
		if pg.indexed {
			p.push(id)
		} else {
			p.free.add(id)
		}
	}
}

// ReleaseEarly is Release of pages that are reclaimed before all others that are cached.
func (p *Pool) ReleaseEarly(ids []PageID) {
	p.Release(ids)
	for _, id := range ids { // so that the last page is the first of the list
		if pg := &p.pages[id]; pg.ref == 0 && pg.indexed {
			p.unlink(id)
			p.pushFirst(id)
		}
	}
}

// Reset forgets every cached page.
func (p *Pool) Reset() {
	for p.oldest != none {
		id := p.oldest
		p.unlink(id)
		p.forget(id)
		p.free.add(id)
	}
}

// Shrink reserves n more pages, those with the highest ids; their cached content is dropped. It returns false, and
// changes nothing, if one of them is in use or there are fewer than n. The pages reserved are [Total-Reserved, Total).
func (p *Pool) Shrink(n int) bool {
	end := len(p.pages) - p.reserved
	if n < 0 || n > end {
		return false
	}
	for i := end - n; i < end; i++ {
		if p.pages[i].ref > 0 {
			return false
		}
	}
	for i := end - n; i < end; i++ {
		if id := PageID(i); p.pages[i].indexed {
			p.unlink(id)
			p.forget(id)
		} else {
			p.free.remove(id)
		}
	}
	p.reserved += n
	return true
}

// Grow releases n reserved pages, the lowest first; they are free again.
func (p *Pool) Grow(n int) {
	if n < 0 || n > p.reserved {
		panic(fmt.Sprintf("kv: %d of %d reserved pages are released", n, p.reserved))
	}
	for range n {
		p.free.add(PageID(len(p.pages) - p.reserved))
		p.reserved--
	}
}

func (p *Pool) forget(id PageID) {
	pg := &p.pages[id]
	delete(p.index, pg.key)
	pg.indexed = false
}

func (p *Pool) push(id PageID) {
	pg := &p.pages[id]
	pg.prev, pg.next = p.newest, none
	if p.newest != none {
		p.pages[p.newest].next = id
	} else {
		p.oldest = id
	}
	p.newest = id
	p.cached++
}

func (p *Pool) pushFirst(id PageID) {
	pg := &p.pages[id]
	pg.prev, pg.next, pg.early = none, p.oldest, true
	if p.oldest != none {
		p.pages[p.oldest].prev = id
	} else {
		p.newest = id
	}
	p.oldest = id
	p.cached++
	p.early++
}

func (p *Pool) unlink(id PageID) {
	pg := &p.pages[id]
	if pg.early {
		pg.early = false
		p.early--
	}
	if pg.prev != none {
		p.pages[pg.prev].next = pg.next
	} else {
		p.oldest = pg.next
	}
	if pg.next != none {
		p.pages[pg.next].prev = pg.prev
	} else {
		p.newest = pg.prev
	}
	p.cached--
}

// Counts are the pages by state; Free + Cached + InUse + Reserved is the total.
type Counts struct{ Free, Cached, InUse, Reserved int }

// Counts returns the pages by state.
func (p *Pool) Counts() Counts {
	return Counts{Free: p.free.n, Cached: p.cached, InUse: len(p.pages) - p.free.n - p.cached - p.reserved,
		Reserved: p.reserved}
}

// Available returns how many pages Alloc can still return.
func (p *Pool) Available() int { return p.free.n + p.cached }

// Spare returns how many pages Alloc can return before it reclaims one that Release has cached.
func (p *Pool) Spare() int { return p.free.n + p.early }

// Refs returns the number of references to a page.
func (p *Pool) Refs(id PageID) int { return int(p.pages[id].ref) }

// PageLen returns the tokens in a page.
func (p *Pool) PageLen() int { return p.pageLen }

// Total returns the number of pages, the reserved ones included.
func (p *Pool) Total() int { return len(p.pages) }

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
	var buffer [16 + 4*64]byte // pages of up to 64 tokens stay on the stack
	buf := append(buffer[:0], k[:]...)
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
