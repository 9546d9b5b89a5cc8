package kv

import "fmt"

// Verify walks all pages and returns the first broken invariant. refs is the number of references of all callers
// together.
func (p *Pool) Verify(refs int) error {
	const unknown, free, cached, reserved = 0, 1, 2, 3
	state := make([]uint8, len(p.pages))
	for i := len(p.pages) - p.reserved; i < len(p.pages); i++ {
		state[i] = reserved
	}
	members := 0
	for i := range p.pages {
		id := PageID(i)
		if !p.free.has(id) {
			continue
		}
		if pg := &p.pages[id]; state[id] != unknown || pg.ref != 0 || pg.indexed {
			return fmt.Errorf("page %d is free: seen as %d, %d references, indexed %v", id, state[id], pg.ref,
				pg.indexed)
		}
		state[id] = free
		members++
	}
	if members != p.free.n {
		return fmt.Errorf("%d pages are free, noted are %d", members, p.free.n)
	}
	walked, early, last := 0, 0, none
	for id := p.oldest; id != none; id = p.pages[id].next {
		if pg := &p.pages[id]; state[id] != unknown || pg.ref != 0 || !pg.indexed || pg.prev != last {
			return fmt.Errorf("page %d on the LRU list: seen as %d, %d references, indexed %v, after %d "+
				"but its prev is %d",
				id, state[id], pg.ref, pg.indexed, last, pg.prev)
		}
		state[id], last = cached, id
		walked++
		if p.pages[id].early {
			if early++; early != walked {
				return fmt.Errorf("page %d is to be reclaimed early, and is behind others on the LRU list", id)
			}
		}
	}
	if walked != p.cached || last != p.newest || early != p.early {
		return fmt.Errorf("the LRU list has %d pages, %d of them early, and ends with %d, noted are %d, %d and %d",
			walked, early, last, p.cached, p.early, p.newest)
	}
	inUse, indexed, held := 0, 0, 0
	for i := range p.pages {
		pg := &p.pages[i]
		if pg.ref < 0 || (pg.ref > 0) != (state[i] == unknown) || state[i] == reserved && pg.indexed {
			return fmt.Errorf("page %d has %d references and is on no list or on one too many", i, pg.ref)
		}
		if pg.ref > 0 {
			inUse++
		}
		held += int(pg.ref)
		if !pg.indexed {
			continue
		}
		indexed++
		if at, ok := p.index[pg.key]; !ok || at != PageID(i) || len(pg.tokens) != p.pageLen ||
			pg.parent.Next(pg.tokens) != pg.key {
			return fmt.Errorf("page %d differs from its index entry (page %d, %d tokens)", i, at, len(pg.tokens))
		}
	}
	if indexed != len(p.index) {
		return fmt.Errorf("the index has %d entries for %d indexed pages", len(p.index), indexed)
	}
	if held != refs {
		return fmt.Errorf("the pages have %d references, the callers %d", held, refs)
	}
	if c := p.Counts(); c.InUse != inUse || c.Free+c.Cached+c.InUse+c.Reserved != len(p.pages) {
		return fmt.Errorf("%+v of %d pages, counted are %d in use", c, len(p.pages), inUse)
	}
	return nil
}
