package kv

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"weft/internal/textcase"
)

// TestText runs testdata/*.txt. Commands:
//
//	new pages=N page-len=N
//	alloc NAME tokens=N [from=N] [adapter=A] [salt=S] [rope=N]   pages for N tokens after the match; indexed if full
//	match NAME tokens=N [max=N] ...                               takes references only to what is cached
//	release NAME
//	reset
//	shrink N | grow N
//
// A prompt of N tokens is from, from+1, …; fork=K begins another run at token K.
func TestText(t *testing.T) {
	textcase.Run(t, "testdata/*.txt", func(*testing.T) func(*textcase.Command) string {
		var p *Pool
		held := map[string][]PageID{}
		return func(c *textcase.Command) string {
			var out strings.Builder
			switch c.Name {
			case "new":
				p = NewPool(c.Int("pages", 4), c.Int("page-len", 4))
				clear(held)
			case "alloc", "match":
				toks, root := textTokens(c), Root(c.Opt("adapter", ""), c.Opt("salt", ""), c.Int("rope", 0))
				keys := Extend(nil, root, toks, p.PageLen())
				pages := p.Match(nil, root, keys, toks, c.Int("max", len(toks)-1))
				fmt.Fprintf(&out, "found %v\n", pages)
				for c.Name == "alloc" && len(pages)*p.PageLen() < len(toks) {
					id, err := p.Alloc()
					if err != nil {
						fmt.Fprintln(&out, err)
						break
					}
					if n := len(pages); n < len(keys) {
						parent := root
						if n > 0 {
							parent = keys[n-1]
						}
						p.Index(id, parent, keys[n], toks[n*p.PageLen():(n+1)*p.PageLen()])
					}
					pages = append(pages, id)
				}
				fmt.Fprintf(&out, "holds %v\n", pages)
				held[c.Args[0]] = append(held[c.Args[0]], pages...)
			case "release":
				p.Release(held[c.Args[0]])
				delete(held, c.Args[0])
			case "reset":
				p.Reset()
			case "shrink":
				if n, err := strconv.Atoi(c.Args[0]); err != nil || !p.Shrink(n) {
					fmt.Fprintln(&out, "refused")
				}
			case "grow":
				n, _ := strconv.Atoi(c.Args[0])
				p.Grow(n)
			default:
				c.Fatalf("unknown command")
			}
			n := p.Counts()
			fmt.Fprintf(&out, "free %d cached %d in use %d", n.Free, n.Cached, n.InUse)
			if n.Reserved > 0 {
				fmt.Fprintf(&out, " reserved %d", n.Reserved)
			}
			refs := 0
			for _, pages := range held {
				refs += len(pages)
			}
			if err := p.Verify(refs); err != nil {
				fmt.Fprintf(&out, "\nBROKEN: %v", err)
			}
			return out.String()
		}
	})
}

func textTokens(c *textcase.Command) []int32 {
	toks := tokens(c.Int("from", 0), c.Int("tokens", 1))
	for i := c.Int("fork", len(toks)); i < len(toks); i++ {
		toks[i] += 1000
	}
	return toks
}
