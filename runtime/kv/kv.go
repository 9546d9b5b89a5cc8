// Package kv decides which KV page belongs to which sequence: page allocator, page tables and the prefix index. Indices only: no storage,
// no clock, no goroutine.
//
// Invariants, checked after every change under the tag invariants:
//
//   - every page is in exactly one of three states: free (on the free list), cached (ref 0, indexed, on the LRU list), in use (ref > 0)
//   - free + cached + in use == total
//   - an indexed page is full, and its tokens are those that its key was made of
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

// Key names the content of a full page: everything that its keys and values depend on.
type Key [16]byte

// Root returns the key from which a sequence's first page is derived: adapter digest, tenant salt and the RoPE table in use.
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
	buf := make([]byte, 0, 512)
	buf = append(buf, k[:]...)
	for _, t := range tokens {
		buf = binary.LittleEndian.AppendUint32(buf, uint32(t))
	}
	sum := sha256.Sum256(buf)
	return Key(sum[:16])
}

const none = PageID(-1)

type page struct {
	ref        int32
	indexed    bool
	key        Key
	parent     Key
	tokens     []int32 // of an indexed page
	prev, next PageID  // LRU list of cached pages
}

// Pool owns the pages. It is not safe for concurrent use.
type Pool struct {
	pageLen int
	pages   []page
	free    []PageID // stack
	index   map[Key]PageID
	oldest  PageID
	newest  PageID
	cached  int
}

// NewPool returns a pool of total free pages of pageLen tokens.
func NewPool(total, pageLen int) *Pool {
	p := &Pool{pageLen: pageLen, pages: make([]page, total), free: make([]PageID, total), index: map[Key]PageID{}, oldest: none, newest: none}
	for i := range p.free {
		p.free[i] = PageID(total - 1 - i)
	}
	return p
}

// Match returns the cached pages of the longest run of full pages at the start of tokens, at most max tokens, and takes a reference to each.
// A hit compares the tokens, not the key alone.
func (p *Pool) Match(root Key, tokens []int32, max int) []PageID {
	var out []PageID
	key := root
	for n := 0; n+p.pageLen <= min(max, len(tokens)); n += p.pageLen {
		run := tokens[n : n+p.pageLen]
		next := key.Next(run)
		id, ok := p.index[next]
		if !ok || p.pages[id].parent != key || !slices.Equal(p.pages[id].tokens, run) {
			break
		}
		p.take(id)
		out = append(out, id)
		key = next
	}
	p.check()
	return out
}

// take adds a reference to an indexed page.
func (p *Pool) take(id PageID) {
	if p.pages[id].ref == 0 {
		p.unlink(id)
	}
	p.pages[id].ref++
}

// Alloc returns a page with one reference: a free one, else the cached page that was released longest ago.
func (p *Pool) Alloc() (PageID, error) {
	var id PageID
	switch {
	case len(p.free) > 0:
		id = p.free[len(p.free)-1]
		p.free = p.free[:len(p.free)-1]
	case p.oldest != none:
		id = p.oldest
		p.unlink(id)
		p.forget(id)
	default:
		return none, ErrNoPages
	}
	p.pages[id].ref = 1
	p.check()
	return id, nil
}

// Index makes a full page in use findable; tokens are its pageLen tokens, which the pool copies. It returns the page's key. Where another page already
// holds the same content the page stays unindexed.
func (p *Pool) Index(id PageID, parent Key, tokens []int32) Key {
	key := parent.Next(tokens)
	pg := &p.pages[id]
	invariant.Check(pg.ref > 0 && len(tokens) == p.pageLen, "index page %d with %d references and %d tokens", id, pg.ref, len(tokens))
	if _, taken := p.index[key]; !taken && !pg.indexed {
		pg.indexed, pg.key, pg.parent = true, key, parent
		pg.tokens = append(pg.tokens[:0], tokens...)
		p.index[key] = id
	}
	return key
}

// Release drops one reference to each page, the last page first, so that the tail of a prompt is reclaimed before its beginning.
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
			p.free = append(p.free, id)
		}
	}
	p.check()
}

// Reset forgets every cached page.
func (p *Pool) Reset() {
	for p.oldest != none {
		id := p.oldest
		p.unlink(id)
		p.forget(id)
		p.free = append(p.free, id)
	}
	p.check()
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

func (p *Pool) unlink(id PageID) {
	pg := &p.pages[id]
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

// Counts are the pages by state; Free + Cached + InUse is the total.
type Counts struct{ Free, Cached, InUse int }

// Counts returns the pages by state.
func (p *Pool) Counts() Counts {
	return Counts{Free: len(p.free), Cached: p.cached, InUse: len(p.pages) - len(p.free) - p.cached}
}

// Available returns how many pages Alloc can still give.
func (p *Pool) Available() int { return len(p.free) + p.cached }

// PageLen returns the tokens in a page.
func (p *Pool) PageLen() int { return p.pageLen }

// Total returns the number of pages.
func (p *Pool) Total() int { return len(p.pages) }

func (p *Pool) check() {
	if !invariant.Enabled || len(p.pages) > 4096 { // a large pool is checked by its counts alone
		return
	}
	inUse, cached := 0, 0
	for i := range p.pages {
		pg := &p.pages[i]
		switch {
		case pg.ref > 0:
			inUse++
		case pg.indexed:
			cached++
		}
		if pg.indexed {
			invariant.Check(p.index[pg.key] == PageID(i) && len(pg.tokens) == p.pageLen, "page %d is not what the index says", i)
		}
	}
	invariant.Check(cached == p.cached && inUse+cached+len(p.free) == len(p.pages),
		"%d in use, %d cached (list says %d), %d free of %d pages", inUse, cached, p.cached, len(p.free), len(p.pages))
}
