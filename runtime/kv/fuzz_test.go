package kv

import (
	"slices"
	"testing"
)

// FuzzPool drives a pool with bytes, each pair an operation, beside a model that remembers what was written to each
// page: a hit must have the tokens looked up, no page in use may be allocated again, and every page is accounted for
// after each operation.
func FuzzPool(f *testing.F) {
	f.Add([]byte{0, 9, 0, 9, 1, 0, 0, 25, 1, 1, 1, 0, 0, 9}, uint8(5))
	f.Add([]byte{0, 40, 1, 0, 0, 41, 1, 0, 0, 42, 2, 0, 0, 40}, uint8(3))
	f.Add([]byte{0, 9, 4, 3, 0, 20, 1, 0, 5, 2, 0, 21, 4, 1, 1, 0, 4, 7}, uint8(9))
	f.Add([]byte{0, 255, 0, 254, 0, 253, 3, 1, 3, 2, 1, 0}, uint8(31))
	f.Fuzz(func(t *testing.T, ops []byte, total uint8) {
		const pageLen = 4
		p := NewPool(int(total%32)+1, pageLen)
		type table struct {
			pages []PageID
		}
		var held []table
		content := make([][]int32, p.Total()) // what was computed into each page, starting with a mark for the root
		refs := 0
		for i := 0; i+1 < len(ops) && i < 600; i += 2 {
			arg := int(ops[i+1])
			switch ops[i] % 6 {
			case 0, 3: // a sequence: match, allocate what lacks, index what is full
				mark := int32(arg % 3)
				root := Root(string('a'+mark), "", 0)
				toks := make([]int32, arg%23+1)
				for j := range toks {
					toks[j] = int32(j * (arg / 64)) // few distinct prefixes
				}
				keys := Extend(nil, root, toks, pageLen)
				pages := p.Match(nil, root, keys, toks, len(toks)-1)
				if len(pages)*pageLen >= len(toks) {
					t.Fatalf("a hit covers all %d tokens", len(toks))
				}
				for j, id := range pages {
					if want := append([]int32{mark}, toks[:(j+1)*pageLen]...); !slices.Equal(content[id], want) {
						t.Fatalf("page %d found for %v contains %v", id, want, content[id])
					}
				}
				for len(pages)*pageLen < len(toks) {
					id, err := p.Alloc()
					if err != nil {
						if p.Available() != 0 {
							t.Fatalf("%v, but %d are available", err, p.Available())
						}
						break
					}
					for _, h := range held {
						if slices.Contains(h.pages, id) {
							t.Fatalf("page %d is in use and was allocated again", id)
						}
					}
					if n := p.Counts().Reserved; int(id) >= p.Total()-n {
						t.Fatalf("page %d is allocated, %d of %d are reserved", id, n, p.Total())
					}
					n := len(pages)
					content[id] = append([]int32{mark}, toks[:min((n+1)*pageLen, len(toks))]...)
					if n < len(keys) && ops[i]%6 == 0 {
						parent := root
						if n > 0 {
							parent = keys[n-1]
						}
						p.Index(id, parent, keys[n], toks[n*pageLen:(n+1)*pageLen])
					}
					pages = append(pages, id)
				}
				held = append(held, table{pages})
				refs += len(pages)
			case 1:
				if len(held) > 0 {
					k, spare := arg%len(held), p.Spare()
					if arg%2 == 0 {
						p.Release(held[k].pages)
					} else if p.ReleaseEarly(held[k].pages); p.Spare() < spare {
						t.Fatalf("%d pages are spare after one was released early, %d before", p.Spare(), spare)
					}
					refs -= len(held[k].pages)
					held = slices.Delete(held, k, k+1)
				}
			case 2:
				p.Reset()
			case 4:
				n, before := arg%8, p.Counts()
				inUse := slices.ContainsFunc(held, func(h table) bool {
					return slices.ContainsFunc(h.pages,
						func(id PageID) bool { return int(id) >= p.Total()-before.Reserved-n })
				})
				if want := !inUse && n <= p.Total()-before.Reserved; p.Shrink(n) != want {
					t.Fatalf("%d of %+v reserved: %v, want %v", n, before, !want, want)
				}
			case 5:
				p.Grow(min(arg%8, p.Counts().Reserved))
			}
			if err := p.Verify(refs); err != nil {
				t.Fatal(err)
			}
		}
		for _, h := range held {
			p.Release(h.pages)
		}
		if err := p.Verify(0); err != nil || p.Counts().InUse != 0 {
			t.Fatalf("%+v, %v", p.Counts(), err)
		}
	})
}
