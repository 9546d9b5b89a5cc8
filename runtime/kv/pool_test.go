package kv

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

func tokens(from, n int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(from + i)
	}
	return out
}

// fill allocates pages for toks and indexes the full ones.
func fill(t *testing.T, p *Pool, root Key, toks []int32) []PageID {
	t.Helper()
	var pages []PageID
	key := root
	for at := 0; at < len(toks); at += p.PageLen() {
		id, err := p.Alloc()
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, id)
		if at+p.PageLen() <= len(toks) {
			run := toks[at : at+p.PageLen()]
			p.Index(id, key, key.Next(run), run)
			key = key.Next(run)
		}
	}
	return pages
}

func match(p *Pool, root Key, toks []int32, max int) []PageID {
	return p.Match(nil, root, Extend(nil, root, toks, p.PageLen()), toks, max)
}

func want(t *testing.T, p *Pool, free, cached, inUse int) {
	t.Helper()
	if c := p.Counts(); c != (Counts{Free: free, Cached: cached, InUse: inUse}) {
		t.Errorf("%+v, want free %d, cached %d, in use %d", c, free, cached, inUse)
	}
}

func TestPrefixIsFoundAndReclaimedFromItsTail(t *testing.T) {
	p := NewPool(4, 16)
	root := Root("", "", 0)
	toks := tokens(0, 50)
	pages := fill(t, p, root, toks)
	want(t, p, 0, 0, 4)
	p.Release(pages)
	want(t, p, 1, 3, 0)

	hit := match(p, root, toks, len(toks)-1)
	if len(hit) != 3 {
		t.Fatalf("%d pages found, want 3", len(hit))
	}
	want(t, p, 1, 0, 3)
	p.Release(hit)

	// Two new pages take the free one and then the tail of the prefix.
	for range 2 {
		if _, err := p.Alloc(); err != nil {
			t.Fatal(err)
		}
	}
	if hit := match(p, root, toks, len(toks)); len(hit) != 2 {
		t.Errorf("%d pages left of the prefix, want its first 2", len(hit))
	}
	want(t, p, 0, 0, 4)
	if _, err := p.Alloc(); !errors.Is(err, ErrNoPages) {
		t.Errorf("error %v from a full pool", err)
	}
}

// Pages that are released early are reclaimed before those that were cached long before, from their tail; what is taken
// again and released as others are keeps its place among those.
func TestEarlyPagesAreReclaimedFirst(t *testing.T) {
	p := NewPool(4, 16)
	kept, early := Root("", "kept", 0), Root("", "early", 0)
	p.Release(fill(t, p, kept, tokens(0, 32)))
	p.ReleaseEarly(fill(t, p, early, tokens(0, 32)))
	want(t, p, 0, 4, 0)
	if p.Spare() != 2 {
		t.Errorf("%d pages are spare, want the 2 released early", p.Spare())
	}
	if _, err := p.Alloc(); err != nil {
		t.Fatal(err)
	}
	hit := match(p, early, tokens(0, 32), 32)
	if len(hit) != 1 || p.Spare() != 0 {
		t.Fatalf("%d pages are found and %d spare after the tail was reclaimed, want 1 and 0", len(hit), p.Spare())
	}
	p.Release(hit)
	if p.Spare() != 0 {
		t.Errorf("%d pages are spare, none was released early", p.Spare())
	}
	for range 2 {
		if _, err := p.Alloc(); err != nil {
			t.Fatal(err)
		}
	}
	if hit := match(p, early, tokens(0, 32), 32); len(hit) != 1 {
		t.Errorf("%d pages are found, want the one that was released last", len(hit))
	}
}

func TestKeysKeepSequencesApart(t *testing.T) {
	p := NewPool(8, 16)
	toks := tokens(0, 32)
	root := Root("", "", 0)
	p.Release(fill(t, p, root, toks))
	for name, c := range map[string]struct {
		root Key
		toks []int32
		max  int
		n    int
	}{
		"same":             {root, toks, 32, 2},
		"last token kept":  {root, toks, 31, 1},
		"other adapter":    {Root("x", "", 0), toks, 32, 0},
		"other salt":       {Root("", "x", 0), toks, 32, 0},
		"other rope":       {Root("", "", 1), toks, 32, 0},
		"moved boundary":   {Root("x", "", 0), toks, 32, 0},
		"other first page": {root, tokens(1, 32), 32, 0},
		"other second":     {root, append(tokens(0, 16), tokens(99, 16)...), 32, 1},
	} {
		hit := match(p, c.root, c.toks, c.max)
		if len(hit) != c.n {
			t.Errorf("%s: %d pages, want %d", name, len(hit), c.n)
		}
		p.Release(hit)
	}
	if Root("ab", "c", 0) == Root("a", "bc", 0) {
		t.Error("adapter and salt run into one another")
	}
}

// TestHitComparesContent forges colliding keys: tokens and parent must be compared.
func TestHitComparesContent(t *testing.T) {
	root := Root("", "", 0)
	toks := tokens(0, 16)
	for name, forge := range map[string]func(pg *page){
		"tokens": func(pg *page) { pg.tokens[3]++ }, // as if another content had the same key
		"parent": func(pg *page) { pg.parent = Root("x", "", 0) },
	} {
		p := NewPool(2, 16)
		pages := fill(t, p, root, toks)
		forge(&p.pages[pages[0]])
		p.Release(pages)
		if hit := match(p, root, toks, 16); len(hit) != 0 {
			t.Errorf("a page with other %s was taken for a hit", name)
		}
	}
}

func TestDoubleReleasePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a page was released twice without a panic")
		}
	}()
	p := NewPool(1, 16)
	id, _ := p.Alloc()
	p.Release([]PageID{id})
	p.Release([]PageID{id})
}

// TestBitsetKnowsItsLowest against a search, at sizes around the words of each level.
func TestBitsetKnowsItsLowest(t *testing.T) {
	for _, size := range []int{1, 63, 64, 65, 4096, 4097, 300_000} {
		b, in := newBitset(size), map[PageID]bool{}
		rng := rand.New(rand.NewPCG(1, uint64(size)))
		for range 300 {
			id := PageID(rng.IntN(size))
			if b.has(id) != in[id] {
				t.Fatalf("size %d: page %d in: %v", size, id, b.has(id))
			}
			if in[id] {
				b.remove(id)
				delete(in, id)
			} else {
				b.add(id)
				in[id] = true
			}
			if b.n != len(in) {
				t.Fatalf("size %d: %d members, want %d", size, b.n, len(in))
			}
			if len(in) == 0 {
				continue
			}
			if want := slices.Min(slices.Collect(maps.Keys(in))); b.lowest() != want {
				t.Fatalf("size %d: lowest %d, want %d", size, b.lowest(), want)
			}
		}
	}
}
